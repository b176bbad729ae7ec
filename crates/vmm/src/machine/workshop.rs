//! Making the devices of a machine, at power-on or from their states, and plugging them in.

use std::{io, sync::Arc};

use devices::{
    GuestMemory, Invalid, MachineRequests,
    balloon::{Balloon, Discard},
    blk::Blk,
    i8042::{self, I8042},
    input::Keyboard,
    net::Net,
    power::{self, Power},
    rng::Rng,
    rtc::{self, Rtc},
    serial::{self, Serial},
    virtio::{RestoreError, VirtioDevice, VirtioMmio},
};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use state::{DeviceState, StateError};

use super::{
    devices::Devices,
    ids,
    plug::{Plug, PlugError},
    resources::{HostResources, OpenDisk, OpenNet},
    states::{States, StatesError},
};
use crate::{arch::layout, bus::Buses, events::Events};

/// What devices are made with.
pub(crate) struct Workshop<'a> {
    pub(crate) vm: &'a VmFd,
    pub(crate) memory: &'a GuestMemory,
    pub(crate) events: &'a Events,
    pub(crate) origin: Origin<'a>,
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
    pub(crate) balloon: bool,
    pub(crate) keyboard: bool,
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
    /// The host does not say what guest memory is made of.
    #[error("The balloon cannot be made: the properties of guest memory cannot be read")]
    Balloon(#[source] io::Error),
    /// The process is out of descriptors.
    #[error("Device '{id}' cannot be made: raise the limit of open files (ulimit -n)")]
    Descriptors {
        /// Device id.
        id: String,
        /// What the system said.
        source: io::Error,
    },
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
        let rtc = self.rtc(&mut plug)?;
        let i8042 = self.i8042(&mut plug)?;
        let power = self.power(&mut plug)?;
        let disks = self.disks(&mut plug, resources.disks)?;
        let nets = self.nets(&mut plug, resources.nets)?;
        let rng = extras.rng.then(|| self.rng(&mut plug)).transpose()?;
        let balloon = extras.balloon.then(|| self.balloon(&mut plug)).transpose()?;
        let keyboard = extras.keyboard.then(|| self.keyboard(&mut plug)).transpose()?;
        let virtio_slots = plug.virtio_slots;
        let devices =
            Devices { serial, rtc, i8042, power, disks, nets, rng, balloon, keyboard, virtio_slots };
        Ok((devices, plug.buses))
    }

    fn serial(
        &mut self,
        plug: &mut Plug<'_>,
        backend: Box<dyn serial::Backend>,
    ) -> Result<Arc<Mutex<Serial>>, DeviceError> {
        let interrupt = plug.interrupt(layout::GSI_SERIAL)?;
        let serial = match self.state(ids::SERIAL)? {
            None => Serial::new(backend, interrupt),
            Some(state) => Serial::restore(backend, interrupt, &state)?,
        };
        let serial = Arc::new(Mutex::new(serial));
        plug.ports(layout::SERIAL_PORTS, serial::PORTS, serial.clone());
        Ok(serial)
    }

    fn rtc(&mut self, plug: &mut Plug<'_>) -> Result<Arc<Mutex<Rtc>>, DeviceError> {
        let rtc = match self.state(ids::RTC)? {
            None => Rtc::new(),
            Some(state) => Rtc::restore(&state)?,
        };
        let rtc = Arc::new(Mutex::new(rtc));
        plug.ports(rtc::PORT, rtc::PORTS, rtc.clone());
        Ok(rtc)
    }

    fn i8042(&mut self, plug: &mut Plug<'_>) -> Result<Arc<Mutex<I8042>>, DeviceError> {
        let requests = self.requests();
        let i8042 = match self.state(ids::I8042)? {
            None => I8042::new(requests),
            Some(state) => I8042::restore(requests, &state)?,
        };
        let i8042 = Arc::new(Mutex::new(i8042));
        plug.ports(i8042::PORT, i8042::PORTS, i8042.clone());
        Ok(i8042)
    }

    fn power(&mut self, plug: &mut Plug<'_>) -> Result<Arc<Mutex<Power>>, DeviceError> {
        let (requests, interrupt) = (self.requests(), plug.interrupt(layout::GSI_ACPI)?);
        let power = match self.state(ids::POWER)? {
            None => Power::new(requests, interrupt),
            Some(state) => Power::restore(requests, interrupt, &state)?,
        };
        let power = Arc::new(Mutex::new(power));
        plug.ports(layout::POWER_PORTS, power::PORTS, power.clone());
        Ok(power)
    }

    fn disks(
        &mut self,
        plug: &mut Plug<'_>,
        open: Vec<OpenDisk>,
    ) -> Result<Vec<VirtioMmio<Blk>>, DeviceError> {
        let disk = |(index, OpenDisk { disk, serial, .. }): (usize, OpenDisk)| {
            let watch = self.events.of_disk(index);
            let new = |state: Option<&_>| {
                let blk = match state {
                    None => Blk::new(disk, &serial),
                    Some(state) => Blk::restore(disk, &serial, state),
                };
                Ok(blk?.watched_by(watch))
            };
            self.virtio(plug, &ids::disk(index), new)
        };
        open.into_iter().enumerate().map(disk).collect()
    }

    fn nets(&mut self, plug: &mut Plug<'_>, open: Vec<OpenNet>) -> Result<Vec<VirtioMmio<Net>>, DeviceError> {
        let net = |(index, OpenNet { tap, mac }): (usize, OpenNet)| {
            let new = |state: Option<&_>| match state {
                None => Net::new(tap, mac),
                Some(state) => Net::restore(tap, state),
            };
            self.virtio(plug, &ids::net(index), new)
        };
        open.into_iter().enumerate().map(net).collect()
    }

    fn rng(&mut self, plug: &mut Plug<'_>) -> Result<VirtioMmio<Rng>, DeviceError> {
        self.virtio(plug, ids::RNG, |state| Ok(state.map_or_else(Rng::new, Rng::restore)))
    }

    fn balloon(&mut self, plug: &mut Plug<'_>) -> Result<VirtioMmio<Balloon>, DeviceError> {
        let discard = Discard::new(self.memory.clone()).map_err(DeviceError::Balloon)?;
        self.virtio(plug, ids::BALLOON, |state| {
            Ok(match state {
                None => Balloon::new(discard),
                Some(state) => Balloon::restore(discard, state),
            })
        })
    }

    fn keyboard(&mut self, plug: &mut Plug<'_>) -> Result<VirtioMmio<Keyboard>, DeviceError> {
        self.virtio(plug, ids::KEYBOARD, |state| state.map_or_else(|| Ok(Keyboard::new()), Keyboard::restore))
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

    fn requests(&self) -> Arc<dyn MachineRequests> {
        Arc::new(self.events.clone())
    }

    /// The saved state of device `id`, or none at power-on.
    fn state(&mut self, id: &str) -> Result<Option<DeviceState>, StatesError> {
        match &mut self.origin {
            Origin::PowerOn => Ok(None),
            Origin::Saved(states) => states.take(id).map(Some),
        }
    }
}
