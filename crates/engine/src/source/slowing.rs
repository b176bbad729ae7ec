//! What an attempt takes from vCPUs, and gives back however it ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use migration::throttle::{from_the_busiest, spread};
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

impl Slowing {
    /// None yet. What becomes of it is in `shown`.
    pub(super) fn new(machine: &dyn SourceMachine, shown: Arc<Mutex<Vec<VcpuSlowed>>>) -> Self {
        let throttle = machine.throttle();
        let first = throttle.as_ref().map(|throttle| throttle.vcpus()).unwrap_or_default();
        let last = Look { at: Instant::now(), shares: vec![0.0; first.len()], loads: first.clone() };
        Self { throttle, share: 0.0, most: None, first, before: last.clone(), last, shown }
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

    /// Some time has passed: others may write now.
    pub(super) fn renew(&mut self) {
        if self.last.at.elapsed() >= SPREAD_AFTER {
            self.apply();
        }
    }

    fn apply(&mut self) {
        let Some(throttle) = &self.throttle else { return };
        let now = throttle.vcpus();
        let shares = self.shares(&now);
        // Also where nothing is taken as before: who sets shares is known to be there.
        if self.share > 0.0 || self.last.shares.iter().any(|share| *share > 0.0) {
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
}

impl Drop for Slowing {
    fn drop(&mut self) {
        self.take(0.0, None);
    }
}
