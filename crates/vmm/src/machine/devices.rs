//! The devices of a machine, all of them at once saved, reset and driven. [`super::workshop`] makes them.

use std::{io, sync::Arc};

use devices::{
    IoDevice, Lifecycle, Watch,
    balloon::Balloon,
    blk::Blk,
    i8042::I8042,
    input::Keyboard,
    net::Net,
    power::Power,
    rng::Rng,
    rtc::Rtc,
    serial::Serial,
    virtio::{Presence, VirtioDevice, VirtioMmio},
};
use parking_lot::Mutex;
use serde_bytes::ByteBuf;
use state::{DeviceState, StateError};
use wire::Forward;

use super::ids;
use crate::{events::Events, io_loop::IoThread, seccomp::Role};

/// All devices of a machine. The order of ids, slots and interrupt lines follows from the configuration alone, so that
/// both sides of a migration agree.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(super) serial: Arc<Mutex<Serial>>,
    pub(super) rtc: Arc<Mutex<Rtc>>,
    pub(super) i8042: Arc<Mutex<I8042>>,
    pub(super) power: Arc<Mutex<Power>>,
    pub(super) disks: Vec<VirtioMmio<Blk>>,
    pub(super) nets: Vec<VirtioMmio<Net>>,
    pub(super) rng: Option<VirtioMmio<Rng>>,
    pub(super) balloon: Option<VirtioMmio<Balloon>>,
    pub(super) keyboard: Option<VirtioMmio<Keyboard>>,
    /// How many virtio slots are in use, from the first on.
    pub(super) virtio_slots: usize,
}

impl Devices {
    /// The states of all devices.
    pub(crate) fn save(&self) -> Result<Vec<DeviceState>, StateError> {
        self.all().into_iter().map(|(id, device)| device.save(&id)).collect()
    }

    /// Memory of the machine is still to come.
    pub(super) fn lack_memory<P: Presence + 'static>(&self, presence: &Arc<P>) {
        self.disks.iter().for_each(|disk| disk.lacks_memory(presence.clone()));
        self.nets.iter().for_each(|net| net.lacks_memory(presence.clone()));
        self.rng.iter().for_each(|rng| rng.lacks_memory(presence.clone()));
        self.balloon.iter().for_each(|balloon| balloon.lacks_memory(presence.clone()));
        self.keyboard.iter().for_each(|keyboard| keyboard.lacks_memory(presence.clone()));
    }

    /// What its devices touch first when the stopped machine goes on, those before others that somebody outside waits for.
    pub(super) fn touched_next(&self) -> Vec<u64> {
        let nets = self.nets.iter().flat_map(VirtioMmio::touched_next);
        nets.chain(self.disks.iter().flat_map(VirtioMmio::touched_next)).collect()
    }

    /// What has come for network cards and was not delivered, at most so many bytes of all together.
    pub(super) fn undelivered(&self, most: usize) -> Vec<Forward> {
        let mut left = most;
        let mut take = |(index, net): (usize, &VirtioMmio<Net>)| {
            let forward = Forward::new(ids::net(index), net.take_waiting(left));
            left = left.saturating_sub(forward.bytes());
            forward
        };
        self.nets.iter().enumerate().map(&mut take).collect()
    }

    /// Gives that to the network card of this id. Returns how many packets it has taken.
    pub(super) fn deliver(&self, forward: Forward) -> usize {
        let found = self.nets.iter().enumerate().find(|(index, _)| ids::net(*index) == forward.device);
        let Some((_, net)) = found else { return 0 };
        if forward.is_end() {
            net.no_packets_follow();
            return 0;
        }
        net.forward(forward.packets.into_iter().map(ByteBuf::into_vec))
    }

    /// Puts all devices into their condition after power-on.
    pub(crate) fn reset(&self) {
        self.all().into_iter().for_each(|(_, mut device)| device.reset());
    }

    /// Starts the threads that work for the devices, parked: one for each disk, as a disk may make its thread wait, and
    /// one for all others.
    pub(crate) fn threads(&self, events: &Events) -> io::Result<Vec<IoThread>> {
        let mut common: Vec<Box<dyn IoDevice>> = vec![Box::new(Locked(self.serial.clone()))];
        common.push(Box::new(PowerKick(self.power.clone())));
        common.extend(self.nets.iter().map(|net| Box::new(net.clone()) as _));
        common.extend(self.rng.iter().map(|rng| Box::new(rng.clone()) as _));
        common.extend(self.balloon.iter().map(|balloon| Box::new(balloon.clone()) as _));
        common.extend(self.keyboard.iter().map(|keyboard| Box::new(keyboard.clone()) as _));
        let disks = self.disks.iter().enumerate();
        let disks = disks.map(|(index, disk)| {
            IoThread::spawn(&ids::disk(index), Role::Disk, vec![Box::new(disk.clone())], events.clone())
        });
        std::iter::once(IoThread::spawn("io", Role::Io, common, events.clone())).chain(disks).collect()
    }

    /// All devices with their ids.
    fn all(&self) -> Vec<(String, Box<dyn Lifecycle + '_>)> {
        let mut all: Vec<(String, Box<dyn Lifecycle + '_>)> = vec![
            (ids::SERIAL.into(), Box::new(Locked(self.serial.clone()))),
            (ids::RTC.into(), Box::new(Locked(self.rtc.clone()))),
            (ids::I8042.into(), Box::new(Locked(self.i8042.clone()))),
            (ids::POWER.into(), Box::new(Locked(self.power.clone()))),
        ];
        all.extend(numbered(ids::disk, &self.disks));
        all.extend(numbered(ids::net, &self.nets));
        all.extend(numbered(|_| ids::RNG.into(), &self.rng));
        all.extend(numbered(|_| ids::BALLOON.into(), &self.balloon));
        all.extend(numbered(|_| ids::KEYBOARD.into(), &self.keyboard));
        all
    }
}

fn numbered<'a, D: VirtioDevice>(
    id: impl Fn(usize) -> String + 'a,
    devices: impl IntoIterator<Item = &'a VirtioMmio<D>>,
) -> impl Iterator<Item = (String, Box<dyn Lifecycle + 'a>)> {
    let devices = devices.into_iter().enumerate();
    devices.map(move |(index, device)| (id(index), Box::new(device.clone()) as _))
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
