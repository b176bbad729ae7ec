//! Ending by a certain time: which means are used, and when.
//!
//! A pure function of where a migration stands. It is asked after every round and several times a second within one, and begins from
//! nothing each time: what is not needed any more is not used any more. The user gives the means an order, which is that of the harm
//! they do in the user's eyes, and leaves out those that are forbidden. The first that is foretold to be enough is used, in no larger
//! measure than is needed; where it is not enough, the next is tried.

use std::time::Duration;

use crate::{
    Time,
    dirtying::{Pace, Position},
    fixed_costs::ms,
    throttle::{AIM, needed},
};

/// By when a migration is to end, and by which means.
#[derive(Clone, Debug, PartialEq)]
pub struct ByWhen {
    /// Since the start.
    pub deadline: Time,
    /// What may be used, in this order.
    pub means: Vec<Means>,
    /// The downtime limit may be raised up to this.
    pub longest_downtime: Duration,
}

/// What makes a migration end that does not by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Means {
    /// A downtime longer than the limit.
    Downtime,
    /// vCPUs are slowed down.
    Throttle,
    /// The machine runs at the destination before its memory is there.
    Postcopy,
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Since the start.
    pub now: Time,
    /// Pages, in the round under way or about to begin.
    pub position: Position,
    /// The first round is over.
    pub first_is_over: bool,
    /// Pages that are sent in a second.
    pub wire: f64,
    /// The same in the last pass, to which no limit applies.
    pub last_pass: f64,
    /// How the machine dirties its memory where nothing is taken from it, if that is known.
    pub pace: Option<Pace>,
    /// What the last round left of what it sent, if one was of the same kind as this.
    pub last_ratio: Option<f64>,
    /// The downtime limit.
    pub limit: Duration,
    /// What a switchover costs that does not depend on memory.
    pub fixed: Duration,
    /// What is taken of vCPUs now.
    pub share: f64,
    /// Most that may be taken of vCPUs, 0 where they cannot be slowed down.
    pub most: f64,
    /// Whether the machine may run at the destination before its memory is there.
    pub postcopy_is_possible: bool,
    /// Whether the machine runs.
    pub running: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The downtime limit that is in force.
    pub limit: Duration,
    /// What is taken from vCPUs.
    pub share: f64,
    /// Whether the machine is to run at the destination now.
    pub postcopy: bool,
    /// Why, in a sentence for people.
    pub reason: String,
    /// Whether it is foretold to be in time.
    pub in_time: bool,
}

/// Of the time that is left, so much is not counted on.
pub(crate) const RESERVE: f64 = 0.1;
/// What pages take that follow a machine, beside what they take on the wire: it waits for some, which come first.
pub(crate) const SLOWER: f64 = 1.25;
/// Of a switchover to postcopy, with what goes wrong in it.
const TO_SPARE: f64 = 1.0;
/// Throttling is given so many times what it is foretold to take: a machine may come to its end before without it, and forecasts
/// are not exact.
const TIMES: f64 = 2.0;
/// A longer downtime than is foretold to be enough, by this.
const CHANCE: f64 = 1.1;
/// Tries to find the least that is enough.
const HALVINGS: u32 = 12;

impl Means {
    /// As users write it.
    pub const ALL: [(&str, Self); 3] =
        [("downtime", Self::Downtime), ("throttle", Self::Throttle), ("postcopy", Self::Postcopy)];
}

impl Facts {
    /// Pages that may be left for the last pass.
    fn enough(&self, limit: Duration) -> f64 {
        limit.saturating_sub(self.fixed).as_secs_f64() * self.last_pass
    }

    /// Seconds to the end with this limit, and vCPUs that run for the share `run` of their time; `None` if that does not come, or
    /// is not known.
    fn seconds(&self, limit: Duration, run: f64) -> Option<f64> {
        if self.wire <= 0.0 {
            return None;
        }
        let enough = self.enough(limit);
        if self.position.dirty <= enough {
            return Some(self.position.dirty / self.wire);
        }
        let modelled = self.pace.and_then(|pace| pace.at(run).seconds_to(self.position, enough));
        // Rounds that become shorter by themselves go on doing so, whatever a model of them says.
        let shrinking = self
            .last_ratio
            .filter(|ratio| run >= 1.0 && *ratio < crate::throttle::LITTLE_GAIN)
            .map(|ratio| {
                (self.position.unsent.max(self.position.dirty) - enough * ratio).max(0.0)
                    / (1.0 - ratio)
                    / self.wire
            });
        match (modelled, shrinking) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Seconds that pages take which follow the machine from now on.
    fn seconds_by_postcopy(&self) -> f64 {
        if self.wire > 0.0 { self.position.dirty / self.wire * SLOWER + TO_SPARE } else { f64::INFINITY }
    }
}

impl ByWhen {
    /// What is to be done now.
    #[must_use]
    pub fn plan(&self, facts: &Facts) -> Plan {
        let left = self.deadline.saturating_sub(facts.now + facts.fixed).as_secs_f64();
        let counted_on = left * (1.0 - RESERVE);
        let nothing = |reason: String, in_time| Plan {
            limit: facts.limit,
            share: 0.0,
            postcopy: false,
            reason,
            in_time,
        };
        let within = |seconds: Option<f64>| seconds.filter(|seconds| *seconds <= counted_on);
        if let Some(seconds) = within(facts.seconds(facts.limit, 1.0)) {
            let plan = nothing(format!("On time by itself: {seconds:.1} s foretold, {left:.1} s left"), true);
            // Where that is so because vCPUs were slowed down, they are until the machine is stopped.
            let is_needed = facts.pace.is_some_and(|pace| needed(&pace, AIM) > 0.0);
            return Plan { share: if is_needed { facts.share } else { 0.0 }, ..plan };
        }
        if !facts.first_is_over
            && facts.position.unsent / facts.wire.max(1.0) <= counted_on
            && !self.last_moment(facts, counted_on)
        {
            return nothing(
                format!("{left:.1} s left: the first round tells how fast memory is dirtied"),
                true,
            );
        }
        let is_unknown = facts.pace.is_none() && facts.last_ratio.is_none() && facts.first_is_over;
        if is_unknown && left > 0.0 && !self.last_moment(facts, counted_on) {
            return nothing(format!("{left:.1} s left: how fast memory is dirtied is being measured"), true);
        }
        if !facts.running {
            return nothing(format!("{left:.1} s left, and nothing is dirtied: the machine is paused"), true);
        }
        let mut limit = facts.limit;
        for means in &self.means {
            let plan = match means {
                Means::Downtime => {
                    limit = limit.max(self.longest_downtime);
                    self.by_downtime(facts, counted_on)
                }
                Means::Throttle => by_throttle(facts, limit, counted_on),
                Means::Postcopy => self.by_postcopy(facts, counted_on),
            };
            if let Some(plan) = plan {
                return plan;
            }
        }
        self.too_late(facts, limit, left)
    }

    fn allows(&self, means: Means) -> bool {
        self.means.contains(&means)
    }

    fn by_downtime(&self, facts: &Facts, counted_on: f64) -> Option<Plan> {
        let seconds = |limit| facts.seconds(limit, 1.0).filter(|seconds| *seconds <= counted_on);
        if self.longest_downtime <= facts.limit || !facts.first_is_over {
            return None;
        }
        seconds(self.longest_downtime)?;
        let (mut low, mut high) = (facts.limit, self.longest_downtime);
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2;
            if seconds(middle).is_some() { high = middle } else { low = middle }
        }
        // With no more than what is foretold to be enough half of the rounds would not come to it, whose pages are dirtied by chance.
        high = high.mul_f64(CHANCE).min(self.longest_downtime);
        let reason = format!(
            "A downtime of {:.0} ms is accepted: with {:.0} ms it would not end in time",
            ms(high).ceil(),
            ms(facts.limit)
        );
        Some(Plan { limit: high, share: 0.0, postcopy: false, reason, in_time: true })
    }

    /// Whether it must be now that the machine runs at the destination, to be in time.
    fn last_moment(&self, facts: &Facts, counted_on: f64) -> bool {
        self.allows(Means::Postcopy)
            && facts.postcopy_is_possible
            && facts.seconds_by_postcopy() >= counted_on
    }

    fn by_postcopy(&self, facts: &Facts, counted_on: f64) -> Option<Plan> {
        if !facts.postcopy_is_possible || facts.wire <= 0.0 {
            return None;
        }
        let takes = facts.seconds_by_postcopy();
        // Rounds go on as long as there is time: they may come to an end yet, and what they send need not follow.
        let postcopy = takes >= counted_on * 0.95;
        let reason = if postcopy {
            format!("Postcopy from here on: its pages take {takes:.1} s, and no longer is left")
        } else {
            format!("Postcopy follows in {:.1} s if rounds have not come to an end", counted_on - takes)
        };
        Some(Plan { limit: facts.limit, share: 0.0, postcopy, reason, in_time: takes <= counted_on * 1.1 })
    }

    /// No means that is allowed is foretold to be enough: all are used.
    fn too_late(&self, facts: &Facts, limit: Duration, left: f64) -> Plan {
        let share = if self.allows(Means::Throttle) && facts.first_is_over { facts.most } else { 0.0 };
        let passed =
            if left <= 0.0 { "The deadline has passed".to_owned() } else { format!("{left:.1} s left") };
        let when = match facts.seconds(limit, 1.0 - share) {
            Some(seconds) => format!("{seconds:.1} s are foretold"),
            None if facts.first_is_over => "no end is foretold".into(),
            None => {
                format!("the first round alone takes {:.1} s", facts.position.unsent / facts.wire.max(1.0))
            }
        };
        let reason = format!("{passed}, and {when} by the means that are allowed");
        Plan { limit, share, postcopy: false, reason, in_time: false }
    }
}

fn by_throttle(facts: &Facts, limit: Duration, counted_on: f64) -> Option<Plan> {
    let seconds = |share: f64| facts.seconds(limit, 1.0 - share).filter(|seconds| *seconds <= counted_on);
    if facts.most <= 0.0 || !facts.first_is_over || facts.pace.is_none() {
        return None;
    }
    let fastest = seconds(facts.most)?;
    // Little is taken for long otherwise, which is more in all.
    let least = facts.pace.map_or(0.0, |pace| needed(&pace, AIM)).min(facts.most);
    if let Some(takes) = seconds(least).filter(|takes| facts.share == 0.0 && takes * TIMES <= counted_on) {
        let wait = counted_on - takes * TIMES;
        let reason = format!(
            "{:.0} % of vCPU time is taken in {wait:.1} s if rounds have not come to an end: that takes {takes:.1} s",
            least * 100.0
        );
        return Some(Plan { limit: facts.limit, share: 0.0, postcopy: false, reason, in_time: true });
    }
    // The same reserve as before it began, as far as that can be had: more is taken as soon as it is used up, not at the end.
    let within = |share: f64, time: f64| seconds(share).is_some_and(|seconds| seconds <= time);
    let time = (counted_on / TIMES).max(fastest * 1.05).min(counted_on);
    let (mut low, mut high) = (least, facts.most);
    if within(least, time) {
        high = least;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if within(middle, time) { high = middle } else { low = middle }
    }
    let reason =
        format!("{:.0} % of vCPU time is taken: without that it would not end in time", high * 100.0);
    Some(Plan { limit, share: high, postcopy: false, reason, in_time: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn by(deadline: u64, means: &[Means]) -> ByWhen {
        ByWhen { deadline: s(deadline), means: means.to_vec(), longest_downtime: s(2) }
    }

    const ALL: [Means; 3] = [Means::Downtime, Means::Throttle, Means::Postcopy];

    /// 10,000 pages at 1000 a second, dirtied `ratio` times as fast as they are sent.
    fn busy(now: u64, ratio: f64) -> Facts {
        let pace = Pace { working_set: 10_000.0, hazard: ratio / 10.0, wire: 1000.0 };
        Facts {
            now: s(now),
            position: Position { unsent: 7000.0, dirty: 7000.0 },
            first_is_over: true,
            wire: 1000.0,
            last_pass: 1000.0,
            pace: Some(pace),
            last_ratio: Some(1.0),
            limit: Duration::from_millis(300),
            fixed: Duration::from_millis(2),
            share: 0.0,
            most: 0.99,
            postcopy_is_possible: true,
            running: true,
        }
    }

    #[test]
    fn a_machine_that_converges_in_time_is_left_alone() {
        for facts in [busy(10, 0.4), Facts { pace: None, last_ratio: Some(0.4), ..busy(10, 4.0) }] {
            let plan = by(60, &ALL).plan(&facts);
            assert_eq!((plan.share, plan.postcopy, plan.limit), (0.0, false, facts.limit), "{plan:?}");
            assert!(plan.in_time && plan.reason.starts_with("On time by itself"), "{plan:?}");
        }
    }

    #[test]
    fn the_first_means_that_is_enough_is_used_in_no_larger_measure_than_needed() {
        let slightly = Facts { position: Position { unsent: 2500.0, dirty: 2500.0 }, ..busy(10, 1.1) };
        let plan = by(60, &ALL).plan(&slightly);
        assert!(plan.share == 0.0 && plan.limit > slightly.limit && plan.limit <= s(2), "{plan:?}");
        let later = by(600, &[Means::Throttle]).plan(&busy(10, 4.0));
        assert!(
            later.share == 0.0 && later.in_time && later.reason.contains("if rounds have not come"),
            "{later:?}"
        );
        let plan = by(32, &[Means::Throttle]).plan(&busy(10, 4.0));
        assert!(plan.share > 0.7 && plan.share < 0.95 && !plan.postcopy, "{plan:?}");
        let soon = by(22, &[Means::Throttle]).plan(&busy(10, 4.0));
        assert!(soon.share > plan.share, "less time takes more: {soon:?} {plan:?}");
        let used_up = Facts { share: 0.82, ..busy(12, 4.0) };
        assert!(
            by(32, &[Means::Throttle]).plan(&used_up).share > plan.share,
            "nothing came of the first two seconds"
        );
        let with_both = by(32, &ALL).plan(&busy(10, 4.0));
        assert!(with_both.share <= plan.share, "what harms less comes first: {with_both:?}");
    }

    #[test]
    fn a_machine_that_is_slowed_down_stays_so_until_it_is_stopped() {
        let slowed =
            Facts { share: 0.8, position: Position { unsent: 200.0, dirty: 200.0 }, ..busy(30, 4.0) };
        let plan = by(60, &[Means::Throttle]).plan(&slowed);
        assert!((plan.share - 0.8).abs() < 1e-9, "{plan:?}");
        let half_way = Facts { position: Position { unsent: 3000.0, dirty: 3000.0 }, ..slowed };
        assert!(by(600, &[Means::Throttle]).plan(&half_way).share > 0.5, "it does not wait again");
        let calm = Facts { pace: busy(0, 0.2).pace, ..slowed };
        assert_eq!(by(60, &[Means::Throttle]).plan(&calm).share, 0.0, "it has become calm");
    }

    #[test]
    fn what_is_forbidden_is_not_used() {
        let plan = by(60, &[Means::Postcopy]).plan(&busy(10, 4.0));
        assert!(
            plan.share == 0.0 && !plan.postcopy && plan.reason.contains("Postcopy follows in"),
            "{plan:?}"
        );
        let plan = by(60, &[Means::Throttle]).plan(&busy(59, 4.0));
        assert!(!plan.postcopy && !plan.in_time && plan.share > 0.98, "{plan:?}");
        let plan = by(60, &[]).plan(&busy(59, 4.0));
        assert_eq!((plan.share, plan.postcopy, plan.limit), (0.0, false, Duration::from_millis(300)));
    }

    #[test]
    fn postcopy_comes_at_the_last_moment_that_is_in_time() {
        let by_when = by(60, &[Means::Postcopy]);
        let began = (0..60).find(|now| by_when.plan(&busy(*now, 4.0)).postcopy).unwrap();
        assert!((40..52).contains(&began), "{began}");
    }

    #[test]
    fn nothing_is_taken_in_the_first_round_and_postcopy_not_before_it_must() {
        let first = |now| Facts {
            first_is_over: false,
            pace: None,
            last_ratio: None,
            position: Position { unsent: 20_000.0, dirty: 20_000.0 },
            ..busy(now, 4.0)
        };
        let plan = by(60, &ALL).plan(&first(5));
        assert!(plan.share == 0.0 && !plan.postcopy && plan.in_time, "{plan:?}");
        let late = by(60, &ALL).plan(&first(40));
        assert!(late.postcopy && late.share == 0.0, "{late:?}");
        let hopeless = by(60, &[Means::Throttle]).plan(&first(50));
        assert!(!hopeless.in_time && hopeless.share == 0.0, "{hopeless:?}");
        assert!(hopeless.reason.contains("the first round alone takes 20.0 s"), "{hopeless:?}");
    }

    #[test]
    fn odd_deadlines_and_figures_do_no_harm() {
        for deadline in [0, 1, 31_536_000] {
            for wire in [0.0, 1e-9, 1e12] {
                for hazard in [0.0, 1e-12, 1e9] {
                    let pace = Pace { working_set: 0.0, hazard, wire };
                    let facts = Facts { wire, last_pass: wire, pace: Some(pace), ..busy(3, 1.0) };
                    for means in [&ALL[..], &[]] {
                        let plan = by(deadline, means).plan(&facts);
                        assert!((0.0..=0.99).contains(&plan.share) && plan.limit <= s(2), "{plan:?}");
                    }
                }
            }
        }
    }
}
