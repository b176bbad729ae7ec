use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use monitor::{CommandError, types::KeyCode};
use parking_lot::Mutex;

use super::Control;
use crate::{Machine, seccomp::Role};

/// Keys that the monitor pressed, until they come up by themselves.
///
/// They come up at the latest before the machine moves: where it goes nobody would know that they are to.
#[derive(Debug, Default)]
pub(super) struct HeldKeys(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Number of the last command.
    last: u64,
    /// What each command pressed, in that order.
    pressed: Vec<(u64, Vec<u16>)>,
}

impl HeldKeys {
    fn add(&self, codes: Vec<u16>) -> u64 {
        let mut held = self.0.lock();
        held.last += 1;
        let number = held.last;
        held.pressed.push((number, codes));
        number
    }

    /// Releases what command `number` pressed, unless that was done before.
    fn release(&self, number: u64, machine: &Machine) {
        let mut held = self.0.lock();
        let place = held.pressed.iter().position(|(known, _)| *known == number);
        let codes = place.map(|place| held.pressed.swap_remove(place).1);
        release(&codes.unwrap_or_default(), machine);
    }

    /// Releases everything.
    pub(super) fn release_all(&self, machine: &Machine) {
        for (_, codes) in self.0.lock().pressed.drain(..) {
            release(&codes, machine);
        }
    }
}

impl Control {
    /// Presses `keys` one after the other, and releases them after `hold`.
    pub(super) fn press_keys(self: &Arc<Self>, keys: &[KeyCode], hold: Duration) -> Result<(), CommandError> {
        let (_turn, machine) = self.to_change()?;
        let mut pressed = Vec::new();
        for code in keys.iter().map(|key| key.evdev()) {
            if let Err(error) = machine.send_key(code, true) {
                release(&pressed, &machine);
                return Err(CommandError::generic(error.to_string()));
            }
            pressed.push(code);
        }
        let number = self.held_keys.add(pressed);
        let control = Arc::downgrade(self);
        let spawned =
            self.launcher.spawn(Role::Errand, "keys", move || release_later(&control, number, hold));
        spawned.map(|_| ()).map_err(|error| {
            self.held_keys.release(number, &machine);
            CommandError::generic(format!("The keys cannot be held: {error}"))
        })
    }
}

fn release_later(control: &Weak<Control>, number: u64, hold: Duration) {
    std::thread::sleep(hold);
    let Some(control) = control.upgrade() else { return };
    // When a migration has stopped the machine they were released before.
    if let Ok((_turn, machine)) = control.to_change() {
        control.held_keys.release(number, &machine);
    }
}

fn release(codes: &[u16], machine: &Machine) {
    for code in codes.iter().rev() {
        // The same keys went down before.
        let _ = machine.send_key(*code, false);
    }
}
