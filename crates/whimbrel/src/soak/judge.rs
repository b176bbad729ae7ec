//! What an attempt came to, by what was seen of it. No process is asked here any more.

use faults::{Fault, Side, What};
use monitor::types::MigrationStatus;
use serde::Serialize;

/// What was seen of an attempt once it was over.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) source: Source,
    pub(super) destination: Destination,
    /// The faults that struck.
    pub(super) struck: Vec<Fault>,
    /// All of *ready* was passed on: from there on the source may have said *go*, wherever that got lost.
    pub(super) ready_passed: bool,
    /// All of *go* was passed on.
    pub(super) go_passed: bool,
    /// The source did not know for a while who had the machine.
    pub(super) was_unknown: bool,
    /// It was encrypted, and something was changed that the guest needs.
    pub(super) damaged: bool,
    /// It was to be encrypted, and was not.
    pub(super) in_clear: bool,
    /// Time is taken from vCPUs though the migration is over.
    pub(super) slowed: bool,
    /// Pages were to follow the machine.
    pub(super) postcopy: bool,
}

/// What became of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Its process has ended.
    Dead,
    /// Its process lives.
    Alive {
        /// What it says of the migration.
        status: MigrationStatus,
        /// It does not know who has the machine.
        unknown: bool,
        /// The machine runs here.
        runs: bool,
    },
}

/// What became of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// Its process has ended.
    Dead,
    /// Its process lives.
    Alive {
        /// The machine runs here.
        runs: bool,
        /// And lacks pages.
        lacks: bool,
    },
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// The machine runs at the destination.
    Completed,
    /// The same, and the source had to ask.
    CompletedLate,
    /// The machine runs at the source.
    RolledBack,
    /// The same, and the source had to ask.
    RolledBackLate,
    /// The process that had the machine was killed.
    Lost,
    /// The source does not know, as the process that does was killed.
    UnknownAsKilled,
    /// Something that must not be.
    Broken,
}

impl Outcome {
    pub(super) const ALL: [Self; 7] = [
        Self::Completed,
        Self::CompletedLate,
        Self::RolledBack,
        Self::RolledBackLate,
        Self::Lost,
        Self::UnknownAsKilled,
        Self::Broken,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::CompletedLate => "completed late",
            Self::RolledBack => "rolled back",
            Self::RolledBackLate => "rolled back late",
            Self::Lost => "lost",
            Self::UnknownAsKilled => "unknown",
            Self::Broken => "broken",
        }
    }
}

/// The outcome, or what must not be.
pub(super) fn judge(facts: &Facts) -> Result<Outcome, String> {
    let killed = |side| facts.struck.iter().any(|fault| fault.what == What::Kill(side));
    let late = facts.was_unknown;
    let completed = if late { Outcome::CompletedLate } else { Outcome::Completed };
    let rolled_back = if late { Outcome::RolledBackLate } else { Outcome::RolledBack };
    if facts.source == Source::Dead && !killed(Side::Source) {
        return Err("The source's process ended by itself".into());
    }
    if facts.destination == Destination::Dead && !killed(Side::Destination) {
        return Err("The destination's process ended by itself".into());
    }
    if facts.in_clear {
        return Err("It was to be encrypted, and passed in clear".into());
    }
    if facts.slowed {
        return Err("The migration is over, and the machine is still slowed down for it".into());
    }
    if facts.damaged && matches!(facts.destination, Destination::Alive { runs: true, .. }) {
        return Err(
            "A bit was flipped on an encrypted connection, and the machine runs at the destination".into()
        );
    }
    let Source::Alive { status, unknown, runs } = facts.source else {
        return match facts.destination {
            Destination::Dead => Ok(Outcome::Lost),
            Destination::Alive { runs: true, lacks } if facts.go_passed => {
                Ok(if lacks { Outcome::Lost } else { completed })
            }
            Destination::Alive { runs: true, .. } => {
                Err("The destination runs the machine without go".into())
            }
            // That no pages will come can be heard before *go*, of another connection.
            Destination::Alive { runs: false, .. }
                if facts.go_passed && !facts.postcopy && !loses_bytes(&facts.struck) =>
            {
                Err("The destination heard go, and does not run the machine".into())
            }
            Destination::Alive { runs: false, .. } => Ok(Outcome::Lost),
        };
    };
    match (status, runs, facts.destination) {
        (_, true, Destination::Alive { runs: true, .. }) => Err("Both sides run the machine".into()),
        (MigrationStatus::Completed, false, Destination::Alive { runs: true, lacks: false }) => Ok(completed),
        (MigrationStatus::Completed, false, Destination::Dead) => Ok(Outcome::Lost),
        (MigrationStatus::Failed | MigrationStatus::Cancelled, true, _) => Ok(rolled_back),
        // What had been pushed went with the destination's process.
        (status, false, Destination::Dead) if status.is_postcopy() => Ok(Outcome::Lost),
        (_, false, Destination::Dead) if unknown && facts.ready_passed => Ok(Outcome::UnknownAsKilled),
        (_, false, Destination::Alive { runs: true, .. }) if unknown => {
            Err("The destination runs the machine, and the source was not told in time".into())
        }
        (_, false, Destination::Alive { runs: false, .. }) => {
            Err(format!("Nobody runs the machine; the source's migration is {status}, unknown: {unknown}"))
        }
        (status, runs, destination) => Err(format!(
            "The source's migration is {status} (unknown: {unknown}), it runs the machine: {runs}; destination: \
             {destination:?}"
        )),
    }
}

/// Whether what was passed on may never have been read: a reset throws away what the receiver has not read yet.
fn loses_bytes(struck: &[Fault]) -> bool {
    let keeps = |what| {
        matches!(what, What::Kill(_) | What::Freeze(..) | What::Stall(_) | What::StallAll(_) | What::Delay(_))
    };
    !struck.iter().all(|fault| keeps(fault.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(source: Source, destination: Destination, struck: &[&str], go: bool) -> Facts {
        let struck = struck.iter().map(|fault| fault.parse().unwrap()).collect();
        Facts {
            source,
            destination,
            struck,
            ready_passed: go,
            go_passed: go,
            was_unknown: false,
            damaged: false,
            in_clear: false,
            slowed: false,
            postcopy: false,
        }
    }

    fn alive(status: MigrationStatus, unknown: bool, runs: bool) -> Source {
        Source::Alive { status, unknown, runs }
    }

    const RUNS: Destination = Destination::Alive { runs: true, lacks: false };
    const LACKS: Destination = Destination::Alive { runs: true, lacks: true };
    const WAITS: Destination = Destination::Alive { runs: false, lacks: false };
    const KILL_SOURCE: &str = "kill=source@control:before:go";
    const KILL_DESTINATION: &str = "kill=destination@control:before:go";
    const RESET: &str = "reset@control:after:go";

    #[test]
    fn one_side_that_runs_is_an_outcome() {
        use MigrationStatus::{Cancelled, Completed, Device, Failed, PostcopyPaused};
        for (facts, outcome) in [
            (facts(alive(Completed, false, false), RUNS, &[], true), Outcome::Completed),
            (facts(alive(Failed, false, true), WAITS, &[RESET], false), Outcome::RolledBack),
            (facts(alive(Cancelled, false, true), WAITS, &[], false), Outcome::RolledBack),
            (
                facts(alive(Failed, false, true), Destination::Dead, &[KILL_DESTINATION], false),
                Outcome::RolledBack,
            ),
            (
                facts(alive(Completed, false, false), Destination::Dead, &[KILL_DESTINATION], true),
                Outcome::Lost,
            ),
            (
                facts(alive(Device, true, false), Destination::Dead, &[KILL_DESTINATION], true),
                Outcome::UnknownAsKilled,
            ),
            (facts(Source::Dead, RUNS, &[KILL_SOURCE], true), Outcome::Completed),
            (facts(Source::Dead, WAITS, &[KILL_SOURCE], false), Outcome::Lost),
            (facts(Source::Dead, WAITS, &[KILL_SOURCE, RESET], true), Outcome::Lost),
            (facts(Source::Dead, LACKS, &[KILL_SOURCE], true), Outcome::Lost),
            (
                facts(alive(PostcopyPaused, false, false), Destination::Dead, &[KILL_DESTINATION], true),
                Outcome::Lost,
            ),
        ] {
            assert_eq!(judge(&facts), Ok(outcome), "{facts:?}");
        }
    }

    #[test]
    fn what_must_not_be_is_told() {
        use MigrationStatus::{Completed, Device, Failed, PostcopyActive};
        for (facts, reason) in [
            (facts(alive(Failed, false, true), RUNS, &[], true), "Both sides"),
            (facts(alive(Completed, false, false), WAITS, &[], true), "Nobody runs"),
            (facts(alive(Failed, false, false), WAITS, &[], false), "Nobody runs"),
            (facts(alive(Device, true, false), RUNS, &[], true), "was not told"),
            (facts(alive(Device, true, false), WAITS, &[], true), "Nobody runs"),
            (facts(alive(PostcopyActive, false, false), LACKS, &[], true), "postcopy-active"),
            (facts(alive(Completed, false, false), LACKS, &[], true), "lacks: true"),
            (facts(Source::Dead, WAITS, &[], false), "ended by itself"),
            (facts(alive(Failed, false, true), Destination::Dead, &[], false), "ended by itself"),
            (facts(Source::Dead, RUNS, &[KILL_SOURCE], false), "without go"),
            (facts(Source::Dead, WAITS, &[KILL_SOURCE], true), "heard go"),
            (
                facts(alive(Failed, false, false), Destination::Dead, &[KILL_DESTINATION], false),
                "runs the machine: false",
            ),
        ] {
            let reached = judge(&facts).unwrap_err();
            assert!(reached.contains(reason), "{facts:?}: {reached}");
        }
    }

    #[test]
    fn a_flipped_bit_that_an_encrypted_connection_survives_is_told() {
        let facts = facts(alive(MigrationStatus::Completed, false, false), RUNS, &[], true);
        let damaged = judge(&Facts { damaged: true, ..facts.clone() }).unwrap_err();
        assert!(damaged.contains("A bit was flipped"), "{damaged}");
        let slowed = judge(&Facts { slowed: true, ..facts.clone() }).unwrap_err();
        assert!(slowed.contains("still slowed down"), "{slowed}");
        let in_clear = judge(&Facts { in_clear: true, ..facts }).unwrap_err();
        assert!(in_clear.contains("in clear"), "{in_clear}");
    }
}
