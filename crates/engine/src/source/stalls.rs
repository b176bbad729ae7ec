//! What vCPUs spent in each round, besides running the guest.

use std::{collections::VecDeque, time::Duration};

use migration::stats::MAX_ROUNDS_KEPT;

use crate::VcpuTimes;

/// What all vCPUs together spent in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundStalls {
    /// Number of the round, from 0.
    pub round: u32,
    /// See [`VcpuTimes::faults`].
    pub faults: Option<u64>,
    /// See [`VcpuTimes::kernel`].
    pub kernel: Duration,
    /// See [`VcpuTimes::waiting`].
    pub waiting: Duration,
}

/// The rounds that are over, as many as the statistics keep.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    last: Option<VcpuTimes>,
    rounds: VecDeque<RoundStalls>,
}

impl Stalls {
    /// The first round begins.
    pub(super) fn begin(&mut self, now: Option<VcpuTimes>) {
        self.last = now;
    }

    /// A round is over.
    pub(super) fn end_round(&mut self, round: u32, now: Option<VcpuTimes>) {
        if let (Some(last), Some(now)) = (self.last, now) {
            if self.rounds.len() == MAX_ROUNDS_KEPT {
                self.rounds.pop_front();
            }
            self.rounds.push_back(RoundStalls {
                round,
                faults: now.faults.zip(last.faults).map(|(now, last)| now.saturating_sub(last)),
                kernel: now.kernel.saturating_sub(last.kernel),
                waiting: now.waiting.saturating_sub(last.waiting),
            });
        }
        self.last = now;
    }

    pub(super) fn rounds(&self) -> Vec<RoundStalls> {
        self.rounds.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(faults: Option<u64>, kernel: u64, waiting: u64) -> Option<VcpuTimes> {
        Some(VcpuTimes {
            faults,
            kernel: Duration::from_millis(kernel),
            waiting: Duration::from_millis(waiting),
        })
    }

    #[test]
    fn each_round_has_what_was_spent_in_it() {
        let mut stalls = Stalls::default();
        stalls.begin(times(Some(100), 10, 1));
        stalls.end_round(0, times(Some(700), 40, 1));
        stalls.end_round(1, times(None, 41, 3));
        let rounds = stalls.rounds();
        assert_eq!(
            (rounds[0].faults, rounds[0].kernel.as_millis(), rounds[0].waiting.as_millis()),
            (Some(600), 30, 0)
        );
        assert_eq!(
            (rounds[1].faults, rounds[1].kernel.as_millis(), rounds[1].waiting.as_millis()),
            (None, 1, 2)
        );
    }

    #[test]
    fn of_thousands_of_rounds_the_last_are_kept() {
        let mut stalls = Stalls::default();
        stalls.begin(times(None, 0, 0));
        (0..1000).for_each(|round| stalls.end_round(round, times(None, 0, 0)));
        assert_eq!(
            (stalls.rounds().len(), stalls.rounds()[0].round),
            (MAX_ROUNDS_KEPT, 1000 - MAX_ROUNDS_KEPT as u32)
        );
    }
}
