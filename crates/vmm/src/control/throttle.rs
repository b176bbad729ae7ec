//! Slows vCPUs down for a migration that would not come to its end otherwise.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use engine::{Throttle, VcpuLoad};
use parking_lot::{Condvar, Mutex};

use crate::{Machine, launcher::Launcher, seccomp::Role};

/// Takes time from the vCPUs of one machine.
pub(super) struct Throttler {
    machine: Weak<Machine>,
    launcher: Launcher,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    /// For each vCPU; empty when nothing is taken.
    shares: Vec<f64>,
    /// After that they count as empty.
    until: Option<Instant>,
    /// There is a thread for it.
    is_served: bool,
}

/// From each of these a vCPU that is slowed down loses its share, in one piece.
const PERIOD: Duration = Duration::from_millis(10);
/// A migration sets shares several times a second: one that has not for so long hangs, and the guest must not.
const LEASE: Duration = Duration::from_secs(5);

impl Throttler {
    pub(super) fn new(machine: &Arc<Machine>, launcher: Launcher) -> Self {
        Self { machine: Arc::downgrade(machine), launcher, shared: Arc::default() }
    }
}

impl Throttle for Throttler {
    fn set(&self, shares: &[f64]) {
        let takes = shares.iter().any(|share| *share > 0.0);
        let mut wanted = self.shared.wanted.lock();
        wanted.shares = if takes { shares.to_vec() } else { Vec::new() };
        wanted.until = takes.then(|| Instant::now() + LEASE);
        self.shared.changed.notify_all();
        let starts = takes && !wanted.is_served;
        wanted.is_served |= takes;
        drop(wanted);
        if starts {
            let (shared, machine) = (self.shared.clone(), self.machine.clone());
            if let Err(error) =
                self.launcher.spawn(Role::Throttle, "throttle", move || shared.serve(&machine))
            {
                tracing::warn!("vCPUs cannot be slowed down, there is no thread for it: {error}");
                self.shared.wanted.lock().is_served = false;
            }
        }
    }

    fn vcpus(&self) -> Vec<VcpuLoad> {
        let machine = self.machine.upgrade();
        machine.map(|machine| machine.vcpu_loads()).unwrap_or_default()
    }
}

impl Shared {
    /// Until nothing is to be taken any more, or the machine is gone.
    fn serve(&self, machine: &Weak<Machine>) {
        let mut wanted = self.wanted.lock();
        let mut next = Instant::now();
        loop {
            if wanted.until.is_some_and(|until| until <= Instant::now()) {
                tracing::warn!(
                    "vCPUs were slowed down for a migration that has not been heard for {LEASE:?}: they are not any more"
                );
                wanted.shares.clear();
            }
            let machine = machine.upgrade().filter(|_| !wanted.shares.is_empty());
            let Some(machine) = machine else {
                wanted.is_served = false;
                wanted.until = None;
                return;
            };
            let pieces: Vec<_> =
                wanted.shares.iter().map(|share| PERIOD.mul_f64(share.clamp(0.0, 0.99))).collect();
            // Signals are sent without the lock: whoever sets shares does not wait for them. The machine may end here.
            parking_lot::MutexGuard::unlocked(&mut wanted, || {
                machine.rest_vcpus(&pieces);
                drop(machine);
            });
            // One that comes late does not make up for it: a guest is not stopped for long.
            next = (next + PERIOD).max(Instant::now());
            while !wanted.shares.is_empty() && !self.changed.wait_until(&mut wanted, next).timed_out() {}
        }
    }
}
