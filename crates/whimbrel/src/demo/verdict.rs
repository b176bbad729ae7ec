use std::time::Duration;

use super::{hop::Hop, journey::Outcome};
use crate::rig::{Bytes, Count, Span};

/// What had to hold, and whether it did.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) checks: Vec<Check>,
    /// One line for those who read only one.
    pub(super) summary: String,
}

/// One thing that had to hold.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) holds: bool,
    pub(super) text: String,
}

impl Verdict {
    /// Judges a journey that came to its end: that every move was completed is known already.
    pub(super) fn new(hops: u32, downtime_limit: Duration, outcome: &Outcome) -> Self {
        let checks = vec![downtime(downtime_limit, outcome), memory(outcome), story(outcome)];
        let holds = checks.iter().all(|check| check.holds);
        let worst = outcome.hops.iter().map(|(hop, _)| reported_downtime(hop)).max().unwrap_or_default();
        let felt = outcome.hops.iter().map(|(_, felt)| felt.gap).max().unwrap_or_default();
        let times = if hops == 1 { "once".to_owned() } else { format!("{hops} times") };
        let summary = if holds {
            format!(
                "It held: moved {times} under load, stood still {} ms at most, the guest felt {}, and nothing was lost",
                worst.as_millis(),
                Span(felt)
            )
        } else {
            let broken = checks.iter().filter(|check| !check.holds).count();
            format!("It did not hold: {broken} of {} checks failed, see above", checks.len())
        };
        Self { checks, summary }
    }

    pub(super) fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.holds)
    }
}

/// The source's own figure.
fn reported_downtime(hop: &Hop) -> Duration {
    Duration::from_millis(hop.info.downtime.unwrap_or(0))
}

fn downtime(limit: Duration, outcome: &Outcome) -> Check {
    let each: Vec<_> = outcome.hops.iter().map(|(hop, _)| reported_downtime(hop)).collect();
    let list: Vec<_> = each.iter().map(|time| format!("{} ms", time.as_millis())).collect();
    let holds = each.iter().all(|time| *time <= limit);
    let relation = if holds { "within" } else { "beyond" };
    Check {
        holds,
        text: format!("downtime {}: {relation} the limit of {} ms", list.join(", "), limit.as_millis()),
    }
}

fn memory(outcome: &Outcome) -> Check {
    let last = &outcome.last;
    let each = if outcome.hops.len() == 1 { "the move" } else { "each move" };
    Check {
        holds: last.errors == 0,
        text: format!(
            "memory: every page of {} checked after {each}; pages verified {}, errors {}",
            Bytes(last.owned),
            Count(last.verified),
            last.errors
        ),
    }
}

fn story(outcome: &Outcome) -> Check {
    let last = &outcome.last;
    let lost = last.count("lost").unwrap_or(0);
    let holds = outcome.complaints.is_empty();
    let text = if holds {
        format!(
            "the guest's story: reports 0 to {} without a break, lines lost {lost}, clocks never backwards",
            last.sequence
        )
    } else {
        format!("the guest's story does not hold:\n      {}", outcome.complaints.join("\n      "))
    };
    Check { holds, text }
}

#[cfg(test)]
mod tests {
    use guests::parse_report;
    use monitor::types::MigrationInfo;

    use super::*;
    use crate::rig::{ByteRate, Felt};

    fn outcome(downtime_ms: u64, errors: u64, complaints: &[&str]) -> Outcome {
        let line = format!(
            "whimbrel seq=9 wall_ms=0 tsc_ms=0 clock_ns=0 dirtied=0 rate=0 verified=7 passes=0 errors={errors} gap_us=0 gap_cpu=0 \
             maxgap_us=0 clockgap_us=0 maxclockgap_us=0 tsc_back=0 clock_back=0 cpu=0 cpus=1 filled=1 work=0 owned=0 lost=0"
        );
        let hop = Hop {
            way: "A → B".to_owned(),
            info: MigrationInfo { downtime: Some(downtime_ms), ..MigrationInfo::default() },
            text: String::new(),
            stood_still: None,
            destination_cpu: None,
            faults: None,
            begun_at: 0,
            arrived_at: 0,
        };
        let felt = Felt {
            gap: Duration::from_millis(14),
            gap_in_rounds: Duration::ZERO,
            rate: ByteRate(0),
            checked: 0,
        };
        Outcome {
            hops: vec![(hop, felt)],
            gap_at_rest: Duration::ZERO,
            rate_at_rest: ByteRate(0),
            last: parse_report(&line).unwrap(),
            complaints: complaints.iter().map(|text| (*text).to_owned()).collect(),
            took: Duration::ZERO,
        }
    }

    fn judge(outcome: &Outcome) -> Verdict {
        Verdict::new(1, Duration::from_millis(300), outcome)
    }

    #[test]
    fn a_move_within_its_limit_that_the_guest_survived_holds() {
        let verdict = judge(&outcome(300, 0, &[]));
        assert!(verdict.holds());
        assert!(verdict.summary.contains("moved once"), "{}", verdict.summary);
        assert!(verdict.summary.contains("300 ms at most, the guest felt 14.0 ms"), "{}", verdict.summary);
    }

    #[test]
    fn one_thing_that_does_not_hold_is_enough() {
        for wrong in [
            outcome(301, 0, &[]),
            outcome(12, 1, &[]),
            outcome(12, 0, &["Report 3 came where report 2 was due"]),
        ] {
            let verdict = judge(&wrong);
            assert!(!verdict.holds());
            assert!(verdict.summary.contains("1 of 3 checks failed"), "{}", verdict.summary);
        }
    }
}
