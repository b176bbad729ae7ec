use super::I8042;
use crate::{
    BusDevice, Lifecycle, fixtures,
    machine_testing::{Requests, touch_everything},
};

#[test]
fn the_reset_command_resets_the_machine() {
    let machine = Requests::new();
    let mut i8042 = I8042::new(machine.clone());
    i8042.write(4, &[0xfe]);
    assert_eq!(machine.count(), (0, 1));
}

#[test]
fn other_commands_and_data_do_not() {
    let machine = Requests::new();
    let mut i8042 = I8042::new(machine.clone());
    i8042.write(4, &[0xaa]);
    i8042.write(0, &[0xfe]);
    assert_eq!(machine.count(), (0, 0));
}

#[test]
fn a_linux_driver_finds_nobody_and_does_not_wait_to_reset() {
    let mut i8042 = I8042::new(Requests::new());
    // i8042_flush: 17 reads with the output buffer full mean that there is no controller.
    for _ in 0..17 {
        let mut status = [0];
        i8042.read(4, &mut status);
        assert_eq!(status[0] & 1, 1);
        assert_eq!(status[0] & 2, 0, "kb_wait would wait");
        i8042.read(0, &mut status);
    }
}

#[test]
fn every_access_is_taken() {
    touch_everything(&mut I8042::new(Requests::new()));
}

#[test]
fn the_released_v1_state_goes_on() {
    let machine = Requests::new();
    let today = I8042::new(machine.clone()).save("i8042").unwrap();
    let mut i8042 = I8042::restore(machine.clone(), &fixtures::released("i8042-v1", &today)).unwrap();
    i8042.write(4, &[0xfe]);
    assert_eq!(machine.count(), (0, 1));
}
