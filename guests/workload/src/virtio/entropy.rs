//! Random numbers from the host: reads some each second and counts them.

use core::fmt;

use crate::{
    console::Text,
    memory::Ram,
    report::field,
    virtio::{
        queue::{Buffer, Queue},
        transport::{Kind, Transport},
    },
};

const BYTES: usize = 64;

/// The entropy device.
#[derive(Debug)]
pub(crate) struct Entropy {
    queue: Queue,
    buffer: Buffer,
    second: u64,
    due: u64,
    bytes: u64,
    /// Requests that were answered with what was there before: all zero, or as the last time.
    stale: u64,
    last: [u8; BYTES],
}

impl Entropy {
    pub(crate) fn new(device: &Transport, ram: &mut Ram, tsc_khz: u64) -> Option<Self> {
        device.begin(Kind::Entropy, 0)?;
        let queue = device.queue(0, 1, 1, ram)?;
        device.ready();
        let buffer = Buffer::new(BYTES, ram);
        Some(Self { queue, buffer, second: tsc_khz * 1000, due: 0, bytes: 0, stale: 0, last: [0; BYTES] })
    }

    pub(crate) fn turn(&mut self, now: u64) {
        if let Some((_, length)) = self.queue.take() {
            let length = (length as usize).min(BYTES);
            let bytes = self.buffer.bytes(length);
            self.bytes += length as u64;
            let same = bytes.iter().zip(&self.last).all(|(new, old)| new == old);
            self.stale += u64::from(same && length >= 8);
            self.last[..length].copy_from_slice(bytes);
        }
        if now.wrapping_sub(self.due) < 1 << 63
            && let Some(slot) = self.queue.free_slot()
        {
            self.due = now.wrapping_add(self.second);
            self.queue.post(slot, &[self.buffer.to_write()]);
            self.queue.kick();
        }
    }

    pub(crate) fn report(&self, text: &mut Text) -> fmt::Result {
        field(text, "rng_bytes", self.bytes)?;
        field(text, "rng_stale", self.stale)
    }
}
