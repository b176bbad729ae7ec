//! What an attempt takes from vCPUs, and gives back however it ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use migration::throttle::spread;
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
    /// When the attempt began.
    first: Vec<VcpuLoad>,
    /// When shares were set last.
    last: Vec<VcpuLoad>,
    spread_at: Instant,
    shown: Arc<Mutex<Vec<VcpuSlowed>>>,
}

/// Who writes is looked at no more often: in less time a vCPU may dirty nothing by chance.
const SPREAD_AFTER: Duration = Duration::from_millis(200);

impl Slowing {
    /// None yet. What becomes of it is in `shown`.
    pub(super) fn new(machine: &dyn SourceMachine, shown: Arc<Mutex<Vec<VcpuSlowed>>>) -> Self {
        let throttle = machine.throttle();
        let first = throttle.as_ref().map(|throttle| throttle.vcpus()).unwrap_or_default();
        Self { throttle, share: 0.0, last: first.clone(), first, spread_at: Instant::now(), shown }
    }

    /// Whether this machine can be slowed down.
    pub(super) fn is_possible(&self) -> bool {
        self.throttle.is_some()
    }

    /// Takes this share from those vCPUs that write.
    pub(super) fn take(&mut self, share: f64) {
        self.share = share;
        self.apply();
    }

    /// Some time has passed: others may write now.
    pub(super) fn renew(&mut self) {
        if self.share > 0.0 && self.spread_at.elapsed() >= SPREAD_AFTER {
            self.apply();
        }
    }

    fn apply(&mut self) {
        let Some(throttle) = &self.throttle else { return };
        let now = throttle.vcpus();
        let writes: Vec<_> = now
            .iter()
            .zip(&self.last)
            .map(|(now, last)| Some(now.faults?.saturating_sub(last.faults?)))
            .collect();
        let shares = spread(self.share, &writes);
        throttle.set(&shares);
        let slowed = now.iter().zip(&self.first).zip(&shares).map(|((now, first), share)| VcpuSlowed {
            share: *share,
            taken: now.taken.saturating_sub(first.taken),
        });
        // Who was never slowed down is not shown as such.
        let slowed: Vec<_> = slowed.collect();
        if slowed.iter().any(|vcpu| vcpu.share > 0.0 || !vcpu.taken.is_zero()) {
            *self.shown.lock() = slowed;
        }
        (self.last, self.spread_at) = (now, Instant::now());
    }
}

impl Drop for Slowing {
    fn drop(&mut self) {
        self.take(0.0);
    }
}
