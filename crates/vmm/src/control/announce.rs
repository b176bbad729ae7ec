use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use monitor::types::AnnounceParameters;

use super::Control;
use crate::seccomp::Role;

/// Announces the machine to the network, several times with growing pauses: switches learn where it is now from frames that
/// may get lost. Ends early when the machine goes.
///
/// # Errors
/// There is no thread to be had for it.
pub(super) fn start(control: &Arc<Control>, parameters: AnnounceParameters) -> io::Result<()> {
    let theirs = Arc::downgrade(control);
    control.launcher.spawn(Role::Errand, "announce", move || run(&theirs, parameters)).map(|_| ())
}

fn run(control: &Weak<Control>, parameters: AnnounceParameters) {
    for round in 0..parameters.rounds {
        let Some(control) = control.upgrade() else { return };
        // A machine that is about to go, or has gone, is not announced here.
        let Ok((turn, machine)) = control.to_change() else { return };
        if let Err(error) = machine.announce() {
            tracing::warn!("The machine could not be announced to the network: {error}");
        }
        drop((turn, machine));
        drop(control);
        if round + 1 < parameters.rounds {
            std::thread::sleep(pause(round, &parameters));
        }
    }
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
