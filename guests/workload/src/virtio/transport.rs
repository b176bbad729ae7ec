//! The registers of a device (virtio 1.2, 4.2.2), and finding the devices.

use crate::{console::say, cpu::Mmio, memory::Ram, virtio::queue::Queue};

/// Where QEMU's microvm and Whimbrel have their devices.
const FIRST_SLOT: u64 = 0xfeb0_0000;
const SLOT: u64 = 0x200;
const SLOTS: u64 = 32;
/// What `boot.S` maps for device registers.
const MAPPED: core::ops::Range<u64> = 0xfe00_0000..0x1_0000_0000;

const MAGIC: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SELECT: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const STATUS: u64 = 0x070;
const QUEUE_DESCRIPTORS: u64 = 0x080;
const QUEUE_DRIVER: u64 = 0x090;
const QUEUE_DEVICE: u64 = 0x0a0;
const CONFIG_GENERATION: u64 = 0x0fc;
const CONFIG: u64 = 0x100;

const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
const MODERN: u32 = 2;
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const FEATURE_VERSION_1: u64 = 1 << 32;
/// Resetting a device can take a while; this is in register reads.
const RESET_TRIES: u32 = 1000;

/// The kinds of devices that we can drive (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Net,
    Disk,
    Entropy,
    Balloon,
    Input,
}

impl Kind {
    fn new(id: u32) -> Option<Self> {
        match id {
            1 => Some(Kind::Net),
            2 => Some(Kind::Disk),
            4 => Some(Kind::Entropy),
            5 => Some(Kind::Balloon),
            18 => Some(Kind::Input),
            _ => None,
        }
    }
}

/// A device's registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transport {
    regs: Mmio,
    base: u64,
}

/// Calls `found` with each device in the usual slots and at the places in `named`.
pub(crate) fn each(named: &[Option<u64>], mut found: impl FnMut(Kind, Transport)) {
    let is_slot = |base: u64| (FIRST_SLOT..FIRST_SLOT + SLOTS * SLOT).contains(&base);
    let slots = (0..SLOTS).map(|slot| FIRST_SLOT + slot * SLOT);
    for base in slots.chain(named.iter().flatten().copied().filter(|base| !is_slot(*base))) {
        if !MAPPED.contains(&base) || !MAPPED.contains(&(base + SLOT - 1)) || base % 4 != 0 {
            say!("whimbrel warning device-out-of-reach base={base:#x}");
            continue;
        }
        // SAFETY: mapped, uncached, and device registers or nothing, as was just checked.
        let device = Transport { regs: unsafe { Mmio::new(base) }, base };
        if device.regs.read(MAGIC) != MAGIC_VALUE {
            continue;
        }
        let Some(kind) = Kind::new(device.regs.read(DEVICE_ID)) else { continue };
        let version = device.regs.read(VERSION);
        if version == MODERN {
            found(kind, device);
        } else {
            say!("whimbrel warning legacy-virtio-device kind={kind:?} base={base:#x} version={version}");
        }
    }
}

impl Transport {
    /// Resets the device and agrees on features: those of `wanted` that it has. `None`, with a line about it,
    /// if it does not agree.
    pub(crate) fn begin(&self, kind: Kind, wanted: u64) -> Option<Features> {
        let regs = self.regs;
        regs.write(STATUS, 0);
        if (0..RESET_TRIES).all(|_| regs.read(STATUS) != 0) {
            say!("whimbrel warning device-does-not-reset kind={kind:?} base={:#x}", self.base);
            return None;
        }
        regs.write(STATUS, ACKNOWLEDGE);
        regs.write(STATUS, ACKNOWLEDGE | DRIVER);
        let mut offered = 0;
        for half in 0..2 {
            regs.write(DEVICE_FEATURES_SELECT, half);
            offered |= u64::from(regs.read(DEVICE_FEATURES)) << (32 * half);
        }
        let accepted = offered & (wanted | FEATURE_VERSION_1);
        for half in 0..2 {
            regs.write(DRIVER_FEATURES_SELECT, half);
            regs.write(DRIVER_FEATURES, (accepted >> (32 * half)) as u32);
        }
        regs.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if accepted & FEATURE_VERSION_1 == 0 || regs.read(STATUS) & FEATURES_OK == 0 {
            say!("whimbrel warning device-refuses-features kind={kind:?} offered={offered:#x}");
            return None;
        }
        say!("whimbrel device kind={kind:?} base={:#x} features={accepted:#x}", self.base);
        Some(Features { offered, accepted })
    }

    /// Sets queue `index` up for requests of `chain` parts each, `slots` of them at once if the device lets
    /// that many. `None` if the device has no such queue.
    pub(crate) fn queue(&self, index: u32, chain: u16, slots: u16, ram: &mut Ram) -> Option<Queue> {
        let regs = self.regs;
        regs.write(QUEUE_SELECT, index);
        let most = u16::try_from(regs.read(QUEUE_SIZE_MAX)).unwrap_or(u16::MAX);
        let size = (chain * slots).next_power_of_two().min(largest_power_of_two(most)?);
        let queue = Queue::new(*self, index, chain, size, ram)?;
        regs.write(QUEUE_SIZE, u32::from(size));
        let [descriptors, driver, device] = queue.addresses();
        let places = [(QUEUE_DESCRIPTORS, descriptors), (QUEUE_DRIVER, driver), (QUEUE_DEVICE, device)];
        for (register, address) in places {
            regs.write(register, address as u32);
            regs.write(register + 4, (address >> 32) as u32);
        }
        regs.write(QUEUE_READY, 1);
        Some(queue)
    }

    /// All queues are set up: go.
    pub(crate) fn ready(&self) {
        self.regs.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Tells the device that there is something in queue `index`.
    pub(crate) fn notify(&self, index: u32) {
        self.regs.write(QUEUE_NOTIFY, index);
    }

    /// Four bytes of the device's configuration.
    pub(crate) fn config(&self, offset: u64) -> u32 {
        self.regs.read(CONFIG + offset)
    }

    /// Eight bytes of the device's configuration, that belong together.
    pub(crate) fn config_u64(&self, offset: u64) -> u64 {
        loop {
            let generation = self.regs.read(CONFIG_GENERATION);
            let value = u64::from(self.config(offset)) | u64::from(self.config(offset + 4)) << 32;
            if self.regs.read(CONFIG_GENERATION) == generation {
                return value;
            }
        }
    }

    /// Writes four bytes of the device's configuration.
    pub(crate) fn set_config(&self, offset: u64, value: u32) {
        self.regs.write(CONFIG + offset, value);
    }
}

fn largest_power_of_two(number: u16) -> Option<u16> {
    number.checked_ilog2().map(|bits| 1 << bits)
}

/// Features by their bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    /// What the device has.
    pub(crate) offered: u64,
    /// What is in use.
    pub(crate) accepted: u64,
}

impl Features {
    pub(crate) fn has(&self, bit: u32) -> bool {
        self.accepted & (1 << bit) != 0
    }
}
