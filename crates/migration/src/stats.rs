//! What is counted, and what is foretold from it.

use std::{collections::VecDeque, time::Duration};

use wire::{Greeted, PageCounts};

use crate::{Advice, PAGE_BYTES, PageCost, Time, WireRate, wire_rate::WireMeter};

/// Rounds that are kept one by one; older ones only count in the totals. A machine that never converges makes thousands.
pub const MAX_ROUNDS_KEPT: usize = 256;

/// One round, as it went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundStats {
    /// Number of the round; 0 is the one that sends all memory.
    pub round: u32,
    /// Bytes on the wire, headers included.
    pub bytes: u64,
    /// Pages sent.
    pub pages: PageCounts,
    /// When its first byte was due, since the start.
    pub began: Time,
    /// From the first byte to the last.
    pub duration: Duration,
    /// Pages found dirty when the round was over.
    pub dirty_pages: u64,
    /// Bytes per second that the machine dirtied during the round, counting a page once.
    pub dirty_rate: f64,
    /// Bytes per second on the wire.
    pub wire_rate: f64,
    /// Whether the bandwidth limit, not the wire, set that speed.
    pub held_back: bool,
    /// What was decided after the round, and why.
    pub decision: String,
    /// When that was, since the start.
    pub decided: Time,
    /// Downtime that was foretold after the round.
    pub predicted: Option<Duration>,
}

/// Where the downtime went, as the source sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Downtime {
    /// Stopping vCPUs, quiescing devices, flushing disks.
    pub stop: Duration,
    /// Waiting for the user, where that was asked for.
    pub waiting: Duration,
    /// Reading the dirty log for the last time.
    pub last_fetch: Duration,
    /// Sending the last pages (runs beside `save`).
    pub last_pass: Duration,
    /// Saving and sending device states.
    pub save: Duration,
    /// At the destination: from the last message to *ready* (states loaded, memory whole, disks locked).
    pub load: Duration,
    /// From *complete* to *ready*, as the source waited: `load` and a round trip.
    pub ready: Duration,
    /// At the destination: from *go* to running.
    pub start: Duration,
    /// From *go* to *running*, as the source waited: `start` and a round trip.
    pub go: Duration,
    /// Everything: from the order to stop until the destination said *running*; `None` where it never did.
    pub total: Option<Duration>,
}

/// All figures of an attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    pub(crate) wire: WireMeter,
    pub(crate) cost: PageCost,
    /// The last [`MAX_ROUNDS_KEPT`] rounds that are over.
    pub rounds: VecDeque<RoundStats>,
    /// Times the dirty log was read, QEMU's `dirty-sync-count`.
    pub dirty_syncs: u32,
    /// Bytes on the wire in rounds that are over.
    pub bytes: u64,
    /// Of these, in the last pass.
    pub downtime_bytes: u64,
    /// Pages sent in rounds that are over.
    pub pages: PageCounts,
    /// Pages that are dirty and not sent, as of the last count.
    pub remaining_pages: u64,
    /// From the start to the first page.
    pub setup: Duration,
    /// Where the downtime went; filled as far as it got.
    pub downtime: Downtime,
    /// From the start to the end; `None` while it runs.
    pub total: Option<Duration>,
    /// Last foretold downtime.
    pub predicted: Option<Duration>,
    /// The last decision, or why the attempt ended.
    pub reason: String,
    /// What people can do, where it does not come to its end by itself.
    pub advice: Option<Advice>,
    /// Decisions that were not taken by the end of a round alone, with the time: the last [`MAX_ROUNDS_KEPT`].
    pub decisions: VecDeque<(Time, String)>,
    /// When the machine was told to stop, since the start; `None` before.
    pub stopped: Option<Time>,
    /// The destination's release, and what both sides can do, once they have greeted.
    pub destination: Option<Greeted>,
}

/// How far an attempt is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// 0 to 100. Runs backwards only together with a [`Self::note`].
    pub percentage: f64,
    /// Time until the machine runs at the destination; `None` when it will not get there at this rate.
    pub eta: Option<Duration>,
    /// Why `percentage` ran backwards or `eta` is missing.
    pub note: Option<String>,
}

impl Statistics {
    /// Adds a round that is over.
    pub fn add(&mut self, round: RoundStats) {
        self.bytes += round.bytes;
        self.pages += round.pages;
        self.wire.add(round.bytes, round.duration, round.held_back);
        self.cost.add(round.bytes, round.pages.total(), round.pages.zero);
        if self.rounds.len() == MAX_ROUNDS_KEPT {
            self.rounds.pop_front();
        }
        self.rounds.push_back(round);
    }

    /// Something was decided.
    pub(crate) fn decide(&mut self, now: Time, what: String) {
        if self.decisions.len() == MAX_ROUNDS_KEPT {
            self.decisions.pop_front();
        }
        self.decisions.push_back((now, what));
    }

    /// Speed of the wire, as the rounds so far tell it. `None` before any byte was sent.
    #[must_use]
    pub fn wire_rate(&self) -> Option<WireRate> {
        self.wire.rate()
    }

    /// What a page takes on the wire, as the rounds so far tell it.
    #[must_use]
    pub fn page_cost(&self) -> &PageCost {
        &self.cost
    }

    /// Bytes per second that the machine dirtied in the last round; 0 before the first is over.
    #[must_use]
    pub fn dirty_rate(&self) -> f64 {
        self.rounds.back().map_or(0.0, |round| round.dirty_rate)
    }
}

/// Bytes that will still be sent: what is left now and what is dirtied meanwhile, round after round, until no more than
/// `enough` bytes are left. A geometric series with ratio dirty rate / wire rate; `None` when it does not converge.
#[must_use]
pub fn foretold_bytes(remaining: f64, dirty_rate: f64, wire_rate: f64, enough: f64) -> Option<f64> {
    let ratio = dirty_rate / wire_rate;
    if remaining <= enough {
        return Some(remaining);
    }
    if ratio >= 1.0 {
        return None;
    }
    Some((remaining - enough * ratio) / (1.0 - ratio))
}

impl Progress {
    /// Progress at `now`, after `before`. All bytes are bytes on the wire: those that are left to send, those that are few `enough` for the
    /// last pass, those per second that what is dirtied will take, and those per second that are sent.
    #[must_use]
    pub fn estimate(
        before: &Self,
        now: Time,
        remaining_bytes: f64,
        enough: f64,
        dirty_rate: f64,
        rate: Option<f64>,
    ) -> Self {
        let Some(rate) = rate.filter(|rate| *rate > 0.0) else { return before.clone() };
        let Some(bytes) = foretold_bytes(remaining_bytes, dirty_rate, rate, enough) else {
            let note = format!(
                "Memory is dirtied at {:.0} MB/s and sent at {:.0} MB/s: at this rate it does not converge",
                dirty_rate / 1e6,
                rate / 1e6
            );
            return Self { percentage: before.percentage, eta: None, note: Some(note) };
        };
        let eta = Duration::from_secs_f64((bytes / rate).min(1e9));
        let percentage = share_of(now, eta);
        if percentage + 1.0 < before.percentage && before.eta.is_some() {
            let note = format!(
                "Ran backwards: {:.1} MB are left, dirtied at {:.0} MB/s and sent at {:.0} MB/s",
                remaining_bytes / 1e6,
                dirty_rate / 1e6,
                rate / 1e6
            );
            return Self { percentage, eta: Some(eta), note: Some(note) };
        }
        Self { percentage: percentage.max(before.percentage), eta: Some(eta), note: None }
    }

    /// It stays where it is, or is due in `eta`, because of `note`.
    #[must_use]
    pub fn held_up(before: &Self, now: Time, eta: Option<Duration>, note: String) -> Self {
        let percentage = eta.map_or(0.0, |eta| share_of(now, eta)).max(before.percentage);
        Self { percentage, eta, note: Some(note) }
    }

    /// The machine has arrived.
    #[must_use]
    pub fn complete() -> Self {
        Self { percentage: 100.0, eta: Some(Duration::ZERO), note: None }
    }
}

/// Percent of the way that is behind, where `eta` is ahead.
fn share_of(now: Time, eta: Duration) -> f64 {
    let done = now.as_secs_f64();
    (100.0 * done / (done + eta.as_secs_f64()).max(1e-9)).clamp(0.0, 99.9)
}

/// Bytes of `pages`.
#[must_use]
pub fn bytes_of(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_rounds_are_dropped_but_stay_in_the_totals() {
        let mut statistics = Statistics::default();
        for round in 0..1000 {
            let pages = PageCounts { raw: 1, zero: 0, ..PageCounts::default() };
            statistics.add(RoundStats { round, bytes: 2, pages, ..RoundStats::default() });
        }
        assert_eq!(
            (statistics.rounds.len(), statistics.bytes, statistics.pages.raw),
            (MAX_ROUNDS_KEPT, 2000, 1000)
        );
        assert_eq!(statistics.rounds.back().map(|round| round.round), Some(999));
    }

    #[test]
    fn what_is_foretold_adds_up_round_by_round() {
        let (mut left, mut sum) = (1000.0, 0.0);
        while left > 10.0 {
            sum += left;
            left /= 2.0;
        }
        let foretold = foretold_bytes(1000.0, 50.0, 100.0, 10.0).unwrap();
        assert!((foretold - (sum + left)).abs() < 30.0, "{foretold} and {}", sum + left);
    }

    #[test]
    fn a_machine_that_does_not_converge_has_no_eta_and_says_why() {
        let before = Progress { percentage: 40.0, eta: Some(Duration::from_secs(3)), note: None };
        let progress = Progress::estimate(&before, Duration::from_secs(9), 1e9, 0.0, 2e9, Some(1e9));
        assert_eq!((progress.percentage, progress.eta), (40.0, None));
        assert!(progress.note.unwrap().contains("does not converge"));
    }

    #[test]
    fn progress_runs_backwards_only_with_a_reason() {
        let before = Progress { percentage: 90.0, eta: Some(Duration::from_secs(1)), note: None };
        let worse = Progress::estimate(&before, Duration::from_secs(10), 2e10, 0.0, 5e8, Some(1e9));
        assert!(worse.percentage < 90.0 && worse.note.is_some(), "{worse:?}");
        let same = Progress::estimate(&before, Duration::from_secs(9), 1.03e9, 0.0, 0.0, Some(1e9));
        assert!(same.percentage >= 90.0 && same.note.is_none(), "{same:?}");
    }
}
