//! How the clock's registers stand for a date and time (MC146818 data sheet, "Time, calendar and alarm locations").

use jiff::civil::DateTime;

pub(super) const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
/// Where PCs keep the century; the CENTURY field of the ACPI FADT says so.
const CENTURY: u8 = 0x32;

/// Registers of the time.
pub(super) const TIME: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

/// Register B: values are binary, not BCD.
const BINARY: u8 = 1 << 2;
/// Register B: hours count to 24, not to 12 with an afternoon bit.
pub(super) const HOURS_24: u8 = 1 << 1;
/// The afternoon bit in the hours.
const AFTERNOON: u8 = 1 << 7;

/// What the register of the time `register` holds at `time`, in the format that register B (`format`) asks for.
pub(super) fn encode(register: u8, time: DateTime, format: u8) -> u8 {
    let year = time.year().unsigned_abs();
    let value = match register {
        SECONDS => time.second().unsigned_abs(),
        MINUTES => time.minute().unsigned_abs(),
        HOURS => return encode_hours(time.hour().unsigned_abs(), format),
        // Sunday is 1.
        WEEKDAY => time.weekday().to_sunday_one_offset().unsigned_abs(),
        DAY => time.day().unsigned_abs(),
        MONTH => time.month().unsigned_abs(),
        YEAR => (year % 100) as u8,
        CENTURY => (year / 100) as u8,
        _ => 0,
    };
    encode_number(value, format)
}

/// The time that the registers in `memory` stand for, if there is such a time.
pub(super) fn decode(memory: &[u8; 128], format: u8) -> Option<DateTime> {
    let number = |register: u8| decode_number(memory[usize::from(register)], format);
    let year = i16::from(number(CENTURY)?) * 100 + i16::from(number(YEAR)?);
    let field = |register: u8| Some(number(register)?.cast_signed());
    let hour = decode_hours(memory[usize::from(HOURS)], format)?.cast_signed();
    DateTime::new(year, field(MONTH)?, field(DAY)?, hour, field(MINUTES)?, field(SECONDS)?, 0).ok()
}

fn encode_hours(hour: u8, format: u8) -> u8 {
    if format & HOURS_24 != 0 {
        return encode_number(hour, format);
    }
    let afternoon = if hour >= 12 { AFTERNOON } else { 0 };
    encode_number((hour + 11) % 12 + 1, format) | afternoon
}

fn decode_hours(value: u8, format: u8) -> Option<u8> {
    if format & HOURS_24 != 0 {
        return decode_number(value, format);
    }
    let hour = decode_number(value & !AFTERNOON, format)? % 12;
    Some(if value & AFTERNOON != 0 { hour + 12 } else { hour })
}

fn encode_number(value: u8, format: u8) -> u8 {
    if format & BINARY != 0 { value } else { ((value / 10 % 10) << 4) | (value % 10) }
}

fn decode_number(value: u8, format: u8) -> Option<u8> {
    if format & BINARY != 0 {
        return (value < 100).then_some(value);
    }
    let (tens, ones) = (value >> 4, value & 0xf);
    (tens < 10 && ones < 10).then(|| tens * 10 + ones)
}
