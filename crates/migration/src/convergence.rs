//! The decision after every round: another one, or switch over.
//!
//! Downtime is foretold as what is left to send, at the speed measured on the wire, plus the costs that do not depend on
//! memory (stopping vCPUs, saving and loading device states, round trips), less what is saved while pages are sent. Switching is allowed once that is within the limit.
//!
//! Allowed is not yet best: right after the first round a busy machine has its whole working set left. When the wire is much
//! faster than the machine dirties memory, one more short round takes most of that away. So rounds go on below the limit
//! while the next one is foretold to pay: see [`worth_another_round`].

use std::time::Duration;

use crate::{Advice, FixedCosts, PAGE_BYTES, Params, WireRate, fixed_costs::ms, stats::RoundStats};

/// Where a migration stands after a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Pages left to send.
    pub dirty_pages: u64,
    /// Bytes on the wire that each of them is foretold to take.
    pub page_bytes: f64,
    /// Speed of the wire; `None` before anything was sent.
    pub wire_rate: Option<WireRate>,
    /// Whether the machine runs. One that is paused has no downtime.
    pub running: bool,
    /// Rounds that were already added below the limit.
    pub extra_rounds: u32,
    /// Whether its vCPUs are slowed down: each round costs the guest more than time.
    pub slowed: bool,
}

/// The step that follows a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Next {
    /// Another round.
    Round,
    /// The machine is stopped, and the rest is sent.
    Switchover,
}

/// What to do after a round, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The next step.
    pub next: Next,
    /// Downtime that is foretold if it stops now; `None` while no speed was measured.
    pub predicted: Option<Duration>,
    /// Why, in a sentence for people.
    pub reason: String,
    /// What people can do, where it does not switch by itself.
    pub advice: Option<Advice>,
}

/// Rounds that may be added below the limit. Where each takes a quarter off the downtime, eight take off
/// nine tenths; what is left after that is noise.
const MAX_EXTRA_ROUNDS: u32 = 8;

/// What a round must take off the downtime to pay: a quarter of it; or an eighth, where it takes no longer than a twentieth of what all
/// took until then, and vCPUs are not slowed down. So eight of them take off two thirds, and cost less than half as much again.
const PAYS: u32 = 4;
const PAYS_CHEAP: u32 = 8;
const CHEAP: u32 = 20;

/// What a paused machine has left may be sent at once, whatever the limit, if it is no more than this many bytes.
const LITTLE: u64 = 1 << 20;

/// What the disks take is told from this on.
const TOLD: Duration = Duration::from_millis(1);

/// A round is only added when it takes at least this much off the downtime.
const WORTHWHILE: Duration = Duration::from_micros(500);

/// Decides after the round `last`.
#[must_use]
pub fn decide(params: &Params, fixed: &FixedCosts, last: &RoundStats, standing: &Standing) -> Decision {
    let bytes = (standing.dirty_pages as f64 * standing.page_bytes) as u64;
    let limit = params.downtime_limit;
    let obstacle = fixed.obstacle(limit, last.began + last.duration);
    let (believed, save, flush) =
        (fixed.believed(limit, last.began + last.duration), fixed.save, fixed.flush);
    let go_on = |predicted, reason: String, advice| Decision { next: Next::Round, predicted, reason, advice };
    let rate = params.switchover_rate(standing.wire_rate);
    let Some(transfer) = transfer(bytes, rate) else {
        return go_on(None, "No speed measured yet".into(), None);
    };
    let fixed = believed.saturating_sub(save.min(transfer));
    let predicted = transfer + fixed;
    let disks =
        if flush < TOLD { String::new() } else { format!(" ({:.1} ms of it to flush the disks)", ms(flush)) };
    let sum = format!("{} + {:.1} ms fixed{disks} = {:.1} ms", left(bytes, rate), ms(fixed), ms(predicted));
    let limited = ms(limit);
    let switch =
        |reason| Decision { next: Next::Switchover, predicted: Some(predicted), reason, advice: None };
    if !standing.running && (transfer <= limit || bytes <= LITTLE) {
        return switch(format!("{sum}, for which nobody waits: the machine is paused"));
    }
    if predicted > limit {
        if let Some(obstacle) = obstacle.filter(|_| standing.running) {
            let reason = format!("{sum} > {limited:.0} ms. {}", obstacle.reason(limit));
            return go_on(Some(predicted), reason, Some(obstacle.advice()));
        }
        let advice = rate.filter(|rate| rate.held_back).map(|_| Advice::TellSwitchoverBandwidth);
        return go_on(Some(predicted), format!("{sum} > {limited:.0} ms"), advice);
    }
    if standing.extra_rounds < MAX_EXTRA_ROUNDS
        && let Some(rate) = rate
        && let Some(after) = worth_another_round(
            last.dirty_rate / PAGE_BYTES as f64 * standing.page_bytes,
            transfer,
            rate.bytes_per_second,
            limit,
            if standing.slowed { Duration::ZERO } else { last.began + last.duration },
        )
    {
        let after = ms(after);
        let reason =
            format!("{sum} ≤ {limited:.0} ms, but one more round is foretold to leave {after:.1} ms to send");
        return go_on(Some(predicted), reason, None);
    }
    switch(format!("{sum} ≤ {limited:.0} ms"))
}

/// How long `bytes` take, if that can be told.
fn transfer(bytes: u64, rate: Option<WireRate>) -> Option<Duration> {
    match rate {
        _ if bytes == 0 => Some(Duration::ZERO),
        Some(rate) => Some(Duration::from_secs_f64((bytes as f64 / rate.bytes_per_second).min(1e9))),
        None => None,
    }
}

/// What is left to send, in words.
fn left(bytes: u64, rate: Option<WireRate>) -> String {
    match rate {
        Some(rate) if bytes > 0 => format!(
            "{:.1} MB left at {:.0} MB/s{}",
            bytes as f64 / 1e6,
            rate.bytes_per_second / 1e6,
            if rate.held_back { " (as held to the bandwidth limit)" } else { "" }
        ),
        _ => "Nothing left to send".into(),
    }
}

/// How long the last pass would take after one more round, in which `dirty_rate` bytes are dirtied in a second and `rate` bytes sent, if
/// that round pays and costs no more time than the downtime limit. Beside `until_now` it may be cheap.
fn worth_another_round(
    dirty_rate: f64,
    transfer: Duration,
    rate: f64,
    limit: Duration,
    until_now: Duration,
) -> Option<Duration> {
    let after = transfer.mul_f64((dirty_rate / rate).min(1.0));
    let gain = transfer.saturating_sub(after);
    let pays = if transfer <= until_now / CHEAP { PAYS_CHEAP } else { PAYS };
    (transfer <= limit && gain >= WORTHWHILE && gain >= transfer / pays).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    impl Decision {
        fn switches(&self) -> bool {
            self.next == Next::Switchover
        }
    }

    fn tight() -> Params {
        Params { downtime_limit: Duration::from_millis(1), ..Params::default() }
    }

    fn after_round(dirty_rate: f64) -> RoundStats {
        RoundStats { dirty_rate, ..RoundStats::default() }
    }

    fn left_at(megabytes: u64, megabytes_per_second: f64) -> Standing {
        let wire_rate = WireRate { bytes_per_second: megabytes_per_second * MB, held_back: false };
        Standing {
            dirty_pages: megabytes * 1_000_000 / PAGE_BYTES,
            page_bytes: PAGE_BYTES as f64,
            wire_rate: Some(wire_rate),
            running: true,
            extra_rounds: 0,
            slowed: false,
        }
    }

    #[test]
    fn it_goes_on_while_the_downtime_would_be_over_the_limit() {
        let last = after_round(900.0 * MB);
        let decision = decide(&Params::default(), &FixedCosts::default(), &last, &left_at(400, 1000.0));
        assert!(!decision.switches());
        assert!(decision.reason.contains("> 300 ms"), "{}", decision.reason);
    }

    #[test]
    fn what_is_left_counts_with_what_it_takes_on_the_wire() {
        let last = after_round(900.0 * MB);
        let small = Standing { page_bytes: 512.0, ..left_at(400, 1000.0) };
        let decision = decide(&Params::default(), &FixedCosts::default(), &last, &small);
        assert!(decision.reason.starts_with("50.0 MB left at 1000 MB/s"), "{}", decision.reason);
        assert!(decision.predicted.unwrap() < Duration::from_millis(60));
    }

    #[test]
    fn fixed_costs_count_against_the_limit() {
        let params = Params { downtime_limit: Duration::from_millis(2), ..Params::default() };
        let decision = decide(&params, &FixedCosts::default(), &after_round(0.0), &left_at(0, 1000.0));
        assert!(!decision.switches(), "{}", decision.reason);
    }

    #[test]
    fn disks_that_take_long_to_flush_are_named_in_the_decision() {
        let fixed = FixedCosts { flush: Duration::from_millis(900), ..FixedCosts::default() };
        let decision = decide(&Params::default(), &fixed, &after_round(0.0), &left_at(0, 1000.0));
        assert!(!decision.switches());
        assert!(decision.reason.contains("(900.0 ms of it to flush the disks)"), "{}", decision.reason);
    }

    #[test]
    fn what_is_saved_while_pages_are_sent_is_not_counted_twice() {
        let ms = Duration::from_millis;
        let fixed = FixedCosts { save: ms(30), ..FixedCosts::default() };
        let rest = fixed.total() - fixed.save;
        let foretold = |megabytes| {
            let standing = left_at(megabytes, 1000.0);
            let pages = Duration::from_secs_f64((standing.dirty_pages * PAGE_BYTES) as f64 / 1e9);
            (
                decide(&Params::default(), &fixed, &after_round(900.0 * MB), &standing).predicted.unwrap(),
                pages,
            )
        };
        assert_eq!(foretold(0).0, rest + ms(30));
        assert_eq!(foretold(10).0, rest + ms(30));
        let (downtime, pages) = foretold(50);
        assert_eq!(downtime, rest + pages);
    }

    #[test]
    fn a_switchover_that_was_slow_once_does_not_keep_the_machine_for_ever() {
        let fixed = FixedCosts { load: Duration::from_secs(3), ..FixedCosts::default() };
        let after = |seconds| {
            let last = RoundStats { began: Duration::from_secs(seconds), ..RoundStats::default() };
            decide(&Params::default(), &fixed, &last, &left_at(0, 1000.0)).switches()
        };
        assert!(!after(0), "it is believed at first");
        let tried = (0..60).find(|&seconds| after(seconds)).expect("it is tried in the end");
        assert!((10..30).contains(&tried), "{tried} s");
    }

    #[test]
    fn costs_within_the_limit_are_believed_however_long_it_takes() {
        let fixed = FixedCosts { load: Duration::from_millis(200), ..FixedCosts::default() };
        let last = RoundStats { began: Duration::from_secs(3600), ..RoundStats::default() };
        let predicted = decide(&Params::default(), &fixed, &last, &left_at(0, 1000.0)).predicted;
        assert_eq!(predicted, Some(fixed.total()));
    }

    #[test]
    fn a_way_that_is_too_long_is_no_matter_of_belief() {
        let fixed = FixedCosts { round_trip: Duration::from_millis(200), ..FixedCosts::default() };
        let last = RoundStats { began: Duration::from_secs(3600), ..RoundStats::default() };
        assert!(!decide(&Params::default(), &fixed, &last, &left_at(0, 1000.0)).switches());
    }

    #[test]
    fn below_the_limit_a_round_that_pays_is_added() {
        let last = after_round(200.0 * MB);
        let decision = decide(&Params::default(), &FixedCosts::default(), &last, &left_at(64, 1500.0));
        assert!(!decision.switches(), "{}", decision.reason);
        assert!(decision.reason.contains("one more round"), "{}", decision.reason);
    }

    #[test]
    fn it_switches_when_another_round_would_not_pay() {
        let last = after_round(1400.0 * MB);
        let decision = decide(&Params::default(), &FixedCosts::default(), &last, &left_at(64, 1500.0));
        assert!(decision.switches(), "{}", decision.reason);
    }

    #[test]
    fn a_round_that_takes_a_fifth_off_pays_where_it_is_short_beside_all_before() {
        let switches = |began: u64, slowed: bool| {
            let last = RoundStats { began: Duration::from_secs(began), ..after_round(1200.0 * MB) };
            let standing = Standing { slowed, ..left_at(150, 1500.0) };
            decide(&Params::default(), &FixedCosts::default(), &last, &standing).switches()
        };
        assert!(switches(1, false), "a tenth of a second beside one");
        assert!(!switches(10, false));
        assert!(switches(10, true), "the guest pays for it");
    }

    #[test]
    fn rounds_below_the_limit_come_to_an_end() {
        let last = after_round(200.0 * MB);
        let standing = Standing { extra_rounds: MAX_EXTRA_ROUNDS, ..left_at(64, 1500.0) };
        let decision = decide(&Params::default(), &FixedCosts::default(), &last, &standing);
        assert!(decision.switches(), "{}", decision.reason);
    }

    #[test]
    fn a_speed_given_by_the_user_replaces_the_measured_one() {
        let params = Params { switchover_bandwidth: 10_000_000, ..Params::default() };
        let standing = Standing { extra_rounds: 8, ..left_at(64, 1500.0) };
        let decision = decide(&params, &FixedCosts::default(), &after_round(0.0), &standing);
        assert!(!decision.switches(), "{}", decision.reason);
    }

    #[test]
    fn an_idle_machine_of_zeros_switches_at_once() {
        let standing = Standing { wire_rate: None, ..left_at(0, 0.0) };
        assert!(decide(&Params::default(), &FixedCosts::default(), &after_round(0.0), &standing).switches());
    }

    #[test]
    fn the_limit_holds_where_no_speed_was_measured() {
        let standing = Standing { wire_rate: None, ..left_at(0, 0.0) };
        let decision = decide(&tight(), &FixedCosts::default(), &after_round(0.0), &standing);
        assert!(!decision.switches(), "{}", decision.reason);
        assert!(decision.reason.contains("below the fixed cost"), "{}", decision.reason);
        assert!(matches!(decision.advice, Some(Advice::RaiseDowntimeLimit { .. })));
    }

    #[test]
    fn a_paused_machine_waits_for_no_limit_once_nothing_is_left() {
        let paused = |standing| Standing { running: false, ..standing };
        let decide = |standing: Standing| {
            decide(&tight(), &FixedCosts::default(), &after_round(0.0), &paused(standing))
        };
        let decision = decide(left_at(0, 1000.0));
        assert!(decision.switches() && decision.reason.contains("paused"), "{}", decision.reason);
        let decision = decide(left_at(900, 1000.0));
        assert!(
            !decision.switches(),
            "the bandwidth limit holds for what can be sent before: {}",
            decision.reason
        );
    }

    #[test]
    fn what_a_bandwidth_limit_makes_of_the_forecast_is_told_and_how_to_mend_it() {
        let held = WireRate { bytes_per_second: 10.0 * MB, held_back: true };
        let standing = Standing { wire_rate: Some(held), ..left_at(64, 0.0) };
        let slow = Params { max_bandwidth: 10_000_000, ..Params::default() };
        let decision = decide(&slow, &FixedCosts::default(), &after_round(9.0 * MB), &standing);
        assert!(
            !decision.switches() && decision.reason.contains("held to the bandwidth limit"),
            "{}",
            decision.reason
        );
        assert_eq!(decision.advice, Some(Advice::TellSwitchoverBandwidth));
        let told = Params { switchover_bandwidth: 1_000_000_000, ..slow };
        let standing = Standing { extra_rounds: 8, ..standing };
        let decision = decide(&told, &FixedCosts::default(), &after_round(9.0 * MB), &standing);
        assert!(decision.switches() && !decision.reason.contains("held"), "{}", decision.reason);
    }
}
