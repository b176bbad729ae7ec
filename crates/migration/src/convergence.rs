//! The decision after every round: another one, or switch over.
//!
//! Downtime is foretold as what is left to send, at the speed measured on the wire, plus the costs that do not depend on
//! memory (stopping vCPUs, saving and loading device states, round trips). Switching is allowed once that is within the limit.
//!
//! Allowed is not yet best: right after the first round a busy machine has its whole working set left. When the wire is much
//! faster than the machine dirties memory, one more short round takes most of that away. So rounds go on below the limit
//! while the next one is foretold to pay: see [`worth_another_round`].

use std::time::Duration;

use crate::{PAGE_BYTES, Params, stats::RoundStats};

/// Costs of a switchover that do not depend on how much memory is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FixedCosts {
    /// Stopping vCPUs and quiescing devices.
    pub stop: Duration,
    /// Saving device states.
    pub save: Duration,
    /// Loading device states.
    pub load: Duration,
    /// Starting the machine.
    pub start: Duration,
    /// One round trip on the control connection; a switchover needs two (complete → ready, go → running).
    pub round_trip: Duration,
}

/// What to do after a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Whether to stop the machine and send the rest.
    pub switch: bool,
    /// Downtime that is foretold if it stops now; `None` while no speed was measured.
    pub predicted: Option<Duration>,
    /// Why, in a sentence for people.
    pub reason: String,
}

/// Rounds that may be added below the limit. Each must at least take a quarter off the downtime, so that eight take off
/// nine tenths; what is left after that is noise.
const MAX_EXTRA_ROUNDS: u32 = 8;

/// After so long, half of what the last switchover cost beyond the guess is still believed, where it stands in the way.
const BELIEF_HALF_LIFE: Duration = Duration::from_secs(5);

/// A round is only added when it takes at least this much off the downtime.
const WORTHWHILE: Duration = Duration::from_micros(500);

impl Default for FixedCosts {
    /// For one vCPU on loopback, rounded up; the first round trip measured replaces the guess.
    fn default() -> Self {
        Self {
            stop: Duration::from_millis(1),
            save: Duration::from_millis(1),
            load: Duration::from_millis(2),
            start: Duration::from_millis(1),
            round_trip: Duration::from_micros(200),
        }
    }
}

impl FixedCosts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.on_the_hosts() + 2 * self.round_trip
    }

    /// All of them, as far as they are believed `elapsed` after the attempt began.
    ///
    /// What the hosts do at a switchover was measured at the last one, and is only measured again at the next. If it alone is over
    /// the limit no round helps, and a single switchover on a host that was busy would keep the machine from ever moving. So
    /// there it is believed less and less, down to the guess that an attempt without a past begins with. The round trip is
    /// measured all the time.
    pub(crate) fn believed(&self, limit: Duration, elapsed: Duration) -> Duration {
        if self.total() <= limit {
            return self.total();
        }
        let hosts = self.on_the_hosts();
        let guess = Self::default().on_the_hosts().min(hosts);
        let belief = 0.5_f64.powf(elapsed.as_secs_f64() / BELIEF_HALF_LIFE.as_secs_f64());
        guess + (hosts - guess).mul_f64(belief) + 2 * self.round_trip
    }

    fn on_the_hosts(&self) -> Duration {
        self.stop + self.save + self.load + self.start
    }
}

/// Decides after a round. `dirty_pages` are left to send; `wire_rate` is in bytes per second; `extra_rounds` were already
/// added below the limit.
#[must_use]
pub fn decide(
    params: &Params,
    fixed: &FixedCosts,
    last: &RoundStats,
    dirty_pages: u64,
    wire_rate: Option<f64>,
    extra_rounds: u32,
) -> Decision {
    let bytes = dirty_pages * PAGE_BYTES;
    let rate =
        if params.switchover_bandwidth > 0 { Some(params.switchover_bandwidth as f64) } else { wire_rate };
    let Some(rate) = rate.filter(|rate| *rate > 0.0) else {
        // Nothing went over the wire yet: an all-zero machine. What is left decides by itself.
        let switch = bytes == 0;
        return Decision { switch, predicted: None, reason: "No speed measured yet".into() };
    };
    let limit = params.downtime_limit;
    let transfer = Duration::from_secs_f64(bytes as f64 / rate);
    let fixed = fixed.believed(limit, last.began + last.duration);
    let predicted = transfer + fixed;
    let sum = format!(
        "{:.1} MB left at {:.0} MB/s + {:.1} ms fixed = {:.1} ms",
        bytes as f64 / 1e6,
        rate / 1e6,
        ms(fixed),
        ms(predicted)
    );
    if predicted > limit {
        return Decision {
            switch: false,
            predicted: Some(predicted),
            reason: format!("{sum} > {:.0} ms", ms(limit)),
        };
    }
    if extra_rounds < MAX_EXTRA_ROUNDS
        && let Some(after) = worth_another_round(last, transfer, rate, limit)
    {
        let reason = format!(
            "{sum} ≤ {:.0} ms, but one more round is foretold to leave {:.1} ms to send",
            ms(limit),
            ms(after)
        );
        return Decision { switch: false, predicted: Some(predicted), reason };
    }
    Decision { switch: true, predicted: Some(predicted), reason: format!("{sum} ≤ {:.0} ms", ms(limit)) }
}

/// How long the last pass would take after one more round, if that round pays: it takes a quarter off and costs no more
/// time than the downtime limit.
fn worth_another_round(
    last: &RoundStats,
    transfer: Duration,
    rate: f64,
    limit: Duration,
) -> Option<Duration> {
    let after = transfer.mul_f64((last.dirty_rate / rate).min(1.0));
    let gain = transfer.saturating_sub(after);
    (transfer <= limit && gain >= WORTHWHILE && gain >= transfer / 4).then_some(after)
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    fn after_round(dirty_rate: f64) -> RoundStats {
        RoundStats { dirty_rate, ..RoundStats::default() }
    }

    fn pages(megabytes: u64) -> u64 {
        megabytes * 1_000_000 / PAGE_BYTES
    }

    #[test]
    fn it_goes_on_while_the_downtime_would_be_over_the_limit() {
        let last = after_round(900.0 * MB);
        let decision =
            decide(&Params::default(), &FixedCosts::default(), &last, pages(400), Some(1000.0 * MB), 0);
        assert!(!decision.switch);
        assert!(decision.reason.contains("> 300 ms"), "{}", decision.reason);
    }

    #[test]
    fn fixed_costs_count_against_the_limit() {
        let params = Params { downtime_limit: Duration::from_millis(4), ..Params::default() };
        let decision = decide(&params, &FixedCosts::default(), &after_round(0.0), 0, Some(1000.0 * MB), 0);
        assert!(!decision.switch, "{}", decision.reason);
    }

    #[test]
    fn a_switchover_that_was_slow_once_does_not_keep_the_machine_for_ever() {
        let fixed = FixedCosts { load: Duration::from_secs(3), ..FixedCosts::default() };
        let after = |seconds| {
            let last = RoundStats { began: Duration::from_secs(seconds), ..RoundStats::default() };
            decide(&Params::default(), &fixed, &last, 0, Some(1000.0 * MB), 0).switch
        };
        assert!(!after(0), "it is believed at first");
        let tried = (0..60).find(|&seconds| after(seconds)).expect("it is tried in the end");
        assert!((10..30).contains(&tried), "{tried} s");
    }

    #[test]
    fn costs_within_the_limit_are_believed_however_long_it_takes() {
        let fixed = FixedCosts { load: Duration::from_millis(200), ..FixedCosts::default() };
        let last = RoundStats { began: Duration::from_secs(3600), ..RoundStats::default() };
        let predicted = decide(&Params::default(), &fixed, &last, 0, Some(1000.0 * MB), 0).predicted;
        assert_eq!(predicted, Some(fixed.total()));
    }

    #[test]
    fn a_way_that_is_too_long_is_no_matter_of_belief() {
        let fixed = FixedCosts { round_trip: Duration::from_millis(200), ..FixedCosts::default() };
        let last = RoundStats { began: Duration::from_secs(3600), ..RoundStats::default() };
        assert!(!decide(&Params::default(), &fixed, &last, 0, Some(1000.0 * MB), 0).switch);
    }

    #[test]
    fn below_the_limit_a_round_that_pays_is_added() {
        let last = after_round(200.0 * MB);
        let decision =
            decide(&Params::default(), &FixedCosts::default(), &last, pages(64), Some(1500.0 * MB), 0);
        assert!(!decision.switch, "{}", decision.reason);
        assert!(decision.reason.contains("one more round"), "{}", decision.reason);
    }

    #[test]
    fn it_switches_when_another_round_would_not_pay() {
        let last = after_round(1400.0 * MB);
        let decision =
            decide(&Params::default(), &FixedCosts::default(), &last, pages(64), Some(1500.0 * MB), 0);
        assert!(decision.switch, "{}", decision.reason);
    }

    #[test]
    fn rounds_below_the_limit_come_to_an_end() {
        let last = after_round(200.0 * MB);
        let decision = decide(
            &Params::default(),
            &FixedCosts::default(),
            &last,
            pages(64),
            Some(1500.0 * MB),
            MAX_EXTRA_ROUNDS,
        );
        assert!(decision.switch, "{}", decision.reason);
    }

    #[test]
    fn a_speed_given_by_the_user_replaces_the_measured_one() {
        let params = Params { switchover_bandwidth: 10_000_000, ..Params::default() };
        let decision =
            decide(&params, &FixedCosts::default(), &after_round(0.0), pages(64), Some(1500.0 * MB), 8);
        assert!(!decision.switch, "{}", decision.reason);
    }

    #[test]
    fn an_idle_machine_of_zeros_switches_at_once() {
        assert!(decide(&Params::default(), &FixedCosts::default(), &after_round(0.0), 0, None, 0).switch);
    }
}
