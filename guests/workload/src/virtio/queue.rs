//! A split virtqueue (virtio 1.2, 2.7), for requests that all have the same number of parts.
//!
//! Request slot `s` always uses the descriptors from `s * chain` on, so there is no free list to keep, and
//! what the device hands back is easily checked.

use core::{
    ptr,
    sync::atomic::{Ordering, fence},
};

use crate::{memory::Ram, virtio::transport::Transport};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;
/// Slots are kept in the bits of a word.
const MAX_SLOTS: u16 = 64;

#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

#[repr(C)]
struct Used {
    id: u32,
    length: u32,
}

/// One part of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) length: u32,
    /// Whether the device writes it; otherwise it reads it.
    pub(crate) for_device_to_write: bool,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    device: Transport,
    index: u32,
    chain: u16,
    slots: u16,
    size: u16,
    descriptors: u64,
    driver: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
    /// A bit for each slot that the device has.
    in_flight: u64,
    unnotified: bool,
}

impl Queue {
    pub(super) fn new(device: Transport, index: u32, chain: u16, size: u16, ram: &mut Ram) -> Option<Self> {
        let slots = (size / chain).min(MAX_SLOTS);
        if slots == 0 {
            return None;
        }
        let queue = Self {
            device,
            index,
            chain,
            slots,
            size,
            descriptors: ram.take(16 * u64::from(size), 16),
            driver: ram.take(6 + 2 * u64::from(size), 2),
            used: ram.take(6 + 8 * u64::from(size), 4),
            next_available: 0,
            next_used: 0,
            in_flight: 0,
            unnotified: false,
        };
        queue.write(queue.driver, NO_INTERRUPT);
        Some(queue)
    }

    pub(super) fn addresses(&self) -> [u64; 3] {
        [self.descriptors, self.driver, self.used]
    }

    /// How many requests the queue takes.
    pub(crate) fn slots(&self) -> u16 {
        self.slots
    }

    /// How many requests the device has.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.count_ones()
    }

    /// A slot that the device does not have.
    pub(crate) fn free_slot(&self) -> Option<u16> {
        let slot = (!self.in_flight).trailing_zeros() as u16;
        (slot < self.slots).then_some(slot)
    }

    /// Gives the device a request in a free slot, of at most as many parts as the queue was made for. It may
    /// not notice before [`Queue::kick`].
    pub(crate) fn post(&mut self, slot: u16, parts: &[Part]) {
        let first = slot * self.chain;
        let parts = &parts[..parts.len().min(usize::from(self.chain))];
        for (offset, part) in (0..).zip(parts) {
            let is_last = usize::from(offset) + 1 == parts.len();
            let flags = if is_last { 0 } else { NEXT } | if part.for_device_to_write { WRITE } else { 0 };
            let number = first + offset;
            let descriptor =
                Descriptor { address: part.address, length: part.length, flags, next: number + 1 };
            self.write(self.descriptors + 16 * u64::from(number), descriptor);
        }
        self.write(self.driver + 4 + 2 * u64::from(self.next_available % self.size), first);
        self.next_available = self.next_available.wrapping_add(1);
        self.in_flight |= 1 << slot;
        // The device may look as soon as it sees the new index: everything else first.
        fence(Ordering::SeqCst);
        self.write(self.driver + 2, self.next_available);
        self.unnotified = true;
    }

    /// Makes sure that the device sees what was posted.
    pub(crate) fn kick(&mut self) {
        if !self.unnotified {
            return;
        }
        self.unnotified = false;
        fence(Ordering::SeqCst);
        if self.read::<u16>(self.used) & NO_NOTIFY == 0 {
            self.device.notify(self.index);
        }
    }

    /// Takes back a request that the device is done with: its slot, and how many bytes it wrote. Whatever the
    /// device says that cannot be is passed over.
    pub(crate) fn take(&mut self) -> Option<(u16, u32)> {
        while self.read::<u16>(self.used + 2) != self.next_used {
            fence(Ordering::SeqCst);
            let used: Used = self.read(self.used + 4 + 8 * u64::from(self.next_used % self.size));
            self.next_used = self.next_used.wrapping_add(1);
            let chain = u32::from(self.chain);
            let slot = used.id / chain;
            if used.id.is_multiple_of(chain)
                && slot < u32::from(self.slots)
                && self.in_flight & (1 << slot) != 0
            {
                self.in_flight &= !(1 << slot);
                return Some((slot as u16, used.length));
            }
        }
        None
    }

    fn read<T>(&self, address: u64) -> T {
        // SAFETY: all addresses used are inside the queue's own memory, and plain numbers.
        unsafe { ptr::read_volatile(address as *const T) }
    }

    fn write<T>(&self, address: u64, value: T) {
        // SAFETY: as for `read`.
        unsafe { ptr::write_volatile(address as *mut T, value) }
    }
}

/// Memory that a device and we use in turn.
#[derive(Debug)]
pub(crate) struct Buffer {
    address: u64,
    length: usize,
}

impl Buffer {
    /// Takes `length` bytes, at most a page, that do not cross into another page.
    pub(crate) fn new(length: usize, ram: &mut Ram) -> Self {
        Self { address: ram.take(length as u64, length.next_power_of_two() as u64), length }
    }

    /// All of it, or as much as the device wrote, as we have it between two requests.
    pub(crate) fn bytes(&mut self, length: usize) -> &mut [u8] {
        fence(Ordering::SeqCst);
        // SAFETY: taken by `new` for this alone. A device that writes it outside of a request would change
        // numbers under us, which are checked where they matter and are no references.
        unsafe { core::slice::from_raw_parts_mut(self.address as *mut u8, length.min(self.length)) }
    }

    /// As a page of words. The buffer must be a page long.
    pub(crate) fn words(&mut self) -> &mut [u64; 512] {
        assert!(self.length == 4096, "a buffer of {} bytes is no page", self.length);
        fence(Ordering::SeqCst);
        // SAFETY: as for `bytes`; a page is aligned to a page.
        unsafe { &mut *(self.address as *mut [u64; 512]) }
    }

    /// As a part for the device to read.
    pub(crate) fn to_read(&self, length: usize) -> Part {
        Part { address: self.address, length: length as u32, for_device_to_write: false }
    }

    /// As a part for the device to write.
    pub(crate) fn to_write(&self) -> Part {
        Part { address: self.address, length: self.length as u32, for_device_to_write: true }
    }
}
