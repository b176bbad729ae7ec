//! Virtio over MMIO, by polling: the devices that were asked for and found.
//!
//! No interrupt is ever taken: each device's turn looks at its used rings, which is a read of memory, and
//! leaves the device's registers alone except to notify it.

mod balloon;
mod disk;
mod entropy;
mod keyboard;
mod net;
mod queue;
mod transport;

use core::fmt;

use workload::params::Params;

use crate::{
    console::Text,
    memory::{Ram, Regions},
    shared::Setup,
};
use balloon::Balloon;
use disk::Disk;
use entropy::Entropy;
use keyboard::Keyboard;
use net::Net;
use transport::{Kind, Transport};

/// The devices that were asked for and found.
#[derive(Debug)]
pub(crate) struct Devices {
    net: Option<Net>,
    disk: Option<Disk>,
    balloon: Option<Balloon>,
    entropy: Option<Entropy>,
    keyboard: Option<Keyboard>,
}

impl Devices {
    /// Finds the first device of each kind that `params` asks for, and starts it.
    pub(crate) fn new(params: &Params, ram: &mut Ram, tsc_khz: u64) -> Self {
        let mut devices = Self { net: None, disk: None, balloon: None, entropy: None, keyboard: None };
        let wanted = params.ip.is_some() || params.disk > 0 || params.balloon || params.rng || params.keys;
        if wanted {
            transport::each(&params.devices, |kind, transport| {
                devices.start(kind, &transport, params, ram, tsc_khz);
            });
        }
        devices
    }

    fn start(&mut self, kind: Kind, device: &Transport, params: &Params, ram: &mut Ram, tsc_khz: u64) {
        match (kind, params.ip) {
            (Kind::Net, Some(ip)) if self.net.is_none() => {
                self.net = Net::new(device, ip, params.seed, ram, tsc_khz);
            }
            (Kind::Disk, _) if self.disk.is_none() && params.disk > 0 => {
                self.disk = Disk::new(device, params.seed, params.disk, ram, tsc_khz);
            }
            (Kind::Balloon, _) if self.balloon.is_none() && params.balloon => {
                self.balloon = Balloon::new(device, ram, tsc_khz);
            }
            (Kind::Entropy, _) if self.entropy.is_none() && params.rng => {
                self.entropy = Entropy::new(device, ram, tsc_khz);
            }
            (Kind::Input, _) if self.keyboard.is_none() && params.keys => {
                self.keyboard = Keyboard::new(device, ram);
            }
            _ => {}
        }
    }

    /// Memory that nobody owns: the balloon may report it as free.
    pub(crate) fn use_spare_memory(&mut self, spare: &Regions) {
        if let Some(balloon) = &mut self.balloon {
            balloon.report_free(spare);
        }
    }

    /// One turn of each.
    pub(crate) fn turn(&mut self, now: u64, filled: bool, setup: &Setup) {
        if let Some(net) = &mut self.net {
            net.turn(now);
        }
        if let Some(disk) = &mut self.disk {
            disk.turn(now);
        }
        if let Some(balloon) = &mut self.balloon
            && filled
        {
            balloon.turn(now, setup);
        }
        if let Some(entropy) = &mut self.entropy {
            entropy.turn(now);
        }
        if let Some(keyboard) = &mut self.keyboard {
            keyboard.turn();
        }
    }

    /// Adds what the devices count to the report.
    pub(crate) fn report(&self, text: &mut Text) -> fmt::Result {
        if let Some(net) = &self.net {
            net.report(text)?;
        }
        if let Some(disk) = &self.disk {
            disk.report(text)?;
        }
        if let Some(balloon) = &self.balloon {
            balloon.report(text)?;
        }
        if let Some(entropy) = &self.entropy {
            entropy.report(text)?;
        }
        self.keyboard.as_ref().map_or(Ok(()), |keyboard| keyboard.report(text))
    }
}
