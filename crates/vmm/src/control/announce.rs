use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use monitor::types::AnnounceParameters;

use super::Control;
use crate::seccomp::Role;

/// How long what has come for the machine here waits for what follows it from where it was before. What follows is there within a
/// round trip and what it takes to read a few packets.
const FOLLOWING: Duration = Duration::from_millis(20);

/// Announces the machine to the network, several times with growing pauses: switches learn where it is now from frames that
/// may get lost. Soon after the first it waits for nothing more that may follow it. Ends early when the machine goes.
///
/// # Errors
/// There is no thread to be had for it.
pub(super) fn start(control: &Arc<Control>, parameters: AnnounceParameters) -> io::Result<()> {
    let theirs = Arc::downgrade(control);
    control.launcher.spawn(Role::Errand, "announce", move || run(&theirs, parameters)).map(|_| ())
}

fn run(control: &Weak<Control>, parameters: AnnounceParameters) {
    let mut is_there = parameters.rounds > 0 && announce(control);
    std::thread::sleep(FOLLOWING);
    let machine = control.upgrade().and_then(|control| control.machine.lock().clone());
    if let Some(machine) = machine {
        machine.no_packets_follow();
    }
    let mut waited = FOLLOWING;
    for round in 1..parameters.rounds {
        if !is_there {
            return;
        }
        std::thread::sleep(pause(round - 1, &parameters).saturating_sub(waited));
        waited = Duration::ZERO;
        is_there = announce(control);
    }
}

/// Announces it once. Returns whether it is there to be announced: one that is about to go, or has gone, is not.
fn announce(control: &Weak<Control>) -> bool {
    let Some(control) = control.upgrade() else { return false };
    let Ok((_turn, machine)) = control.to_change() else { return false };
    if let Err(error) = machine.announce() {
        tracing::warn!("The machine could not be announced to the network: {error}");
    }
    true
}

/// The pause after announcement number `round`, as QEMU has it: it grows by `step` up to `max`.
fn pause(round: u64, parameters: &AnnounceParameters) -> Duration {
    let grown = parameters.initial.saturating_add(parameters.step.saturating_mul(round));
    Duration::from_millis(grown.min(parameters.max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_limit() {
        let parameters = AnnounceParameters { initial: 50, max: 300, rounds: 5, step: 100 };
        let pauses: Vec<_> = (0..5).map(|round| pause(round, &parameters).as_millis()).collect();
        assert_eq!(pauses, [50, 150, 250, 300, 300]);
    }
}
