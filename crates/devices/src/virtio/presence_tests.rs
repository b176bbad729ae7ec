//! Devices of a machine of which memory is still to come.

use std::{mem, sync::Arc};

use parking_lot::Mutex;
use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::GuestAddress;

use super::{
    MemoryRange, Presence,
    testing::{DATA, Desc, Guest, encode, indirect, writable},
};
use crate::{IoDevice as _, rng::Rng};

type Errand = (Vec<MemoryRange>, Box<dyn FnOnce() + Send>);

/// Memory of which one range is not here.
#[derive(Default)]
struct Partial {
    absent: Mutex<Option<MemoryRange>>,
    errands: Mutex<Vec<Errand>>,
}

impl Presence for Partial {
    fn is_whole(&self) -> bool {
        self.absent.lock().is_none()
    }
    fn is_here(&self, (address, bytes): MemoryRange) -> bool {
        self.absent.lock().is_none_or(|(from, absent)| {
            address.0 + bytes as u64 <= from.0 || from.0 + absent as u64 <= address.0
        })
    }
    fn bring(&self, ranges: Vec<MemoryRange>, then: Box<dyn FnOnce() + Send>) {
        self.errands.lock().push((ranges, then));
    }
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partial").finish_non_exhaustive()
    }
}

impl Partial {
    /// A guest that runs and lacks this page.
    fn of(guest: &Guest<Rng>, address: u64) -> Arc<Self> {
        let partial = Arc::new(Self::default());
        *partial.absent.lock() = Some((GuestAddress(address), 4096));
        guest.device.lacks_memory(partial.clone());
        partial
    }

    /// The page comes. Returns what was asked for.
    fn comes(&self) -> Vec<MemoryRange> {
        self.absent.lock().take();
        let errands = mem::take(&mut *self.errands.lock());
        errands.into_iter().flat_map(|(ranges, then)| (then(), ranges).1).collect()
    }
}

fn started() -> Guest<Rng> {
    Guest::started(Rng::new(), 0)
}

#[test]
fn a_request_waits_for_its_buffer_and_those_behind_it_wait_for_their_turn() {
    let mut guest = started();
    let partial = Partial::of(&guest, DATA);
    let before = guest.submit(0, &[writable(DATA + 8192, 8)]);
    let waits = guest.submit(0, &[writable(DATA + 4090, 8)]);
    let behind = guest.submit(0, &[writable(DATA + 8192, 8)]);
    assert_eq!(guest.used(0), Some((before, 8)));
    assert_eq!(guest.used(0), None);
    assert_eq!(partial.comes(), [(GuestAddress(DATA + 4090), 8)], "it is asked for once, and nothing else");
    guest.run();
    assert_eq!((guest.used(0), guest.used(0)), (Some((waits, 8)), Some((behind, 8))));
}

#[test]
fn a_table_of_descriptors_that_is_not_here_is_not_looked_at() {
    let mut guest = started();
    let flags = VRING_DESC_F_WRITE as u16;
    guest.put(DATA, &encode(Desc { address: DATA + 8192, bytes: 8, flags, next: 0 }));
    let partial = Partial::of(&guest, DATA);
    let head = guest.submit(0, &[indirect(DATA, 16)]);
    assert_eq!(guest.used(0), None);
    assert_eq!(partial.comes(), [(GuestAddress(DATA), 16)]);
    guest.run();
    assert_eq!(guest.used(0), Some((head, 8)));
}

#[test]
fn without_its_rings_a_device_does_nothing_at_all() {
    let mut guest = started();
    // Offered before the machine moved.
    let head = guest.offer(0, &[writable(DATA, 8)]);
    let partial = Partial::of(&guest, 0);
    *partial.absent.lock() = Some((GuestAddress(0), DATA as usize));
    guest.device.kick();
    assert_eq!(guest.used(0), None);
    assert_eq!(partial.comes().len(), 3, "descriptors, driver ring and device ring");
    guest.run();
    assert_eq!(guest.used(0), Some((head, 8)));
}
