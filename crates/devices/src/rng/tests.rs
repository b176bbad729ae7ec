use proptest::prelude::*;

use super::Rng;
use crate::{
    fixtures,
    virtio::{
        hostile::{endure, hostilities},
        testing::{DATA, Guest, writable},
    },
};

#[test]
fn all_parts_of_a_buffer_are_filled_with_different_bytes() {
    let mut guest = Guest::started(Rng::new(), 0);
    let head = guest.submit(0, &[writable(DATA, 1000), writable(DATA + 0x3000, 24)]);
    assert_eq!(guest.used(0), Some((head, 1024)));
    let (first, second) = (guest.get::<1000>(DATA), guest.get::<24>(DATA + 0x3000));
    // Each chunk is all zeroes, or equal to another, once in 2^64 runs.
    let chunks: std::collections::HashSet<_> = first.chunks_exact(8).chain(second.chunks_exact(8)).collect();
    assert_eq!(chunks.len(), 128);
    assert!(!chunks.contains([0; 8].as_slice()));
}

#[test]
fn a_huge_request_gets_a_short_answer() {
    let mut guest = Guest::started(Rng::new(), 0);
    let head = guest.submit(0, &[writable(DATA, 8 << 20)]);
    assert_eq!(guest.used(0), Some((head, 64 << 10)));
}

#[test]
fn a_request_that_leaves_no_room_gets_nothing() {
    let mut guest = Guest::started(Rng::new(), 0);
    let head = guest.submit(0, &[writable(DATA, 0)]);
    assert_eq!(guest.used(0), Some((head, 0)));
}

#[test]
fn the_released_v1_state_goes_on() {
    let mut guest = Guest::started(Rng::new(), 0);
    guest.submit(0, &[writable(DATA, 8)]);
    guest.used(0);
    let head = guest.offer(0, &[writable(DATA, 8)]);
    let released = fixtures::released("virtio-rng-v1", &guest.save());
    let mut moved = guest.restored(&released, |state| Ok(Rng::restore(state))).unwrap();
    crate::IoDevice::kick(&mut moved.device);
    assert_eq!(moved.used(0), Some((head, 8)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_guest_breaks_it(hostilities in hostilities()) {
        endure(Rng::new(), hostilities, |state| Some(Rng::restore(&state)));
    }
}
