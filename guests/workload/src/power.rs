//! Leaving: power-off and reset.

use crate::{boot, cpu};

const I8042_COMMAND: u16 = 0x64;
const I8042_PULSE_RESET: u8 = 0xfe;
const RESET_WAIT_MS: u64 = 100;

/// Writes `value` to `port`, as a byte if it is one.
pub(crate) fn off(port: u16, value: u16) {
    match u8::try_from(value) {
        Ok(value) => cpu::out8(port, value),
        Err(_) => cpu::out16(port, value),
    }
}

/// Resets by the keyboard controller, or, where there is none, by a triple fault.
pub(crate) fn reset(ticks_per_ms: u64) -> ! {
    cpu::out8(I8042_COMMAND, I8042_PULSE_RESET);
    let start = cpu::tsc();
    while cpu::tsc().wrapping_sub(start) < RESET_WAIT_MS * ticks_per_ms {
        cpu::pause();
    }
    boot::triple_fault()
}
