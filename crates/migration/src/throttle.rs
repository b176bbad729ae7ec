//! How much of their time is taken from vCPUs, so that a migration comes to its end.
//!
//! Two ways: *computed* takes what is needed at once, from how fast memory is dirtied and how fast it is sent; *steps* takes a little
//! more each time that too much was dirtied, as QEMU's auto-converge does with its parameters. Beside these a *limit* has each vCPU
//! dirty no more than the user says, and no share is decided on here.
//!
//! Nothing is taken before the first round is over, which sends all memory whatever is dirtied, nor where rounds become shorter by
//! themselves. What was taken is given back when the machine is stopped, and at every end of an attempt: [`crate::Source`] sees to
//! that in one place.

use crate::{DirtyLimit, dirtying::Pace};

/// Whether vCPUs may be slowed down, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Throttling {
    /// Not at all.
    #[default]
    Off,
    /// As much as is computed to be needed, but no more than this share of their time, 0 to [`MOST`].
    Computed {
        /// Most that may be taken.
        max: f64,
    },
    /// As QEMU does it.
    Steps(Steps),
    /// As much as it takes that none dirties more than this.
    Limit(DirtyLimit),
}

/// QEMU's parameters of auto-converge, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// What is taken first, 1 to 99.
    pub initial: u8,
    /// What is added each time that it was not enough, 1 to 99.
    pub increment: u8,
    /// Most that is taken, `initial` to 99.
    pub max: u8,
    /// Add no more than is computed to be needed.
    pub tailslow: bool,
    /// Too much was dirtied in a round: this much of what was sent in it, 1 to 100.
    pub trigger: u8,
}

/// What is taken, and what that rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Throttle {
    share: f64,
    /// Rounds, one after the other, in which too much was dirtied.
    strikes: u8,
    /// Rounds have called for a limit.
    is_limiting: bool,
}

/// A round that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Pages that were sent in it.
    pub sent: u64,
    /// Pages that are dirty at its end.
    pub dirty: u64,
    /// How the machine dirties its memory, if that is known.
    pub pace: Option<Pace>,
}

/// Most that is ever taken.
pub const MOST: f64 = 0.99;
/// A round that leaves more than this share of what it sent did not get far.
pub const LITTLE_GAIN: f64 = 0.75;
/// What is computed makes each round this share of the one before.
pub(crate) const AIM: f64 = 0.7;
/// A change of less is none.
const NOTICEABLE: f64 = 0.01;
/// As in QEMU: the second time counts.
const STRIKES: u8 = 2;

impl Default for Steps {
    /// QEMU's.
    fn default() -> Self {
        Self { initial: 20, increment: 10, max: 99, tailslow: false, trigger: 50 }
    }
}

impl Throttling {
    /// Most that may be taken, 0 where nothing may.
    #[must_use]
    pub fn max(&self) -> f64 {
        match self {
            Self::Off | Self::Limit(_) => 0.0,
            Self::Computed { max } => max.clamp(0.0, MOST),
            Self::Steps(steps) => f64::from(steps.max) / 100.0,
        }
    }
}

impl Throttle {
    /// What is taken now, 0 to [`MOST`].
    #[must_use]
    pub fn share(&self) -> f64 {
        self.share
    }

    /// For how much of its time a vCPU is let run.
    #[must_use]
    pub fn run(&self) -> f64 {
        1.0 - self.share
    }

    /// Rounds, one after the other, in which too much was dirtied.
    #[must_use]
    pub fn strikes(&self) -> u8 {
        self.strikes
    }

    /// Whether rounds have called for a limit to what vCPUs dirty.
    #[must_use]
    pub fn is_limiting(&self) -> bool {
        self.is_limiting
    }

    /// Takes this share from here on. Returns whether that is another.
    pub fn take(&mut self, share: f64) -> bool {
        let share = if share < NOTICEABLE { 0.0 } else { share.min(MOST) };
        let changes = (share - self.share).abs() >= NOTICEABLE || (share == 0.0) != (self.share == 0.0);
        if changes {
            self.share = share;
        }
        changes
    }

    /// What to take after a round that did not bring the end within reach. Returns why, if it is another share than before.
    pub fn after(&mut self, way: &Throttling, round: &Round) -> Option<String> {
        match way {
            Throttling::Off => None,
            Throttling::Limit(limit) => self.limit(limit, round),
            Throttling::Computed { .. } => self.compute(way.max(), round),
            Throttling::Steps(steps) => self.step(steps, round),
        }
    }

    /// The same within a round that is foretold to leave so much: only more is taken, and nothing because it was not enough.
    pub fn within(&mut self, way: &Throttling, round: &Round) -> Option<String> {
        let needed = needed(round.pace.as_ref()?, AIM).min(way.max());
        if !matches!(way, Throttling::Computed { .. }) || needed <= self.share {
            return None;
        }
        self.compute(way.max(), round)
    }

    /// Takes about this share, which was worked out anew: more at once, less in steps. Returns whether that is another.
    pub fn toward(&mut self, share: f64) -> bool {
        match () {
            () if share > self.share + 2.0 * NOTICEABLE => self.take(share),
            () if share == 0.0 && self.share < 0.1 => self.take(0.0),
            () if share < self.share - 0.1 => self.take((self.share + share) / 2.0),
            () => false,
        }
    }

    fn compute(&mut self, max: f64, round: &Round) -> Option<String> {
        let pace = round.pace?;
        let before = self.share;
        let wanted = needed(&pace, AIM).min(max);
        let gained_little = round.dirty as f64 > LITTLE_GAIN * round.sent as f64;
        let share = match () {
            // What was computed is not enough: the guest does more with the time that it has.
            () if gained_little && wanted <= before => (1.0 - self.run() * 0.8).min(max),
            () if gained_little => wanted,
            // In steps: a guest that has work waiting dirties more when it is let.
            () if wanted + 0.1 < before => before - (before - wanted) / 2.0,
            () => before,
        };
        self.take(share).then(|| {
            format!(
                "{:.0} % of vCPU time is taken: memory would be dirtied {:.1} times as fast as it is sent",
                self.share * 100.0,
                pace.ratio()
            )
        })
    }

    /// As QEMU does with its capability `dirty-limit`: from the second time on, until the rounds are over.
    fn limit(&mut self, limit: &DirtyLimit, round: &Round) -> Option<String> {
        let dirty = round.dirty as f64;
        if self.is_limiting || !self.strikes_out(dirty, threshold(round, limit.trigger)) {
            return None;
        }
        self.is_limiting = true;
        Some(format!(
            "No vCPU dirties more than {:.1} MB/s: twice in a row more than {} % of what was sent was dirtied",
            limit.bytes_per_second as f64 / 1e6,
            limit.trigger
        ))
    }

    /// Whether too much was dirtied, and not for the first time.
    fn strikes_out(&mut self, dirty: f64, threshold: f64) -> bool {
        if dirty <= threshold {
            return false;
        }
        self.strikes += 1;
        if self.strikes < STRIKES {
            return false;
        }
        self.strikes = 0;
        true
    }

    /// QEMU's migration_trigger_throttle() and mig_throttle_guest_down(), for a round where QEMU has a period.
    fn step(&mut self, steps: &Steps, round: &Round) -> Option<String> {
        let threshold = threshold(round, steps.trigger);
        let dirty = round.dirty as f64;
        if !self.strikes_out(dirty, threshold) {
            return None;
        }
        let now = (self.share * 100.0).round();
        let max = f64::from(steps.max);
        let percent = if now == 0.0 {
            f64::from(steps.initial)
        } else if steps.tailslow {
            let run = 100.0 - now;
            (now + (run - run * threshold / dirty).min(f64::from(steps.increment))).min(max)
        } else {
            (now + f64::from(steps.increment)).min(max)
        };
        self.take(percent / 100.0).then(|| {
            format!(
                "{percent:.0} % of vCPU time is taken: twice in a row more than {} % of what was sent was dirtied",
                steps.trigger
            )
        })
    }
}

/// Pages of more than which too much was dirtied in a round.
fn threshold(round: &Round, trigger: u8) -> f64 {
    round.sent as f64 * f64::from(trigger) / 100.0
}

/// The share to take so that a round is `aim` of the one before: wire rate / dirty rate × present share, of a rate at which vCPUs are
/// not slowed down.
#[must_use]
pub fn needed(pace: &Pace, aim: f64) -> f64 {
    let ratio = pace.ratio();
    if ratio <= aim { 0.0 } else { (1.0 - aim / ratio).clamp(0.0, MOST) }
}

/// What to take from each vCPU, where `writes` are the pages that each dirtied of late: from those that write, alike, and nothing from
/// those that do not. From all where that is not known, or none of them wrote.
#[must_use]
pub fn spread(share: f64, writes: &[Option<u64>]) -> Vec<f64> {
    /// A vCPU that dirties less than this part of what the busiest one does only reads, as far as a migration is concerned.
    const WRITES: u64 = 20;
    let most = writes.iter().copied().max().flatten().filter(|most| *most > 0);
    let takes = |own: &Option<u64>| match (own, most) {
        (Some(own), Some(most)) => own.saturating_mul(WRITES) >= most,
        _ => true,
    };
    writes.iter().map(|own| if takes(own) { share } else { 0.0 }).collect()
}

/// What to take from each vCPU so that all together dirty memory as if `share` had been taken from each, and as little as can be is taken in
/// all: from those that dirty most, until none dirties more than another of them. Nothing from those that dirty less than that. No more
/// than `most` from any. `free` is how fast each dirties when nothing is taken from it; where that is not known, or none does, from all alike.
#[must_use]
pub fn from_the_busiest(share: f64, most: f64, free: &[Option<f64>]) -> Vec<f64> {
    if share <= 0.0 {
        return vec![0.0; free.len()];
    }
    let known: Option<Vec<f64>> = free.iter().copied().collect();
    let Some(rates) = known.filter(|rates| rates.iter().sum::<f64>() > 0.0) else {
        return vec![share.min(most); free.len()];
    };
    let all = rates.iter().sum::<f64>() * (1.0 - share);
    let cap = cap(&rates, all);
    rates.iter().map(|rate| if *rate > cap { (1.0 - cap / rate).min(most) } else { 0.0 }).collect()
}

/// What none may be more than, so that the sum is no more than `all`.
fn cap(rates: &[f64], all: f64) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut left = all;
    for (index, rate) in sorted.iter().enumerate() {
        let even = left / (sorted.len() - index) as f64;
        if *rate > even {
            return even;
        }
        left -= rate;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn round(sent: u64, dirty: u64, ratio: f64) -> Round {
        let pace = Pace { working_set: 1000.0, hazard: ratio, wire: 1000.0 };
        Round { sent, dirty, pace: Some(pace) }
    }

    const COMPUTED: Throttling = Throttling::Computed { max: 0.99 };

    #[test]
    fn a_machine_whose_rounds_become_shorter_is_left_alone() {
        let mut throttle = Throttle::default();
        for dirty in [700, 500, 100, 0] {
            assert_eq!(throttle.after(&COMPUTED, &round(1000, dirty, 0.6)), None);
            assert_eq!(throttle.after(&COMPUTED, &round(1000, dirty, 3.0)), None, "however busy it seems");
        }
        assert_eq!(throttle.share(), 0.0);
    }

    #[test]
    fn what_is_needed_is_taken_at_once() {
        let mut throttle = Throttle::default();
        let why = throttle.after(&COMPUTED, &round(1000, 990, 3.5)).unwrap();
        assert!((throttle.share() - 0.8).abs() < 1e-9, "{why}");
        assert!(why.starts_with("80 % of vCPU time is taken") && why.contains("3.5 times"), "{why}");
    }

    #[test]
    fn more_is_taken_where_that_was_not_enough_and_never_more_than_is_allowed() {
        let mut throttle = Throttle::default();
        let shares: Vec<_> = (0..20)
            .map(|_| {
                throttle.after(&Throttling::Computed { max: 0.9 }, &round(1000, 990, 2.0));
                throttle.share()
            })
            .collect();
        assert!(shares.is_sorted() && shares[1] > shares[0], "{shares:?}");
        assert!((shares[19] - 0.9).abs() < 1e-9, "{shares:?}");
    }

    #[test]
    fn a_guest_that_speeds_up_when_it_is_let_does_not_swing() {
        // It has work waiting: the less is taken from it, the more it does in the time that it has.
        let mut throttle = Throttle::default();
        let mut shares = Vec::new();
        for _ in 0..30 {
            let ratio = if throttle.share() > 0.6 { 1.5 } else { 3.0 };
            let dirty = (1000.0 * (ratio * throttle.run()).min(1.0)) as u64;
            throttle.after(&COMPUTED, &round(1000, dirty, ratio));
            shares.push(throttle.share());
        }
        let late = &shares[10..];
        let (low, high) =
            late.iter().fold((1.0_f64, 0.0_f64), |(low, high), share| (low.min(*share), high.max(*share)));
        assert!(low > 0.5 && high - low < 0.25, "{shares:?}");
    }

    #[test]
    fn steps_are_qemus() {
        let way = Throttling::Steps(Steps::default());
        let mut throttle = Throttle::default();
        let shares: Vec<_> = (0..8)
            .map(|_| {
                throttle.after(&way, &Round { sent: 100, dirty: 60, pace: None });
                (throttle.share() * 100.0).round()
            })
            .collect();
        assert_eq!(shares, [0.0, 20.0, 20.0, 30.0, 30.0, 40.0, 40.0, 50.0]);
        assert_eq!(throttle.after(&way, &Round { sent: 100, dirty: 50, pace: None }), None);
    }

    #[test]
    fn a_limit_is_called_for_once_and_by_the_second_round_that_leaves_too_much() {
        let limit = DirtyLimit { bytes_per_second: 1 << 20, period: Duration::from_secs(1), trigger: 50 };
        let way = Throttling::Limit(limit);
        let mut throttle = Throttle::default();
        let mut calls = |dirty| {
            let why = throttle.after(&way, &Round { sent: 100, dirty, pace: None });
            (why.is_some(), throttle.is_limiting())
        };
        assert_eq!(calls(50), (false, false));
        assert_eq!(calls(60), (false, false));
        assert_eq!(calls(60), (true, true));
        assert_eq!(calls(100), (false, true));
        assert_eq!((way.max(), throttle.share()), (0.0, 0.0), "no share is decided on");
    }

    #[test]
    fn steps_end_at_their_maximum_and_are_small_at_the_tail() {
        let after = |steps, dirty| {
            let mut throttle = Throttle::default();
            for _ in 0..40 {
                throttle.after(&Throttling::Steps(steps), &Round { sent: 100, dirty, pace: None });
            }
            throttle.share()
        };
        assert!((after(Steps { max: 45, ..Steps::default() }, 100) - 0.45).abs() < 1e-9);
        let tail = |tailslow| {
            let mut throttle = Throttle::default();
            for _ in 0..4 {
                let way = Throttling::Steps(Steps { tailslow, ..Steps::default() });
                throttle.after(&way, &Round { sent: 100, dirty: 52, pace: None });
            }
            throttle.share()
        };
        assert!((tail(false) - 0.3).abs() < 1e-9 && tail(true) < 0.25, "{} {}", tail(false), tail(true));
    }

    #[test]
    fn what_is_computed_is_taken_from_the_busiest() {
        let close = |found: &[f64], wanted: &[f64]| {
            assert!(
                found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9),
                "{found:?} is not {wanted:?}"
            );
        };
        // Together they dirty 110; 55 are left, of which 16 are the second's.
        close(&from_the_busiest(0.5, 0.99, &[Some(94.0), Some(16.0)]), &[1.0 - 39.0 / 94.0, 0.0]);
        close(&from_the_busiest(0.5, 0.99, &[Some(100.0), Some(100.0), Some(0.0)]), &[0.5, 0.5, 0.0]);
        close(&from_the_busiest(0.9, 0.99, &[Some(100.0), Some(20.0)]), &[0.94, 0.7]);
        close(&from_the_busiest(0.9, 0.8, &[Some(100.0), Some(1.0)]), &[0.8, 0.0]);
        close(&from_the_busiest(0.4, 0.99, &[Some(1.0), None]), &[0.4, 0.4]);
        close(&from_the_busiest(0.4, 0.3, &[Some(0.0), Some(0.0)]), &[0.3, 0.3]);
        close(&from_the_busiest(0.0, 0.99, &[Some(5.0), Some(7.0)]), &[0.0, 0.0]);
    }

    #[test]
    fn only_vcpus_that_write_are_slowed_down() {
        assert_eq!(spread(0.5, &[Some(1000), Some(3), Some(900), Some(0)]), [0.5, 0.0, 0.5, 0.0]);
        assert_eq!(spread(0.5, &[None, None]), [0.5, 0.5]);
        assert_eq!(spread(0.5, &[Some(0), Some(0)]), [0.5, 0.5], "nobody is known to write");
        assert_eq!(spread(0.0, &[Some(9)]), [0.0]);
    }
}
