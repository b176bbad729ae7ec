//! What an attempt takes from vCPUs, and gives back however it ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use migration::{
    DirtyLimit,
    dirty_limit::limited,
    throttle::{from_the_busiest, spread},
};
use parking_lot::Mutex;

use crate::{SourceMachine, Throttle, VcpuLoad};

/// What was taken from one vCPU in an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VcpuSlowed {
    /// The share of its time that is taken now.
    pub share: f64,
    /// Time that was taken from it.
    pub taken: Duration,
}

/// Slows vCPUs down. Dropping it gives them their time back.
pub(super) struct Slowing {
    throttle: Option<Arc<dyn Throttle>>,
    share: f64,
    /// Most that may be taken from the busiest for it; `None` takes the same from all that write.
    most: Option<f64>,
    /// What each may dirty at most: then it is not the share that counts.
    limit: Option<DirtyLimit>,
    /// When the attempt began.
    first: Vec<VcpuLoad>,
    /// When it was looked at last, and the time before.
    last: Look,
    before: Look,
    shown: Arc<Mutex<Vec<VcpuSlowed>>>,
}

/// vCPUs as they were at some time.
#[derive(Clone)]
struct Look {
    at: Instant,
    loads: Vec<VcpuLoad>,
    /// What was taken from them since then.
    shares: Vec<f64>,
}

/// Who writes is looked at no more often: in less time a vCPU may dirty nothing by chance.
const SPREAD_AFTER: Duration = Duration::from_millis(200);
/// Nor is a limit kept to in less.
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);

impl Slowing {
    /// None yet. What becomes of it is in `shown`.
    pub(super) fn new(machine: &dyn SourceMachine, shown: Arc<Mutex<Vec<VcpuSlowed>>>) -> Self {
        let throttle = machine.throttle();
        let first = throttle.as_ref().map(|throttle| throttle.vcpus()).unwrap_or_default();
        let last = Look { at: Instant::now(), shares: vec![0.0; first.len()], loads: first.clone() };
        Self { throttle, share: 0.0, most: None, limit: None, first, before: last.clone(), last, shown }
    }

    /// Whether this machine can be slowed down.
    pub(super) fn is_possible(&self) -> bool {
        self.throttle.is_some()
    }

    /// Takes this share from those vCPUs that write.
    pub(super) fn take(&mut self, share: f64, most: Option<f64>) {
        (self.share, self.most) = (share, most);
        self.apply();
    }

    /// Has none of them dirty more than this.
    pub(super) fn limit(&mut self, limit: Option<DirtyLimit>) {
        self.limit = limit;
        self.apply();
    }

    /// Some time has passed: others may write now.
    pub(super) fn renew(&mut self) {
        if self.last.at.elapsed() >= self.pause() {
            self.apply();
        }
    }

    /// When it is to be [renewed](Self::renew) at the latest, where there is a limit.
    pub(super) fn due(&self) -> Option<Instant> {
        self.limit.map(|_| self.last.at + self.pause())
    }

    /// What vCPUs do is looked at no more often.
    fn pause(&self) -> Duration {
        self.limit.map_or(SPREAD_AFTER, |limit| limit.period.max(SHORTEST_PERIOD))
    }

    fn apply(&mut self) {
        let Some(throttle) = &self.throttle else { return };
        let now = throttle.vcpus();
        let shares = self.shares(&now);
        // Also where nothing is taken as before: who sets shares is known to be there.
        let takes = |shares: &[f64]| shares.iter().any(|share| *share > 0.0);
        if self.share > 0.0 || takes(&shares) || takes(&self.last.shares) {
            throttle.set(&shares);
        }
        let slowed = now.iter().zip(&self.first).zip(&shares).map(|((now, first), share)| VcpuSlowed {
            share: *share,
            taken: now.taken.saturating_sub(first.taken),
        });
        // Who was never slowed down is not shown as such.
        let slowed: Vec<_> = slowed.collect();
        if slowed.iter().any(|vcpu| vcpu.share > 0.0 || !vcpu.taken.is_zero()) {
            *self.shown.lock() = slowed;
        }
        if self.last.at.elapsed() >= SPREAD_AFTER {
            self.before = self.last.clone();
        }
        self.last = Look { at: Instant::now(), loads: now, shares };
    }

    /// What is taken from each, of whom it is known what they have written up to `now`.
    fn shares(&self, now: &[VcpuLoad]) -> Vec<f64> {
        if let Some(limit) = self.limit {
            return self.limited(now, limit);
        }
        let since = if self.last.at.elapsed() >= SPREAD_AFTER { &self.last } else { &self.before };
        let written =
            now.iter().zip(&since.loads).map(|(now, then)| Some(now.faults?.saturating_sub(then.faults?)));
        match self.most {
            None => spread(self.share, &written.collect::<Vec<_>>()),
            Some(most) => {
                let free =
                    written.zip(&since.shares).map(|(written, share)| Some(written? as f64 / (1.0 - share)));
                from_the_busiest(self.share, most, &free.collect::<Vec<_>>())
            }
        }
    }

    /// What is taken from each vCPU so that it dirties no more than it may. One of which that is not known has all its time.
    fn limited(&self, now: &[VcpuLoad], limit: DirtyLimit) -> Vec<f64> {
        let seconds = self.last.at.elapsed().as_secs_f64();
        let vcpus = now.iter().zip(&self.last.loads).zip(&self.last.shares);
        let share = |((now, then), share): ((&VcpuLoad, &VcpuLoad), &f64)| {
            // Of a time too short nothing is known yet.
            if seconds < SHORTEST_PERIOD.as_secs_f64() {
                return *share;
            }
            let written = now.faults.zip(then.faults).map(|(now, then)| now.saturating_sub(then));
            let current = |pages: u64| pages as f64 * wire::PAGE_BYTES as f64 / seconds;
            written.map_or(0.0, |pages| limited(*share, current(pages), limit.bytes_per_second as f64))
        };
        vcpus.map(share).collect()
    }
}

impl Drop for Slowing {
    fn drop(&mut self) {
        self.limit = None;
        self.take(0.0, None);
    }
}
