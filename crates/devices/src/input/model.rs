use std::collections::{BTreeSet, VecDeque};

use virtio_bindings::virtio_ids::VIRTIO_ID_INPUT;

use super::{
    EventV1, KeyboardV1, MAX_KEY, MIN_KEY,
    config::{self, EV_KEY, EV_SYN},
};
use crate::{
    Invalid, Watch,
    virtio::{Driver, GuestError, VirtioDevice, VirtioMmio, read_from},
};

const EVENTS: usize = 0;

/// Bytes of an event in the queue (spec, 5.8.6).
const EVENT_BYTES: usize = 8;

/// Events kept for a guest that does not take them. Then keys are no longer pressed, but those that are down still come
/// up, each with two events more: no key stays down for ever.
const MAX_PENDING: usize = 1024;
const MAX_RELEASES: usize = 2 * MAX_KEY as usize;

/// Events delivered, and requests of the status queue served, in one turn.
const BUDGET: usize = 64;

/// A virtio keyboard.
#[derive(Debug, Default)]
pub struct Keyboard {
    select: u8,
    subselect: u8,
    down: BTreeSet<u16>,
    pending: VecDeque<EventV1>,
}

/// A key code that the keyboard does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Key code {0} is not on the keyboard: use evdev codes {MIN_KEY} to {MAX_KEY}")]
pub struct UnknownKey(pub u16);

impl Keyboard {
    /// The features: none beside those of the transport.
    pub const FEATURES: u64 = 0;

    /// A keyboard with all keys up.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The keyboard as it was saved.
    ///
    /// # Errors
    /// There are keys or events that a keyboard does not have.
    pub fn restore(state: &KeyboardV1) -> Result<Self, Invalid> {
        let exists = |code: &u16| (MIN_KEY..=MAX_KEY).contains(code);
        let possible = |event: &EventV1| {
            *event == SYNC || (event.kind == EV_KEY && exists(&event.code) && event.value <= 1)
        };
        Invalid::unless(state.down.iter().all(exists), || "a key is down that does not exist".into())?;
        Invalid::unless(state.pending.iter().all(possible), || {
            "an event is pending that a keyboard does not make".into()
        })?;
        Invalid::unless(state.pending.len() <= MAX_PENDING + 1 + MAX_RELEASES, || {
            format!("{} events are pending", state.pending.len())
        })?;
        Ok(Self {
            select: state.select,
            subselect: state.subselect,
            down: state.down.iter().copied().collect(),
            pending: state.pending.iter().copied().collect(),
        })
    }

    fn key(&mut self, code: u16, down: bool) {
        let changes = if down {
            self.pending.len() < MAX_PENDING && self.down.insert(code)
        } else {
            self.down.remove(&code)
        };
        if changes {
            self.pending.push_back(EventV1 { kind: EV_KEY, code, value: u32::from(down) });
            self.pending.push_back(SYNC);
        }
    }

    fn deliver(&mut self, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        for _ in 0..BUDGET {
            let Some(event) = self.pending.front().copied() else { return driver.interrupt(EVENTS) };
            if let Some(chain) = driver.pop(EVENTS)? {
                if chain.writable.write(&event_bytes(event)) != EVENT_BYTES {
                    return Err(GuestError::Request("a buffer for an input event is too short"));
                }
                driver.complete(EVENTS, &[(chain.head, EVENT_BYTES as u32)])?;
                self.pending.pop_front();
            } else if !driver.listen(EVENTS)? {
                return driver.interrupt(EVENTS);
            }
        }
        driver.again(EVENTS);
        driver.interrupt(EVENTS)
    }
}

fn event_bytes(event: EventV1) -> [u8; EVENT_BYTES] {
    let mut bytes = [0; EVENT_BYTES];
    bytes[0..2].copy_from_slice(&event.kind.to_le_bytes());
    bytes[2..4].copy_from_slice(&event.code.to_le_bytes());
    bytes[4..8].copy_from_slice(&event.value.to_le_bytes());
    bytes
}

/// SYN_REPORT: what came before belongs together.
const SYNC: EventV1 = EventV1 { kind: EV_SYN, code: 0, value: 0 };

impl VirtioMmio<Keyboard> {
    /// Presses (`down`) or releases the key with this evdev code. A key that is in this position already stays there;
    /// a guest that has not taken about 500 key strokes gets no more of them.
    ///
    /// # Errors
    /// The keyboard has no such key.
    pub fn send_key(&self, code: u16, down: bool) -> Result<(), UnknownKey> {
        if !(MIN_KEY..=MAX_KEY).contains(&code) {
            return Err(UnknownKey(code));
        }
        self.with(|keyboard| keyboard.key(code, down));
        self.again(EVENTS);
        Ok(())
    }
}

impl VirtioDevice for Keyboard {
    type State = KeyboardV1;
    const DEVICE_ID: u32 = VIRTIO_ID_INPUT;
    const QUEUE_SIZES: &'static [u16] = &[64, 64];

    fn features(&self) -> u64 {
        Self::FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_from(&config::space(self.select, self.subselect), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8], _features: u64) {
        match (offset, data) {
            (0, [select]) => self.select = *select,
            (1, [subselect]) => self.subselect = *subselect,
            (0, [select, subselect]) => (self.select, self.subselect) = (*select, *subselect),
            _ => {}
        }
    }

    fn process(&mut self, queue: usize, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        if queue == EVENTS {
            return self.deliver(driver);
        }
        // Light-emitting diodes, which this keyboard does not have.
        driver.serve(queue, BUDGET, |_, _| Ok(0))
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32, _driver: &mut Driver<'_>) -> Result<(), GuestError> {
        Ok(())
    }

    fn runs_on(&mut self) {}

    fn reset(&mut self) {
        *self = Self::new();
    }

    fn save(&self) -> KeyboardV1 {
        KeyboardV1 {
            select: self.select,
            subselect: self.subselect,
            down: self.down.iter().copied().collect(),
            pending: self.pending.iter().copied().collect(),
        }
    }
}
