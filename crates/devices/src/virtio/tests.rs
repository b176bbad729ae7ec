use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use state::{DeviceState, StateError};
use virtio_bindings::{
    virtio_config::*,
    virtio_mmio::*,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE},
};

use super::{
    RestoreError, TransportV1, VirtioV1, feature,
    testing::{DATA, Desc, Guest, encode, indirect, readable, writable},
};
use crate::{
    BusDevice, IoDevice,
    rng::{Rng, RngV1},
};

const RAN: u32 = VIRTIO_MMIO_INT_VRING;
const CONFIG: u32 = VIRTIO_MMIO_INT_CONFIG;

fn started() -> Guest<Rng> {
    Guest::started(Rng::new(), 0)
}

fn needs_reset(guest: &mut Guest<Rng>) -> bool {
    guest.status() & VIRTIO_CONFIG_S_NEEDS_RESET != 0
}

#[test]
fn the_identification_registers_say_virtio_version_2() {
    let mut guest = Guest::new(Rng::new());
    let identity =
        [VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_VERSION, VIRTIO_MMIO_DEVICE_ID].map(|it| guest.read(it));
    assert_eq!(identity, [u32::from_le_bytes(*b"virt"), 2, 4]);
    assert_eq!(guest.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(guest.read(VIRTIO_MMIO_SHM_BASE_HIGH), u32::MAX);
}

#[test]
fn a_request_is_served_and_announced() {
    let mut guest = started();
    let head = guest.submit(0, &[writable(DATA, 32)]);
    assert_eq!(guest.used(0), Some((head, 32)));
    assert_eq!(guest.interrupt(), Some(RAN));
    assert_eq!(guest.interrupt(), None);
}

#[test]
fn what_a_device_touches_next_is_its_rings_and_the_buffers_of_requests_that_it_still_serves() {
    assert_eq!(Guest::new(Rng::new()).device.touched_next(), [0; 0]);
    let mut guest = started();
    let first = guest.submit(0, &[writable(DATA, 8)]);
    let heads: Vec<_> = (1..20).map(|number| guest.offer(0, &[writable(DATA + number * 0x100, 8)])).collect();
    let next = guest.device.touched_next();
    let buffers: Vec<_> = next.iter().copied().filter(|address| *address >= DATA).collect();
    assert_eq!(buffers, (1..=8).map(|number| DATA + number * 0x100).collect::<Vec<_>>());
    assert_eq!(next.len(), 3 + buffers.len());
    guest.notify(0);
    for head in [first].into_iter().chain(heads) {
        assert_eq!(guest.used(0), Some((head, 8)));
    }
    // A driver that breaks the rules is not asked.
    guest.make_available(0, 9999);
    assert_eq!(guest.device.touched_next().len(), 3);
    guest.notify(0);
    assert!(needs_reset(&mut guest), "the request that breaks the rules was passed over");
}

#[test]
fn a_notification_through_the_event_is_as_good_as_through_the_register() {
    let mut guest = started();
    guest.offer(0, &[writable(DATA, 8)]);
    guest.device.queue_events()[0].write(1).unwrap();
    guest.run();
    assert!(guest.used(0).is_some());
}

#[test]
fn a_notification_register_write_is_not_served_on_the_vcpu() {
    let mut guest = started();
    guest.offer(0, &[writable(DATA, 8)]);
    guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(guest.used(0), None);
    guest.run();
    assert!(guest.used(0).is_some());
}

#[test]
fn features_that_are_not_offered_are_not_agreed_to() {
    let mut guest = Guest::new(Rng::new());
    guest.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    guest.accept(feature(VIRTIO_F_VERSION_1) | 1);
    assert_eq!(guest.status() & VIRTIO_CONFIG_S_FEATURES_OK, 0);
    guest.accept(feature(VIRTIO_F_VERSION_1));
    assert_ne!(guest.status() & VIRTIO_CONFIG_S_FEATURES_OK, 0);
}

#[test]
fn a_legacy_driver_is_not_agreed_with() {
    let mut guest = Guest::new(Rng::new());
    guest.accept(0);
    assert_eq!(guest.status() & VIRTIO_CONFIG_S_FEATURES_OK, 0);
}

#[test]
fn a_driver_is_not_ready_before_its_features_are() {
    let mut guest = Guest::new(Rng::new());
    guest.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
    assert_eq!(guest.status() & VIRTIO_CONFIG_S_DRIVER_OK, 0);
}

#[test]
fn features_stand_once_they_are_agreed() {
    let mut guest = started();
    guest.accept(0);
    let VirtioV1 { transport, .. } = guest.save().decode::<VirtioV1<RngV1>>().unwrap();
    assert_eq!(transport.driver_features, feature(VIRTIO_F_VERSION_1));
}

#[test]
fn status_zero_resets_everything() {
    let mut guest = started();
    guest.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(guest.save(), Guest::new(Rng::new()).save());
    guest.start(0);
    guest.submit(0, &[writable(DATA, 8)]);
    assert!(guest.used(0).is_some());
}

#[test]
fn a_queue_outside_of_memory_stops_the_device() {
    let mut guest = Guest::new(Rng::new());
    guest.accept(feature(VIRTIO_F_VERSION_1));
    guest.write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
    guest.set_up_queue(0, 64);
    assert!(needs_reset(&mut guest));
    assert_eq!(guest.read(VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn a_queue_size_that_is_not_possible_stops_the_device() {
    for size in [0, 3, 128] {
        let mut guest = Guest::new(Rng::new());
        guest.accept(feature(VIRTIO_F_VERSION_1));
        guest.set_up_queue(0, size);
        assert!(needs_reset(&mut guest), "size {size}");
    }
}

/// Offers descriptors that break the rules; the device has to stop, say so, and work again after a reset.
fn stops(what: &str, break_rules: impl FnOnce(&mut Guest<Rng>)) {
    let mut guest = started();
    break_rules(&mut guest);
    guest.notify(0);
    assert!(needs_reset(&mut guest), "{what}");
    assert_eq!(guest.interrupt(), Some(CONFIG), "{what}");
    guest.submit(0, &[writable(DATA, 8)]);
    assert_eq!(guest.used(0), None, "{what}: a device that needs a reset works on");
    guest.write(VIRTIO_MMIO_STATUS, 0);
    guest.start(0);
    guest.submit(0, &[writable(DATA, 8)]);
    assert!(guest.used(0).is_some(), "{what}: dead after its reset");
}

fn linked(next: u16) -> Desc {
    let flags = (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE) as u16;
    Desc { address: DATA, bytes: 8, flags, next }
}

#[test]
fn a_driver_that_breaks_the_rules_has_to_reset_the_device() {
    stops("descriptors in a loop", |guest| {
        guest.set_descriptor(0, 0, linked(1));
        guest.set_descriptor(0, 1, linked(0));
        guest.make_available(0, 0);
    });
    stops("a descriptor outside of its table", |guest| {
        guest.set_descriptor(0, 0, linked(64));
        guest.make_available(0, 0);
    });
    stops("a head outside of its table", |guest| guest.make_available(0, 64));
    stops("a buffer outside of memory", |guest| {
        guest.offer(0, &[writable(1 << 40, 8)]);
    });
    stops("a buffer past the end of memory", |guest| {
        guest.offer(0, &[writable((16 << 20) - 4, 8)]);
    });
    stops("a buffer past the end of addresses", |guest| {
        guest.offer(0, &[writable(u64::MAX - 3, 8)]);
    });
    stops("readable after writable", |guest| {
        guest.offer(0, &[writable(DATA, 8), readable(DATA, 8)]);
    });
    stops("an indirect table of half a descriptor", |guest| {
        guest.offer(0, &[indirect(DATA, 8)]);
    });
    stops("an indirect table in an indirect table", |guest| {
        guest.put(DATA, &encode(indirect(DATA, 16)));
        guest.offer(0, &[indirect(DATA, 16)]);
    });
    stops("more available than there is room", |guest| {
        for _ in 0..65 {
            guest.make_available(0, 0);
        }
    });
}

#[test]
fn requests_in_indirect_tables_are_served() {
    let mut guest = started();
    guest.put(DATA, &encode(Desc { flags: linked(1).flags, next: 1, ..writable(DATA + 0x1000, 8) }));
    guest.put(DATA + 16, &encode(writable(DATA + 0x2000, 8)));
    let head = guest.submit(0, &[indirect(DATA, 32)]);
    assert_eq!(guest.used(0), Some((head, 16)));
}

#[test]
fn a_driver_that_polls_gets_no_interrupts() {
    let mut guest = started();
    guest.set_available_flags(0, 1);
    guest.submit(0, &[writable(DATA, 8)]);
    assert!(guest.used(0).is_some());
    assert_eq!(guest.interrupt(), None);
}

#[test]
fn with_event_idx_the_driver_is_told_when_it_asked() {
    let mut guest = Guest::started(Rng::new(), feature(VIRTIO_RING_F_EVENT_IDX));
    guest.want_interrupt_at(0, 1);
    guest.submit(0, &[writable(DATA, 8)]);
    assert_eq!(guest.interrupt(), None);
    guest.submit(0, &[writable(DATA, 8)]);
    assert_eq!(guest.interrupt(), Some(RAN));
}

#[test]
fn more_requests_than_a_turn_serves_are_all_served() {
    let mut guest = started();
    for _ in 0..60 {
        guest.offer(0, &[writable(DATA, 8)]);
    }
    guest.notify(0);
    assert_eq!(std::iter::from_fn(|| guest.used(0)).count(), 60);
}

#[test]
fn one_turn_does_not_serve_more_than_its_budget() {
    let mut guest = started();
    for _ in 0..60 {
        guest.offer(0, &[writable(DATA, 8)]);
    }
    guest.device.ready(0);
    let served = std::iter::from_fn(|| guest.used(0)).count();
    assert!((1..60).contains(&served), "{served} in one turn");
}

#[test]
fn a_request_whose_notification_was_not_taken_moves_with_the_machine() {
    let mut guest = started();
    let head = guest.offer(0, &[writable(DATA, 32)]);
    guest.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    let mut moved = guest.moved(|state| Ok(Rng::restore(state)));
    assert_eq!(moved.used(0), Some((head, 32)));
    assert_eq!(moved.interrupt(), Some(RAN));
    moved.submit(0, &[writable(DATA, 8)]);
    assert!(moved.used(0).is_some());
}

#[test]
fn an_interrupt_that_was_not_acknowledged_is_raised_again() {
    let mut guest = started();
    guest.submit(0, &[writable(DATA, 8)]);
    let mut moved = guest.moved(|state| Ok(Rng::restore(state)));
    assert_eq!(moved.interrupt(), Some(RAN));
}

#[test]
fn a_device_that_needs_a_reset_still_does_so_after_a_move() {
    let mut guest = started();
    guest.make_available(0, 64);
    guest.notify(0);
    let mut moved = guest.moved(|state| Ok(Rng::restore(state)));
    assert!(needs_reset(&mut moved));
}

#[test]
fn saving_changes_nothing() {
    let mut guest = started();
    guest.offer(0, &[writable(DATA, 8)]);
    assert_eq!(guest.save(), guest.save());
    guest.device.kick();
    assert!(guest.used(0).is_some());
}

fn refused(change: impl FnOnce(&mut TransportV1)) -> String {
    let guest = started();
    let mut state: VirtioV1<RngV1> = guest.save().decode().unwrap();
    change(&mut state.transport);
    let state = DeviceState::encode("rng0", &state).unwrap();
    match guest.restored(&state, |state| Ok(Rng::restore(state))) {
        Err(RestoreError::State(error @ StateError::Invalid { .. })) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn states_that_cannot_be_true_are_refused() {
    type Change = fn(&mut TransportV1);
    let refusals: [(&str, Change); 9] = [
        ("queue size 3", |it| it.queues[0].size = 3),
        ("queue size 128", |it| it.queues[0].size = 128),
        ("not in memory", |it| it.queues[0].device_ring = 16 << 20),
        ("not in memory", |it| it.queues[0].descriptors = u64::MAX - 15),
        ("lignment", |it| it.queues[0].driver_ring += 1),
        ("0 queues", |it| it.queues.clear()),
        ("status 0x1f", |it| it.status |= 0x10),
        ("features 0x1 ", |it| it.driver_features |= 1),
        ("interrupt status", |it| it.interrupt_status = 4),
    ];
    for (sentence, change) in refusals {
        let error = refused(change);
        assert!(error.contains(sentence), "{error}");
    }
    assert!(refused(|it| it.status &= !VIRTIO_CONFIG_S_FEATURES_OK).contains("features"));
}

#[test]
fn an_interrupt_is_acknowledged_while_the_device_is_busy() {
    let guest = started();
    let mut vcpu = guest.device.clone();
    let acknowledged = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&acknowledged);
    // The device is locked as it is during a long disk request.
    guest.device.with(|_| {
        let thread = std::thread::spawn(move || {
            let mut status = [0; 4];
            vcpu.read(u64::from(VIRTIO_MMIO_INTERRUPT_STATUS), &mut status);
            vcpu.write(u64::from(VIRTIO_MMIO_INTERRUPT_ACK), &status);
            vcpu.write(u64::from(VIRTIO_MMIO_QUEUE_NOTIFY), &[0; 4]);
            done.store(true, Ordering::SeqCst);
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !acknowledged.load(Ordering::SeqCst) {
            assert!(std::time::Instant::now() < deadline, "the vCPU waits for the device");
            std::thread::yield_now();
        }
        thread.join().unwrap();
    });
}
