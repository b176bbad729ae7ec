//! Limits to how fast vCPUs write memory (`set-vcpu-dirty-limit`): who writes more has time taken from it.

use std::{
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use engine::Throttle as _;
use migration::dirty_limit::limited;
use monitor::{CommandError, types::DirtyLimitInfo};
use parking_lot::{Condvar, Mutex};
use ram::PAGE_SIZE;

use super::{Control, dirty_log::attend, dirty_rate::without_rings, throttle::Throttler};
use crate::{Machine, kvm::DirtyRings, seccomp::Role};

/// The limits of all vCPUs.
#[derive(Debug, Default)]
pub(super) struct DirtyLimits {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// For each vCPU; empty as long as there never was one.
    limits: Vec<Option<Limit>>,
    /// There is a thread for it.
    is_served: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Limit {
    /// MiB/s.
    rate: u64,
    /// What it wrote in the last period, in MiB/s.
    current: f64,
    /// The share of its time that is taken.
    share: f64,
}

/// What a vCPU writes is measured over so long, in which a page counts once, as QEMU does.
const PERIOD: Duration = Duration::from_secs(1);

impl Control {
    /// Limits one vCPU or all; a rate of 0 lifts the limit.
    pub(super) fn set_vcpu_dirty_limit(
        self: &Arc<Self>,
        cpu: Option<u64>,
        rate: u64,
    ) -> Result<(), CommandError> {
        let machine = self.machine()?;
        let Some(rings) = machine.dirty_rings() else {
            return Err(without_rings("A limit to what vCPUs write"));
        };
        let vcpus = usize::from(self.config.cpus().get());
        let which = match cpu.map(usize::try_from) {
            None => 0..vcpus,
            Some(Ok(cpu)) if cpu < vcpus => cpu..cpu + 1,
            Some(_) => {
                let desc = format!("Parameter 'cpu-index' expects the number of a vCPU, 0 to {}", vcpus - 1);
                return Err(CommandError::generic(desc));
            }
        };
        let mut state = self.dirty_limits.state.lock();
        state.limits.resize(vcpus, None);
        state.limits[which].fill((rate > 0).then(|| Limit { rate, ..Limit::default() }));
        self.dirty_limits.changed.notify_all();
        if state.is_served || state.limits.iter().all(Option::is_none) {
            return Ok(());
        }
        let (control, machine) = (self.clone(), Arc::downgrade(&machine));
        let serve = move || control.limit_vcpus(&machine, &rings);
        self.launcher.spawn(Role::Measure, "dirty-limit", serve).map_err(|error| {
            *state = State::default();
            CommandError::generic(format!("There is no thread to limit vCPUs with: {error}"))
        })?;
        state.is_served = true;
        Ok(())
    }

    /// The vCPUs that have a limit.
    pub(super) fn vcpu_dirty_limits(&self) -> Vec<DirtyLimitInfo> {
        let state = self.dirty_limits.state.lock();
        let info = |(cpu, limit): (u64, &Option<Limit>)| {
            limit.map(|limit| DirtyLimitInfo {
                cpu_index: cpu,
                limit_rate: limit.rate,
                current_rate: limit.current as u64,
            })
        };
        (0..).zip(&state.limits).filter_map(info).collect()
    }

    /// Until no vCPU has a limit, or the machine is gone.
    fn limit_vcpus(&self, machine: &Weak<Machine>, rings: &Arc<DirtyRings>) {
        let limited = rings.start_counting().and_then(|()| {
            attend(rings.clone(), &self.launcher)?;
            self.keep_limits(machine, rings)
        });
        self.dirty_limits.end();
        let stopped = rings.stop_counting();
        if let Err(error) = limited.and(stopped) {
            tracing::warn!("What vCPUs write is not limited any more: {error}");
        }
    }

    fn keep_limits(&self, machine: &Weak<Machine>, rings: &DirtyRings) -> io::Result<()> {
        let Some(throttler) =
            machine.upgrade().map(|machine| Throttler::new(&machine, self.launcher.clone()))
        else {
            return Ok(());
        };
        rings.collect();
        let (mut before, mut since) = (rings.counts(), Instant::now());
        while self.dirty_limits.wait() && machine.strong_count() > 0 {
            rings.collect();
            let (counts, now) = (rings.counts(), Instant::now());
            let took = (now - since).as_secs_f64().max(1e-3);
            let rates = counts.iter().zip(&before).map(|(now, before)| {
                (now.saturating_sub(*before) * PAGE_SIZE as u64) as f64 / f64::from(1 << 20) / took
            });
            let shares = self.dirty_limits.adapt(rates);
            throttler.set(&shares);
            (before, since) = (counts, now);
        }
        throttler.set(&[]);
        Ok(())
    }
}

impl DirtyLimits {
    /// Waits for the next period. Returns whether there is any limit.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        let deadline = Instant::now() + PERIOD;
        let has_limits = |state: &State| state.limits.iter().any(Option::is_some);
        while has_limits(&state) && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        has_limits(&state)
    }

    /// What to take from each vCPU after a period in which it wrote so much.
    fn adapt(&self, rates: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut state = self.state.lock();
        let limits = state.limits.iter_mut().zip(rates);
        let share = |(limit, current): (&mut Option<Limit>, f64)| {
            let Some(limit) = limit else { return 0.0 };
            limit.current = current;
            limit.share = limited(limit.share, current, limit.rate as f64);
            limit.share
        };
        limits.map(share).collect()
    }

    fn end(&self) {
        *self.state.lock() = State::default();
    }
}
