use std::sync::Arc;

use state::{DeviceState, StateError};
use vmm_sys_util::eventfd::EventFd;

use super::{
    EVENT_POWER_BUTTON, EVENTS, Power, PowerV1, RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS,
    SLEEP_TYPE_S5,
};
use crate::{
    BusDevice, IoDevice, Lifecycle, fixtures,
    machine_testing::{Requests, touch_everything},
};

fn power(machine: &Arc<Requests>) -> (Power, EventFd) {
    let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    (Power::new(machine.clone(), Arc::new(irq.try_clone().unwrap())), irq)
}

fn events(power: &mut Power) -> u32 {
    let mut data = [0; 4];
    power.read(EVENTS, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn the_power_button_is_one_event_and_one_interrupt() {
    let (mut power, irq) = power(&Requests::new());
    power.press_power_button();
    assert_eq!(irq.read().unwrap(), 1);
    assert_eq!(events(&mut power), EVENT_POWER_BUTTON);
    assert_eq!(events(&mut power), 0);
}

#[test]
fn only_sleep_type_5_with_sleep_enable_switches_off() {
    let machine = Requests::new();
    let (mut power, _irq) = power(&machine);
    power.write(SLEEP_CONTROL, &[SLEEP_TYPE_S5 << 2]);
    power.write(SLEEP_CONTROL, &[1 << 5 | 3 << 2]);
    assert_eq!(machine.count(), (0, 0));
    power.write(SLEEP_CONTROL, &[1 << 5 | SLEEP_TYPE_S5 << 2]);
    assert_eq!(machine.count(), (1, 0));
    let mut registers = [0xff; 2];
    power.read(SLEEP_CONTROL, &mut registers);
    assert_eq!(registers, [SLEEP_TYPE_S5 << 2, 0], "sleep enable reads as zero, and nothing ever woke");
}

#[test]
fn only_the_reset_value_resets() {
    let machine = Requests::new();
    let (mut power, _irq) = power(&machine);
    power.write(RESET, &[1]);
    power.write(SLEEP_STATUS, &[RESET_VALUE]);
    assert_eq!(machine.count(), (0, 0));
    power.write(RESET, &[RESET_VALUE]);
    assert_eq!(machine.count(), (0, 1));
}

#[test]
fn a_pressed_button_moves_with_the_machine() {
    let machine = Requests::new();
    let (mut source, _irq) = power(&machine);
    source.write(SLEEP_CONTROL, &[3 << 2]);
    source.press_power_button();
    let released = fixtures::released("acpi-power-v1", &source.save("power").unwrap());
    let irq = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let mut moved = Power::restore(machine, irq.clone(), &released).unwrap();
    moved.kick();
    assert_eq!(irq.read().unwrap(), 1);
    assert_eq!(events(&mut moved), EVENT_POWER_BUTTON);
    assert_eq!(moved.save("power").unwrap().decode::<PowerV1>().unwrap().sleep_control, 3 << 2);
}

#[test]
fn a_reset_forgets_the_button() {
    let (mut power, _irq) = power(&Requests::new());
    power.press_power_button();
    power.reset();
    assert_eq!(events(&mut power), 0);
}

#[test]
fn unknown_events_are_refused() {
    let state = DeviceState::encode("power", &PowerV1 { events: 2, sleep_control: 0 }).unwrap();
    let irq = Arc::new(EventFd::new(0).unwrap());
    let error = Power::restore(Requests::new(), irq, &state).unwrap_err();
    assert!(matches!(error, StateError::Invalid { .. }), "{error}");
}

#[test]
fn every_access_is_taken() {
    touch_everything(&mut power(&Requests::new()).0);
}
