use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use monitor::types::AnnounceParameters;

use crate::Machine;

/// Announces the machine to the network, several times with growing pauses: switches learn where it is now from frames that
/// may get lost. Ends early when the machine goes.
pub(super) fn start(machine: &Arc<Machine>, parameters: AnnounceParameters) {
    let machine = Arc::downgrade(machine);
    let spawned =
        std::thread::Builder::new().name("announce".into()).spawn(move || run(&machine, parameters));
    if let Err(error) = spawned {
        tracing::warn!("The machine cannot be announced to the network: {error}");
    }
}

fn run(machine: &Weak<Machine>, parameters: AnnounceParameters) {
    for round in 0..parameters.rounds {
        let Some(machine) = machine.upgrade() else { return };
        if let Err(error) = machine.announce() {
            tracing::warn!("The machine could not be announced to the network: {error}");
        }
        drop(machine);
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
