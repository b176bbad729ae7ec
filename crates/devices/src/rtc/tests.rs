use state::{DeviceState, StateError};

use super::{Rtc, RtcV1};
use crate::{BusDevice, Lifecycle, fixtures, machine_testing::touch_everything};

/// 2026-07-14 15:09:26 UTC, a Tuesday.
const NOW: i64 = 1_784_041_766;

fn rtc() -> Rtc {
    Rtc::with_clock(|| NOW)
}

fn get(rtc: &mut Rtc, register: u8) -> u8 {
    let mut data = [0];
    rtc.write(0, &[register]);
    rtc.read(1, &mut data);
    data[0]
}

fn set(rtc: &mut Rtc, register: u8, value: u8) {
    rtc.write(0, &[register]);
    rtc.write(1, &[value]);
}

/// Seconds, minutes, hours, weekday, day, month, year, century.
fn time(rtc: &mut Rtc) -> [u8; 8] {
    [0, 2, 4, 6, 7, 8, 9, 0x32].map(|register| get(rtc, register))
}

#[test]
fn the_time_is_that_of_the_host_in_bcd() {
    assert_eq!(time(&mut rtc()), [0x26, 0x09, 0x15, 3, 0x14, 0x07, 0x26, 0x20]);
}

#[test]
fn the_time_follows_the_format_that_the_guest_asks_for() {
    let mut rtc = rtc();
    set(&mut rtc, 0x0b, 0x06);
    assert_eq!(time(&mut rtc), [26, 9, 15, 3, 14, 7, 26, 20]);
    set(&mut rtc, 0x0b, 0x04);
    assert_eq!(get(&mut rtc, 4), 0x80 | 3, "15:09 is 3 in the afternoon");
}

#[test]
fn midnight_and_noon_are_12_on_a_12_hour_clock() {
    // 2026-07-14 00:00:00 and 12:00:00.
    for (clock, hours) in [((|| 1_783_987_200) as fn() -> i64, 0x12), (|| 1_784_030_400, 0x92)] {
        let mut rtc = Rtc::with_clock(clock);
        set(&mut rtc, 0x0b, 0);
        assert_eq!(get(&mut rtc, 4), hours);
    }
}

#[test]
fn the_clock_of_the_host_is_the_default() {
    let mut rtc = Rtc::new();
    set(&mut rtc, 0x0b, 0x06);
    let years = u32::from(get(&mut rtc, 0x32)) * 100 + u32::from(get(&mut rtc, 9));
    assert!((2026..2100).contains(&years), "{years}");
}

#[test]
fn the_guest_sets_the_time_while_it_stands_still() {
    let mut rtc = rtc();
    set(&mut rtc, 0x0b, 0x82);
    for (register, value) in [(0, 0x59), (2, 0x58), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x20)]
    {
        set(&mut rtc, register, value);
    }
    set(&mut rtc, 0x0b, 0x02);
    assert_eq!(time(&mut rtc), [0x59, 0x58, 0x23, 5, 0x31, 0x12, 0x99, 0x20]);
}

#[test]
fn a_date_that_does_not_exist_changes_nothing() {
    let mut rtc = rtc();
    for (register, value) in [(8, 0x13), (7, 0xff), (4, 0x24), (0, 0x60)] {
        set(&mut rtc, register, value);
    }
    assert_eq!(time(&mut rtc), time(&mut self::rtc()));
}

#[test]
fn memory_keeps_what_the_guest_writes_and_the_battery_is_good() {
    let mut rtc = rtc();
    set(&mut rtc, 0x7f, 0xa5);
    assert_eq!(get(&mut rtc, 0x7f), 0xa5);
    assert_eq!(get(&mut rtc, 0xff), 0xa5, "bit 7 of the index is not part of it");
    assert_eq!(get(&mut rtc, 0x0d), 0x80);
    assert_eq!(get(&mut rtc, 0x0a), 0x26, "an update is never in progress");
}

#[test]
fn time_and_memory_move_with_the_machine() {
    let mut source = rtc();
    set(&mut source, 0x40, 7);
    set(&mut source, 9, 0x30);
    source.write(0, &[0x40]);
    let released = fixtures::released("rtc-cmos-v1", &source.save("rtc").unwrap());
    // The destination's clock is an hour later, and it is an hour later for the guest.
    let mut moved = Rtc::with_clock(|| NOW + 3600).restored(&released).unwrap();
    let mut data = [0];
    moved.read(1, &mut data);
    assert_eq!(data, [7], "the index moved too");
    assert_eq!(time(&mut moved), [0x26, 0x09, 0x16, 1, 0x14, 0x07, 0x30, 0x20]);
}

#[test]
fn a_time_that_is_being_set_moves_with_the_machine() {
    let mut source = rtc();
    set(&mut source, 0x0b, 0x82);
    set(&mut source, 2, 0x33);
    let state = source.save("rtc").unwrap();
    let mut moved = Rtc::with_clock(|| NOW + 60).restored(&state).unwrap();
    assert_eq!(get(&mut moved, 2), 0x33);
    set(&mut moved, 0x0b, 0x02);
    assert_eq!(time(&mut moved)[..3], [0x26, 0x33, 0x15]);
}

#[test]
fn states_that_cannot_be_true_are_refused() {
    let good = RtcV1 { index: 0, memory: vec![0; 128], offset_seconds: 0 };
    for bad in [
        RtcV1 { index: 128, ..good.clone() },
        RtcV1 { memory: vec![0; 127], ..good.clone() },
        RtcV1 { offset_seconds: i64::MIN, ..good },
    ] {
        let error = Rtc::restore(&DeviceState::encode("rtc", &bad).unwrap()).unwrap_err();
        assert!(matches!(error, StateError::Invalid { .. }), "{error}");
    }
}

#[test]
fn every_access_is_taken_and_every_state_is_restored() {
    let mut rtc = rtc();
    touch_everything(&mut rtc);
    for register in 0..=255 {
        for value in 0..=255 {
            set(&mut rtc, register, value);
            get(&mut rtc, register);
        }
        Rtc::restore(&rtc.save("rtc").unwrap()).unwrap();
    }
}
