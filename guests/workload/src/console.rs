//! The serial port: lines go into a ring, and a few bytes of it out with each turn of the loop.
//!
//! An exit to the host can cost 50 µs, so a line is never written in one go: a turn either asks the port
//! whether it is empty, or hands it the 16 bytes that its FIFO takes, by one string instruction.

use core::fmt::{self, Write};

use crate::{cpu, lock::Lock};

const COM1: u16 = 0x3f8;
const DATA: u16 = COM1;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const FIFO_CONTROL: u16 = COM1 + 2;
const LINE_CONTROL: u16 = COM1 + 3;
const LINE_STATUS: u16 = COM1 + 5;
const DATA_READY: u8 = 0x01;
const TRANSMITTER_EMPTY: u8 = 0x20;
const FIFO_BYTES: usize = 16;

/// The longest line; what is longer is cut.
pub(crate) const LINE: usize = 1024;
const RING: usize = 16384;

static RING_OUT: Lock<Ring> = Lock::new(Ring { bytes: [0; RING], start: 0, len: 0, lost: 0 });

/// Puts a line into the ring.
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::line(format_args!($($argument)*)) };
}
pub(crate) use say;

#[derive(Debug)]
struct Ring {
    bytes: [u8; RING],
    start: usize,
    len: usize,
    /// Lines that found no room.
    lost: u64,
}

impl Ring {
    fn push(&mut self, line: &[u8]) {
        if RING - self.len < line.len() {
            self.lost += 1;
            return;
        }
        for byte in line {
            self.bytes[(self.start + self.len) % RING] = *byte;
            self.len += 1;
        }
    }

    fn pop(&mut self, out: &mut [u8; FIFO_BYTES]) -> usize {
        let count = self.len.min(FIFO_BYTES);
        for byte in &mut out[..count] {
            *byte = self.bytes[self.start];
            self.start = (self.start + 1) % RING;
        }
        self.len -= count;
        count
    }
}

/// Text of a limited length; what is longer is cut.
#[derive(Debug)]
pub(crate) struct Text {
    bytes: [u8; LINE],
    len: usize,
}

impl Text {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; LINE], len: 0 }
    }

    pub(crate) fn push(&mut self, byte: u8) {
        if self.len < LINE {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("?")
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

/// Puts a line into the ring. Any CPU may.
pub(crate) fn line(arguments: fmt::Arguments<'_>) {
    let mut text = Text::new();
    // It cannot fail: what does not fit is cut.
    let _ = text.write_fmt(arguments);
    text.len = text.len.min(LINE - 2);
    text.push(b'\r');
    text.push(b'\n');
    RING_OUT.lock().push(&text.bytes[..text.len]);
}

/// Whether every line has gone out.
pub(crate) fn is_idle() -> bool {
    RING_OUT.lock().len == 0
}

/// How many lines found the ring full.
pub(crate) fn lost_lines() -> u64 {
    RING_OUT.lock().lost
}

/// Writes a line at once, past the ring and whatever else is being written: the last thing a CPU says.
pub(crate) fn last_words(arguments: fmt::Arguments<'_>) {
    let mut text = Text::new();
    let _ = text.write_fmt(arguments);
    for byte in b"\r\n".iter().chain(&text.bytes[..text.len]).chain(b"\r\n") {
        for _ in 0..1000 {
            if cpu::in8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
                break;
            }
        }
        cpu::out8(DATA, *byte);
    }
}

/// The port, as the first CPU serves it.
#[derive(Debug)]
pub(crate) struct Port {
    may_send: bool,
    has_input: bool,
    /// When to look for input next.
    look_at: u64,
    look_every: u64,
    /// No exit before.
    rest_until: u64,
}

/// Input is looked for this often: an exit each time.
const LOOK_EVERY_MS: u64 = 20;

impl Port {
    /// Sets the port up: 8 bits, FIFOs on and empty, no interrupts.
    pub(crate) fn new(ticks_per_ms: u64) -> Self {
        cpu::out8(INTERRUPT_ENABLE, 0);
        cpu::out8(LINE_CONTROL, 3);
        cpu::out8(FIFO_CONTROL, 7);
        Self {
            may_send: false,
            has_input: false,
            look_at: 0,
            look_every: ticks_per_ms * LOOK_EVERY_MS,
            rest_until: cpu::tsc(),
        }
    }

    /// One turn: at most one exit to the host. Returns a byte of input if one came.
    ///
    /// At most half of this CPU's time goes into the port: after an exit it rests for as long as that took. Some hosts
    /// need milliseconds for 16 bytes, and the memory of this CPU would never be checked.
    pub(crate) fn turn(&mut self, now: u64) -> Option<u8> {
        let rest = self.rest_until.wrapping_sub(now);
        // Also if the TSC went far back: a rest is never longer than this.
        if 0 < rest && rest <= self.look_every {
            return None;
        }
        let begun = cpu::tsc();
        let input = self.exchange(now);
        let ended = cpu::tsc();
        self.rest_until = ended.wrapping_add(ended.wrapping_sub(begun).min(self.look_every));
        input
    }

    /// Reads a byte, sends what the FIFO takes, or asks the port for what it is ready.
    fn exchange(&mut self, now: u64) -> Option<u8> {
        if self.has_input {
            self.has_input = false;
            // Where one byte came there may be more.
            self.look_at = now;
            return Some(cpu::in8(DATA));
        }
        if self.may_send {
            let mut bytes = [0; FIFO_BYTES];
            let count = RING_OUT.lock().pop(&mut bytes);
            if count > 0 {
                self.may_send = false;
                cpu::out_bytes(DATA, &bytes[..count]);
                return None;
            }
        }
        let waiting = !self.may_send && RING_OUT.lock().len > 0;
        if waiting || now.wrapping_sub(self.look_at) < 1 << 63 {
            let status = cpu::in8(LINE_STATUS);
            // A port that is not there reads as all ones.
            self.has_input = status & DATA_READY != 0 && status != 0xff;
            self.may_send = status & TRANSMITTER_EMPTY != 0;
            self.look_at = now.wrapping_add(self.look_every);
        }
        None
    }

    /// Sends all that is in the ring: for the moment before the machine goes.
    pub(crate) fn drain(&mut self) {
        for _ in 0..10 * RING {
            self.has_input = false;
            self.exchange(self.look_at.wrapping_sub(1));
            if RING_OUT.lock().len == 0 {
                return;
            }
        }
    }
}
