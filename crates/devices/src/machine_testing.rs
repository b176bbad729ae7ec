//! A machine that counts what its guest asks for.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::{BusDevice, MachineRequests};

#[derive(Debug, Default)]
pub(crate) struct Requests {
    shutdowns: AtomicU32,
    resets: AtomicU32,
}

impl Requests {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How many shutdowns and resets there were.
    pub(crate) fn count(&self) -> (u32, u32) {
        (self.shutdowns.load(Ordering::SeqCst), self.resets.load(Ordering::SeqCst))
    }
}

impl MachineRequests for Requests {
    fn shutdown(&self) {
        self.shutdowns.fetch_add(1, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

/// Accesses of every width to every offset; a device must take all of them.
pub(crate) fn touch_everything(device: &mut dyn BusDevice) {
    for offset in (0..0x20).chain([u64::from(u32::MAX), u64::MAX]) {
        for width in [0, 1, 2, 4, 8] {
            for byte in [0, 0x55, 0xff] {
                device.write(offset, &vec![byte; width]);
                device.read(offset, &mut vec![byte; width]);
            }
        }
    }
}
