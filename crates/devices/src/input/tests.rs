use proptest::prelude::*;
use state::{DeviceState, StateError};

use super::{EventV1, Keyboard, KeyboardV1, MAX_KEY, UnknownKey};
use crate::{
    IoDevice, fixtures,
    virtio::{
        RestoreError, VirtioV1,
        hostile::{endure, hostilities},
        testing::{DATA, Guest, readable, writable},
    },
};

const EVENTS: usize = 0;
const STATUS: usize = 1;
const KEY_A: u16 = 30;
const KEY_B: u16 = 48;

fn started() -> Guest<Keyboard> {
    Guest::started(Keyboard::new(), 0)
}

impl Guest<Keyboard> {
    /// Offers buffers for this many events.
    fn offer_events(&mut self, count: u64) {
        for index in 0..count {
            self.offer(EVENTS, &[writable(DATA + 8 * index, 8)]);
        }
        self.notify(EVENTS);
    }

    /// The events in the buffers that came back, which are used in order.
    fn events(&mut self) -> Vec<(u16, u16, u32)> {
        let mut events = Vec::new();
        while let Some((head, bytes)) = self.used(EVENTS) {
            assert_eq!(bytes, 8);
            let event = self.get::<8>(DATA + 8 * u64::from(head));
            let [kind, code] = [0, 2].map(|at| u16::from_le_bytes([event[at], event[at + 1]]));
            events.push((kind, code, u32::from_le_bytes([event[4], event[5], event[6], event[7]])));
        }
        events
    }

    fn press(&mut self, code: u16) {
        self.device.send_key(code, true).unwrap();
        self.device.send_key(code, false).unwrap();
        self.run();
    }

    fn select(&mut self, select: u8, subselect: u8) -> (u8, [u8; 128]) {
        self.set_config(0, &[select]);
        self.set_config(1, &[subselect]);
        (self.config::<1>(2)[0], self.config::<128>(8))
    }
}

#[test]
fn a_key_stroke_reaches_the_guest_with_an_interrupt() {
    let mut guest = started();
    guest.offer_events(8);
    guest.press(KEY_A);
    assert_eq!(guest.events(), [(1, KEY_A, 1), (0, 0, 0), (1, KEY_A, 0), (0, 0, 0)]);
    assert_eq!(guest.interrupt(), Some(1));
}

#[test]
fn keys_wait_until_the_guest_has_buffers() {
    let mut guest = started();
    guest.press(KEY_A);
    guest.press(KEY_B);
    assert_eq!(guest.events(), []);
    guest.offer_events(3);
    assert_eq!(guest.events(), [(1, KEY_A, 1), (0, 0, 0), (1, KEY_A, 0)]);
    guest.offer(EVENTS, &[writable(DATA + 24, 8)]);
    guest.offer(EVENTS, &[writable(DATA + 32, 8)]);
    guest.notify(EVENTS);
    assert_eq!(guest.events(), [(0, 0, 0), (1, KEY_B, 1)]);
}

#[test]
fn a_key_that_is_down_already_is_not_pressed_again() {
    let mut guest = started();
    guest.offer_events(8);
    guest.device.send_key(KEY_A, false).unwrap();
    guest.device.send_key(KEY_A, true).unwrap();
    guest.device.send_key(KEY_A, true).unwrap();
    guest.run();
    assert_eq!(guest.events(), [(1, KEY_A, 1), (0, 0, 0)]);
}

#[test]
fn keys_that_do_not_exist_are_refused() {
    let guest = started();
    assert_eq!(guest.device.send_key(0, true), Err(UnknownKey(0)));
    let error = guest.device.send_key(MAX_KEY + 1, true).unwrap_err();
    assert!(error.to_string().contains("249"), "{error}");
}

#[test]
fn a_guest_that_takes_no_keys_is_not_owed_more_than_some_and_none_stays_down() {
    let mut guest = started();
    for _ in 0..10_000 {
        guest.press(KEY_B);
    }
    guest.device.send_key(KEY_A, true).unwrap();
    let state: VirtioV1<KeyboardV1> = guest.save().decode().unwrap();
    assert!(state.device.pending.len() < 1100, "{} events", state.device.pending.len());
    assert!(state.device.down.is_empty(), "a key went down and its event was not kept");
    let last_key = state.device.pending.iter().rfind(|event| event.kind == 1).unwrap();
    assert_eq!(last_key.value, 0);
}

#[test]
fn the_guest_learns_what_it_talks_to() {
    let mut guest = started();
    let (bytes, name) = guest.select(1, 0);
    assert_eq!(&name[..usize::from(bytes)], b"Whimbrel Keyboard");
    assert_ne!(guest.select(2, 0).0, 0, "a serial");
    assert_eq!(guest.select(3, 0).0, 8, "identifiers");
    let (bytes, keys) = guest.select(0x11, 1);
    assert_eq!(bytes, 32);
    assert_eq!(keys[usize::from(KEY_A) / 8] & (1 << (KEY_A % 8)), 1 << (KEY_A % 8));
    assert_eq!(keys[0] & 1, 0, "key code 0 is reserved");
    for (select, subselect) in [(0, 0), (0x10, 0), (0x11, 2), (0x11, 3), (0x12, 0), (1, 1), (255, 255)] {
        assert_eq!(guest.select(select, subselect), (0, [0; 128]), "{select} {subselect}");
    }
}

#[test]
fn status_events_are_taken() {
    let mut guest = started();
    let head = guest.submit(STATUS, &[readable(DATA, 8)]);
    assert_eq!(guest.used(STATUS), Some((head, 0)));
}

#[test]
fn a_buffer_too_short_for_an_event_stops_the_device() {
    let mut guest = started();
    guest.offer(EVENTS, &[writable(DATA, 7)]);
    guest.press(KEY_A);
    assert_ne!(guest.status() & 64, 0);
}

#[test]
fn pending_keys_move_with_the_machine() {
    let mut guest = started();
    guest.select(0x11, 1);
    guest.press(KEY_A);
    guest.device.send_key(KEY_B, true).unwrap();
    guest.offer_events(1);
    assert_eq!(guest.events(), [(1, KEY_A, 1)]);
    let released = fixtures::released("virtio-input-keyboard-v1", &guest.save());
    let mut moved = guest.restored(&released, Keyboard::restore).unwrap();
    moved.device.kick();
    assert_eq!(moved.config::<3>(0), [0x11, 1, 32]);
    moved.device.send_key(KEY_B, false).unwrap();
    for index in 1..8 {
        moved.offer(EVENTS, &[writable(DATA + 8 * index, 8)]);
    }
    moved.notify(EVENTS);
    let keys: Vec<_> = moved.events().into_iter().filter(|(kind, ..)| *kind == 1).collect();
    assert_eq!(keys, [(1, KEY_A, 0), (1, KEY_B, 1), (1, KEY_B, 0)]);
}

#[test]
fn states_that_cannot_be_true_are_refused() {
    let guest = started();
    let good: VirtioV1<KeyboardV1> = guest.save().decode().unwrap();
    let event = EventV1 { kind: 1, code: KEY_A, value: 1 };
    for bad in [
        KeyboardV1 { down: vec![0], ..good.device.clone() },
        KeyboardV1 { pending: vec![EventV1 { value: 2, ..event }], ..good.device.clone() },
        KeyboardV1 { pending: vec![EventV1 { kind: 3, ..event }], ..good.device.clone() },
        KeyboardV1 { pending: vec![event; 10_000], ..good.device },
    ] {
        let state = VirtioV1 { transport: good.transport.clone(), device: bad };
        let state = DeviceState::encode("keyboard", &state).unwrap();
        let refusal = guest.restored(&state, Keyboard::restore).err().unwrap();
        assert!(matches!(refusal, RestoreError::State(StateError::Invalid { .. })), "{refusal}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_guest_breaks_it(hostilities in hostilities()) {
        let pending = vec![EventV1 { kind: 1, code: KEY_A, value: 1 }; 100];
        let busy = KeyboardV1 { select: 1, subselect: 0, down: vec![KEY_A], pending };
        endure(Keyboard::restore(&busy).unwrap(), hostilities, |state| Some(Keyboard::restore(&state).unwrap()));
    }
}
