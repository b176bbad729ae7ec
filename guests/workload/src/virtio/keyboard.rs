//! The keyboard: prints each key that goes down, up or repeats.

use core::fmt;

use crate::{
    console::{Text, say},
    memory::Ram,
    report::field,
    virtio::{
        queue::{Buffer, Queue},
        transport::{Kind, Transport},
    },
};

const EVENTS: u32 = 0;
/// Buffers for events; what finds none is lost.
const SLOTS: u16 = 64;
/// `struct virtio_input_event`: type, code, value.
const EVENT: usize = 8;
const TYPE_KEY: u16 = 1;

/// The input device.
#[derive(Debug)]
pub(crate) struct Keyboard {
    queue: Queue,
    buffers: [Option<Buffer>; SLOTS as usize],
    keys: u64,
}

impl Keyboard {
    pub(crate) fn new(device: &Transport, ram: &mut Ram) -> Option<Self> {
        device.begin(Kind::Input, 0)?;
        let queue = device.queue(EVENTS, 1, SLOTS, ram)?;
        device.ready();
        let slots = queue.slots();
        let buffers =
            core::array::from_fn(|slot| (slot < usize::from(slots)).then(|| Buffer::new(EVENT, ram)));
        let mut keyboard = Self { queue, buffers, keys: 0 };
        for slot in 0..slots {
            keyboard.offer(slot);
        }
        keyboard.queue.kick();
        Some(keyboard)
    }

    pub(crate) fn turn(&mut self) {
        while let Some((slot, length)) = self.queue.take() {
            if let Some(buffer) = &mut self.buffers[usize::from(slot)]
                && let [a, b, c, d, e, f, g, h] = *buffer.bytes(length as usize)
                && u16::from_le_bytes([a, b]) == TYPE_KEY
            {
                self.keys += 1;
                let (code, value) = (u16::from_le_bytes([c, d]), u32::from_le_bytes([e, f, g, h]));
                say!("whimbrel key code={code} value={value}");
            }
            self.offer(slot);
        }
        self.queue.kick();
    }

    pub(crate) fn report(&self, text: &mut Text) -> fmt::Result {
        field(text, "keys", self.keys)
    }

    fn offer(&mut self, slot: u16) {
        if let Some(buffer) = &self.buffers[usize::from(slot)] {
            self.queue.post(slot, &[buffer.to_write()]);
        }
    }
}
