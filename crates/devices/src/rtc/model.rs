use jiff::{Timestamp, civil::DateTime, tz::Offset};
use state::{DeviceState, StateError};

use super::{
    RtcV1,
    registers::{self, HOURS_24, SECONDS, TIME},
};
use crate::{BusDevice, Invalid, Lifecycle};

/// First I/O port.
pub const PORT: u16 = 0x70;
/// I/O ports: index and data.
pub const PORTS: u16 = 2;

const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;

/// Register A: 32768 Hz time base, 1024 Hz periodic rate. The update-in-progress bit is never set: see [`Rtc::time`].
const TIME_BASE: u8 = 0x26;
/// Register B: the guest sets the time, so it stands still.
const SET: u8 = 1 << 7;
/// Register D: the battery is good.
const VALID: u8 = 1 << 7;

/// How long the registers stay those of one moment, for a guest that reads all of them.
const READING_SECONDS: i64 = 2;

/// Offsets from the host's clock that are believed: 10,000 years.
const MAX_OFFSET_SECONDS: u64 = 10_000 * 366 * 86_400;

/// The clock and 114 bytes of memory. It has the host's time in UTC, plus what the guest changed.
///
/// There are no alarms and no interrupt: guests keep time by other means, and read this clock when they start.
#[derive(Debug)]
pub struct Rtc {
    index: u8,
    memory: [u8; 128],
    offset_seconds: i64,
    /// The time that the guest is reading, in Unix seconds, taken when it read the seconds: a reader that sees seconds
    /// and minutes of different moments would be a minute off.
    reading: i64,
    now: fn() -> i64,
}

impl Rtc {
    /// A clock with the host's time.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(|| Timestamp::now().as_second())
    }

    /// The clock as it was saved.
    ///
    /// # Errors
    /// The state is of another device, or cannot be true.
    pub fn restore(state: &DeviceState) -> Result<Self, StateError> {
        Self::new().restored(state)
    }

    /// A clock that follows `now`, which returns Unix seconds.
    pub(super) fn with_clock(now: fn() -> i64) -> Self {
        let mut memory = [0; 128];
        memory[usize::from(REGISTER_A)] = TIME_BASE;
        memory[usize::from(REGISTER_B)] = HOURS_24;
        Self { index: 0, memory, offset_seconds: 0, reading: i64::MIN, now }
    }

    pub(super) fn restored(mut self, state: &DeviceState) -> Result<Self, StateError> {
        let RtcV1 { index, memory, offset_seconds } = state.decode()?;
        let invalid = |detail: String| Invalid(detail).of::<RtcV1>(&state.id);
        let bytes = memory.len();
        self.memory = memory.try_into().map_err(|_| invalid(format!("{bytes} bytes of memory, not 128")))?;
        if index >= 128 || offset_seconds.unsigned_abs() > MAX_OFFSET_SECONDS {
            return Err(invalid(format!("index {index}, {offset_seconds} s ahead of the host")));
        }
        self.index = index;
        self.offset_seconds = offset_seconds;
        Ok(self)
    }

    /// What time it is for the guest, in Unix seconds.
    fn time(&self) -> i64 {
        (self.now)().saturating_add(self.offset_seconds)
    }

    fn format(&self) -> u8 {
        self.memory[usize::from(REGISTER_B)]
    }

    fn is_set(&self) -> bool {
        self.format() & SET != 0
    }

    fn read_register(&mut self) -> u8 {
        let stored = self.memory[usize::from(self.index)];
        match self.index {
            register if TIME.contains(&register) && !self.is_set() => {
                let time = self.time();
                let is_over = !(0..READING_SECONDS).contains(&time.saturating_sub(self.reading));
                if register == SECONDS || is_over {
                    self.reading = time;
                }
                registers::encode(register, date_time(self.reading), self.format())
            }
            // No interrupt is ever pending.
            REGISTER_C => 0,
            REGISTER_D => VALID,
            _ => stored,
        }
    }

    fn write_register(&mut self, value: u8) {
        let register = self.index;
        match register {
            REGISTER_A => self.memory[usize::from(register)] = value & 0x7f,
            REGISTER_B => self.write_format(value),
            REGISTER_C | REGISTER_D => {}
            register if TIME.contains(&register) && !self.is_set() => {
                // One field is changed while the clock runs.
                self.store_time();
                self.memory[usize::from(register)] = value;
                self.take_time();
            }
            _ => self.memory[usize::from(register)] = value,
        }
    }

    fn write_format(&mut self, value: u8) {
        if value & SET != 0 && !self.is_set() {
            self.store_time();
        }
        let takes = value & SET == 0 && self.is_set();
        self.memory[usize::from(REGISTER_B)] = value;
        if takes {
            self.take_time();
        }
    }

    /// Puts the time into the memory, for the guest to change.
    fn store_time(&mut self) {
        let time = date_time(self.time());
        for register in TIME {
            self.memory[usize::from(register)] = registers::encode(register, time, self.format());
        }
    }

    /// Goes on from the time that the guest put into the memory. A date that does not exist changes nothing.
    fn take_time(&mut self) {
        self.reading = i64::MIN;
        let Some(time) = registers::decode(&self.memory, self.format()) else { return };
        if let Ok(time) = Offset::UTC.to_timestamp(time) {
            self.offset_seconds = time.as_second().saturating_sub((self.now)());
        }
    }
}

/// Beyond the years that exist for the library, it is 1970.
fn date_time(seconds: i64) -> DateTime {
    Offset::UTC.to_datetime(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(byte) = data.first_mut() else { return };
        *byte = if offset == 0 { self.index } else { self.read_register() };
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(value) = data.first() else { return };
        if offset == 0 {
            // Bit 7 masks non-maskable interrupts, of which there are none.
            self.index = value & 0x7f;
        } else {
            self.write_register(*value);
        }
    }
}

impl Lifecycle for Rtc {
    fn save(&self, id: &str) -> Result<DeviceState, StateError> {
        let state =
            RtcV1 { index: self.index, memory: self.memory.into(), offset_seconds: self.offset_seconds };
        DeviceState::encode(id, &state)
    }

    /// A battery keeps the time and the memory; only interrupt enables are cleared, and none are kept here.
    fn reset(&mut self) {
        self.index = 0;
        self.reading = i64::MIN;
    }
}
