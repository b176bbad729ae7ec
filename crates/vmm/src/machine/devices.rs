//! The devices of a machine: made at power-on or from their states, and all of them at once saved, reset, driven.

use std::{io, sync::Arc};

use devices::{
    GuestMemory, Invalid, IoDevice, Lifecycle, MachineRequests, Watch,
    blk::Blk,
    i8042::{self, I8042},
    net::Net,
    power::{self, Power},
    rng::Rng,
    serial::{self, Serial},
    virtio::{RestoreError, VirtioDevice, VirtioMmio},
};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use state::{DeviceState, StateError};

use super::{
    plug::{Plug, PlugError},
    resources::HostResources,
    states::{States, StatesError},
};
use crate::{arch::layout, bus::Buses, disk_lock::DiskLock, io_loop::IoThread};

/// All devices of a machine. The order of ids, slots and interrupt lines follows from the configuration alone, so that
/// both sides of a migration agree.
#[derive(Debug)]
pub(crate) struct Devices {
    serial: Arc<Mutex<Serial>>,
    i8042: Arc<Mutex<I8042>>,
    pub(crate) power: Arc<Mutex<Power>>,
    pub(crate) disks: Vec<VirtioMmio<Blk>>,
    pub(crate) nets: Vec<VirtioMmio<Net>>,
    rng: Option<VirtioMmio<Rng>>,
    pub(crate) locks: Vec<DiskLock>,
    /// How many virtio slots are in use, from the first on.
    pub(crate) virtio_slots: usize,
}

/// Where the devices begin.
pub(crate) enum Origin<'a> {
    /// After power-on.
    PowerOn,
    /// As they were saved.
    Saved(&'a mut States),
}

/// Which devices a machine has besides those that its host resources imply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extras {
    pub(crate) rng: bool,
}

/// Why the devices could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no place for one.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// States are missing or cannot be read.
    #[error(transparent)]
    States(#[from] StatesError),
    /// A state is not one of its device.
    #[error(transparent)]
    State(#[from] StateError),
    /// A virtio device could not be restored.
    #[error(transparent)]
    Virtio(#[from] RestoreError),
    /// A device was given something it cannot work with.
    #[error("Device '{id}' cannot be made")]
    Invalid {
        /// Device id.
        id: String,
        /// What is wrong.
        source: Invalid,
    },
    /// The process is out of descriptors.
    #[error("Device '{id}' cannot be made: raise the limit of open files (ulimit -n)")]
    Descriptors {
        /// Device id.
        id: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What devices are made with.
pub(crate) struct Workshop<'a> {
    pub(crate) vm: &'a VmFd,
    pub(crate) memory: &'a GuestMemory,
    pub(crate) requests: Arc<dyn MachineRequests>,
    pub(crate) origin: Origin<'a>,
}

impl Workshop<'_> {
    /// Makes all devices, and the buses with them plugged in.
    pub(crate) fn make(
        mut self,
        resources: HostResources,
        extras: Extras,
    ) -> Result<(Devices, Buses), DeviceError> {
        let mut plug = Plug::new(self.vm);
        let serial = self.serial(&mut plug, resources.serial)?;
        let i8042 = self.i8042(&mut plug)?;
        let power = self.power(&mut plug)?;
        let (mut disks, mut locks) = (Vec::new(), Vec::new());
        for (index, open) in resources.disks.into_iter().enumerate() {
            let new = |state: Option<&_>| match state {
                None => Blk::new(open.disk, &open.serial),
                Some(state) => Blk::restore(open.disk, &open.serial, state),
            };
            disks.push(self.virtio(&mut plug, &format!("disk{index}"), new)?);
            locks.push(open.lock);
        }
        let mut nets = Vec::new();
        for (index, open) in resources.nets.into_iter().enumerate() {
            let new = |state: Option<&_>| match state {
                None => Net::new(open.tap, open.mac),
                Some(state) => Net::restore(open.tap, open.mac, state),
            };
            nets.push(self.virtio(&mut plug, &format!("net{index}"), new)?);
        }
        let rng = if extras.rng {
            let new = |state: Option<&_>| Ok(state.map_or_else(Rng::new, Rng::restore));
            Some(self.virtio(&mut plug, "rng0", new)?)
        } else {
            None
        };
        let virtio_slots = plug.virtio_slots;
        Ok((Devices { serial, i8042, power, disks, nets, rng, locks, virtio_slots }, plug.buses))
    }

    fn serial(
        &mut self,
        plug: &mut Plug<'_>,
        backend: Box<dyn serial::Backend>,
    ) -> Result<Arc<Mutex<Serial>>, DeviceError> {
        let interrupt = plug.interrupt(layout::GSI_SERIAL)?;
        let serial = match self.state("serial0")? {
            None => Serial::new(backend, interrupt),
            Some(state) => Serial::restore(backend, interrupt, &state)?,
        };
        let serial = Arc::new(Mutex::new(serial));
        plug.ports(layout::SERIAL_PORTS, serial::PORTS, serial.clone());
        Ok(serial)
    }

    fn i8042(&mut self, plug: &mut Plug<'_>) -> Result<Arc<Mutex<I8042>>, DeviceError> {
        let requests = self.requests.clone();
        let i8042 = match self.state("i8042")? {
            None => I8042::new(requests),
            Some(state) => I8042::restore(requests, &state)?,
        };
        let i8042 = Arc::new(Mutex::new(i8042));
        plug.ports(i8042::PORT, i8042::PORTS, i8042.clone());
        Ok(i8042)
    }

    fn power(&mut self, plug: &mut Plug<'_>) -> Result<Arc<Mutex<Power>>, DeviceError> {
        let (requests, interrupt) = (self.requests.clone(), plug.interrupt(layout::GSI_ACPI)?);
        let power = match self.state("power0")? {
            None => Power::new(requests, interrupt),
            Some(state) => Power::restore(requests, interrupt, &state)?,
        };
        let power = Arc::new(Mutex::new(power));
        plug.ports(layout::POWER_PORTS, power::PORTS, power.clone());
        Ok(power)
    }

    fn virtio<D: VirtioDevice>(
        &mut self,
        plug: &mut Plug<'_>,
        id: &str,
        device: impl FnOnce(Option<&D::State>) -> Result<D, Invalid>,
    ) -> Result<VirtioMmio<D>, DeviceError> {
        let slot = plug.slot()?;
        let (memory, interrupt) = (self.memory.clone(), slot.interrupt.clone());
        let device = match self.state(id)? {
            Some(state) => VirtioMmio::restore(&state, memory, interrupt, |state| device(Some(state)))?,
            None => {
                let device = device(None).map_err(|source| DeviceError::Invalid { id: id.into(), source })?;
                VirtioMmio::new(device, memory, interrupt)
                    .map_err(|source| DeviceError::Descriptors { id: id.into(), source })?
            }
        };
        plug.virtio(&slot, &device)?;
        Ok(device)
    }

    /// The saved state of device `id`, or none at power-on.
    fn state(&mut self, id: &str) -> Result<Option<DeviceState>, StatesError> {
        match &mut self.origin {
            Origin::PowerOn => Ok(None),
            Origin::Saved(states) => states.take(id).map(Some),
        }
    }
}

impl Devices {
    /// The states of all devices.
    pub(crate) fn save(&self) -> Result<Vec<DeviceState>, StateError> {
        self.all().into_iter().map(|(id, device)| device.save(&id)).collect()
    }

    /// Puts all devices into their condition after power-on.
    pub(crate) fn reset(&self) {
        self.all().into_iter().for_each(|(_, mut device)| device.reset());
    }

    /// Starts the threads that work for the devices, parked: one for each disk, as a disk may make its thread wait, and
    /// one for all others.
    pub(crate) fn threads(&self) -> io::Result<Vec<IoThread>> {
        let mut common: Vec<Box<dyn IoDevice>> = vec![Box::new(Locked(self.serial.clone()))];
        common.push(Box::new(PowerKick(self.power.clone())));
        common.extend(self.nets.iter().map(|net| Box::new(net.clone()) as _));
        common.extend(self.rng.iter().map(|rng| Box::new(rng.clone()) as _));
        let disks = self.disks.iter().enumerate();
        let disks =
            disks.map(|(index, disk)| IoThread::spawn(&format!("disk{index}"), vec![Box::new(disk.clone())]));
        std::iter::once(IoThread::spawn("io", common)).chain(disks).collect()
    }

    /// All devices with their ids.
    fn all(&self) -> Vec<(String, Box<dyn Lifecycle + '_>)> {
        let mut all: Vec<(String, Box<dyn Lifecycle + '_>)> = vec![
            ("serial0".into(), Box::new(Locked(self.serial.clone()))),
            ("i8042".into(), Box::new(Locked(self.i8042.clone()))),
            ("power0".into(), Box::new(Locked(self.power.clone()))),
        ];
        all.extend(numbered("disk", &self.disks));
        all.extend(numbered("net", &self.nets));
        all.extend(numbered("rng", &self.rng));
        all
    }
}

fn numbered<'a, D: VirtioDevice>(
    name: &'a str,
    devices: impl IntoIterator<Item = &'a VirtioMmio<D>>,
) -> impl Iterator<Item = (String, Box<dyn Lifecycle + 'a>)> {
    let devices = devices.into_iter().enumerate();
    devices.map(move |(index, device)| (format!("{name}{index}"), Box::new(device.clone()) as _))
}

/// A device that is not a handle by itself, shared between the bus, its thread and the machine.
struct Locked<D>(Arc<Mutex<D>>);

impl<D: Lifecycle> Lifecycle for Locked<D> {
    fn save(&self, id: &str) -> Result<DeviceState, StateError> {
        self.0.lock().save(id)
    }
    fn reset(&mut self) {
        self.0.lock().reset();
    }
}

impl<D: IoDevice> IoDevice for Locked<D> {
    fn watches(&self) -> Vec<Watch> {
        self.0.lock().watches()
    }
    fn ready(&mut self, token: u32) {
        self.0.lock().ready(token);
    }
    fn kick(&mut self) {
        self.0.lock().kick();
    }
}

/// The power device works on no descriptors, but an event of it may be pending when the machine resumes.
struct PowerKick(Arc<Mutex<Power>>);

impl IoDevice for PowerKick {
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }
    fn ready(&mut self, _token: u32) {}
    fn kick(&mut self) {
        self.0.lock().kick();
    }
}
