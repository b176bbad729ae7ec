//! Measuring how fast the guest writes its memory (`calc-dirty-rate`).
//!
//! Looking at pages needs nothing that a migration needs, and goes on beside one. The dirty log is one for all: a migration under way
//! has it, and one that begins gets it.

use std::{
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use monitor::{
    CommandError,
    types::{DirtyRateInfo, DirtyRateMode, DirtyRateRequest, DirtyRateStatus, DirtyRateVcpu, TimeUnit},
};
use parking_lot::{Condvar, Mutex};
use ram::{DirtyLog, PAGE_SIZE, PageSet, Ram, Sample, Touched};
use rustix::time::{ClockId, clock_gettime};

use super::{Control, dirty_log::dirty_log};
use crate::{Machine, kvm::DirtyRings, launcher::Launcher, seccomp::Role};

/// The measurement under way, or the last one.
#[derive(Debug, Default)]
pub(super) struct DirtyRate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    info: DirtyRateInfo,
    /// Somebody else needs the dirty log.
    is_given_up: bool,
}

/// How long a migration that begins waits for the dirty log. It is let go of within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pages whose bits are cleared by one call: the kernel holds locks meanwhile that vCPUs want.
const CLEARED_AT_ONCE: u64 = (32 << 20) / PAGE_SIZE as u64;

impl Control {
    /// Starts a measurement.
    pub(super) fn calc_dirty_rate(self: &Arc<Self>, request: DirtyRateRequest) -> Result<(), CommandError> {
        self.refuse_while_pages_come()?;
        let machine = self.machine()?;
        if request.mode == DirtyRateMode::DirtyRing && machine.dirty_rings().is_none() {
            return Err(without_rings("Mode dirty-ring"));
        }
        // A migration cannot begin as long as this is held.
        let _departing = match request.mode {
            DirtyRateMode::PageSampling => None,
            _ => Some(self.dirty_log_is_free()?),
        };
        self.dirty_rate.begin(request)?;
        let (control, machine) = (self.clone(), Arc::downgrade(&machine));
        let started =
            self.launcher.spawn(Role::Measure, "dirty-rate", move || control.measure(request, &machine));
        started.map(|_| ()).map_err(|error| {
            self.dirty_rate.end(None);
            CommandError::generic(format!("There is no thread to measure with: {error}"))
        })
    }

    /// What keeps migrations from beginning, if none is under way.
    fn dirty_log_is_free(&self) -> Result<parking_lot::MutexGuard<'_, ()>, CommandError> {
        let in_use = || {
            CommandError::generic(
                "This mode needs the dirty log, which the migration under way uses: wait for its end (query-migrate has the \
                 dirty rate, too), or use page-sampling, which does not disturb it",
            )
        };
        let departing = self.departing.try_lock().ok_or_else(in_use)?;
        let departure = self.departure.lock().clone();
        let under_way = departure.is_some_and(|departure| departure.handle.snapshot().status.is_under_way());
        if under_way { Err(in_use()) } else { Ok(departing) }
    }

    fn measure(&self, request: DirtyRateRequest, machine: &Weak<Machine>) {
        // A defect must not leave a measurement that never ends.
        let measured = crate::panics::catch(|| match request.mode {
            DirtyRateMode::PageSampling => self.dirty_rate.by_sampling(request, machine),
            DirtyRateMode::DirtyBitmap => self.dirty_rate.by_log(request, machine, &self.launcher),
            DirtyRateMode::DirtyRing => self.dirty_rate.by_rings(request, machine, &self.launcher),
        });
        self.dirty_rate.end(match measured {
            Ok(Ok(rate)) => rate,
            Ok(Err(error)) => {
                tracing::warn!("The dirty rate cannot be measured: {error}");
                None
            }
            Err(_) => None,
        });
    }
}

impl DirtyRate {
    /// The measurement under way, or the last one.
    pub(super) fn info(&self) -> DirtyRateInfo {
        self.state.lock().info.clone()
    }

    /// A migration is about to begin: it gets the dirty log. A measurement by the log is given up for that.
    pub(super) fn give_way(&self) -> Result<(), CommandError> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        while state.info.status == DirtyRateStatus::Measuring
            && state.info.mode != DirtyRateMode::PageSampling
        {
            state.is_given_up = true;
            self.changed.notify_all();
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(CommandError::generic(
                    "The measurement of the dirty rate does not let go of the dirty log: try again when it is over (query-dirty-rate)",
                ));
            }
        }
        Ok(())
    }

    fn begin(&self, request: DirtyRateRequest) -> Result<(), CommandError> {
        let mut state = self.state.lock();
        if state.info.status == DirtyRateStatus::Measuring {
            return Err(CommandError::generic("The dirty rate is already being measured."));
        }
        let info = DirtyRateInfo {
            dirty_rate: None,
            status: DirtyRateStatus::Measuring,
            start_time: u64::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(0),
            calc_time: u64::try_from(request.calc_time.as_millis()).unwrap_or(u64::MAX),
            calc_time_unit: TimeUnit::Millisecond,
            sample_pages: request.sample_pages,
            mode: request.mode,
            vcpu_dirty_rate: None,
        };
        *state = State { info, is_given_up: false };
        Ok(())
    }

    /// It is over, or has come to nothing.
    fn end(&self, measured: Option<Measured>) {
        let mebibytes = |rate: f64| (rate / f64::from(1 << 20)) as u64;
        let mut state = self.state.lock();
        state.info.status =
            if measured.is_some() { DirtyRateStatus::Measured } else { DirtyRateStatus::Unstarted };
        state.info.dirty_rate = measured.as_ref().map(|measured| mebibytes(measured.rate));
        let vcpus = measured.and_then(|measured| measured.vcpus);
        let vcpu = |(id, rate)| DirtyRateVcpu { id, dirty_rate: mebibytes(rate) };
        state.info.vcpu_dirty_rate = vcpus.map(|vcpus| (0..).zip(vcpus).map(vcpu).collect());
        self.changed.notify_all();
    }

    /// Waits so long. Returns whether nobody wanted it to end before.
    fn waits(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.is_given_up && !self.changed.wait_until(&mut state, deadline).timed_out() {}
        !state.is_given_up
    }

    fn is_given_up(&self) -> bool {
        self.state.lock().is_given_up
    }

    fn by_sampling(
        &self,
        request: DirtyRateRequest,
        machine: &Weak<Machine>,
    ) -> io::Result<Option<Measured>> {
        // A machine that moves away meanwhile is not kept by this.
        let touched = || machine.upgrade().map(|machine| Touched::new(machine.ram().clone()));
        let Some(mut before) = touched() else { return Ok(None) };
        let bytes = before.ram().bytes();
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let sample = Sample::draw(&mut before, request.sample_pages, seed);
        drop(before);
        let began = Instant::now();
        if !self.waits(request.calc_time) {
            return Ok(None);
        }
        let took = began.elapsed();
        let Some(mut after) = touched() else { return Ok(None) };
        let share = sample.changed(&mut after) as f64 / sample.len().max(1) as f64;
        Ok(Some(Measured::whole(share * bytes as f64 / took.as_secs_f64().max(1e-3))))
    }

    fn by_log(
        &self,
        request: DirtyRateRequest,
        machine: &Weak<Machine>,
        launcher: &Launcher,
    ) -> io::Result<Option<Measured>> {
        let parts =
            || machine.upgrade().map(|machine| (machine.ram().clone(), dirty_log(&machine, launcher)));
        let Some((ram, log)) = parts() else { return Ok(None) };
        log.start()?;
        let logging = Logging(log.as_ref());
        if !clear_all(&ram, logging.0, || self.is_given_up())? {
            return Ok(None);
        }
        let began = Instant::now();
        if !self.waits(request.calc_time) {
            return Ok(None);
        }
        let mut pages = 0;
        for (index, block) in ram.blocks().iter().enumerate() {
            let mut set = PageSet::new(block.pages());
            logging.0.fetch(index, set.words_mut())?;
            pages += set.count();
        }
        Ok(Some(Measured::whole(rate(pages, began))))
    }

    /// As QEMU does, a page counts once in a second, and again in the next.
    fn by_rings(
        &self,
        request: DirtyRateRequest,
        machine: &Weak<Machine>,
        launcher: &Launcher,
    ) -> io::Result<Option<Measured>> {
        const COLLECTED: Duration = Duration::from_secs(1);
        let parts = || {
            machine
                .upgrade()
                .and_then(|machine| Some((machine.dirty_rings()?, dirty_log(&machine, launcher))))
        };
        let Some((rings, log)) = parts() else { return Ok(None) };
        log.start()?;
        let _logging = Logging(log.as_ref());
        let (before, began) = (counts(&rings), Instant::now());
        loop {
            let left = request.calc_time.saturating_sub(began.elapsed());
            if !self.waits(left.min(COLLECTED)) {
                return Ok(None);
            }
            let now = counts(&rings);
            if began.elapsed() >= request.calc_time {
                let written = now.iter().zip(&before).map(|(now, before)| now.saturating_sub(*before));
                let vcpus: Vec<_> = written.map(|pages| rate(pages, began)).collect();
                return Ok(Some(Measured { rate: vcpus.iter().sum(), vcpus: Some(vcpus) }));
            }
        }
    }
}

/// Bytes each second.
struct Measured {
    rate: f64,
    /// Of each vCPU, where that is known.
    vcpus: Option<Vec<f64>>,
}

impl Measured {
    fn whole(rate: f64) -> Self {
        Self { rate, vcpus: None }
    }
}

/// Bytes each second, if so many pages were written since then.
fn rate(pages: u64, began: Instant) -> f64 {
    (pages * PAGE_SIZE as u64) as f64 / began.elapsed().as_secs_f64().max(1e-3)
}

/// Pages that each vCPU has written up to now.
fn counts(rings: &DirtyRings) -> Vec<u64> {
    rings.collect();
    rings.counts()
}

/// Why something cannot be had of a machine whose dirty log does not tell vCPUs apart.
pub(super) fn without_rings(what: &str) -> CommandError {
    CommandError::generic(format!(
        "{what} needs to know which vCPU writes a page, and the dirty log of this machine does not tell: start it with --dirty-log ring"
    ))
}

/// Logging that ends however the measurement does.
struct Logging<'a>(&'a dyn DirtyLog);

impl Drop for Logging<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.stop() {
            tracing::warn!("Dirty logging could not be stopped: {error}");
        }
    }
}

/// Has every page count as clean. Returns false if it was given up.
fn clear_all(ram: &Ram, log: &dyn DirtyLog, is_given_up: impl Fn() -> bool) -> io::Result<bool> {
    let words = vec![u64::MAX; (CLEARED_AT_ONCE / 64) as usize];
    for (index, block) in ram.blocks().iter().enumerate() {
        for first in (0..block.pages()).step_by(CLEARED_AT_ONCE as usize) {
            if is_given_up() {
                return Ok(false);
            }
            let pages = CLEARED_AT_ONCE.min(block.pages() - first);
            // What stands past the end of the block is no page of it.
            let mut bits = words[..pages.div_ceil(64) as usize].to_vec();
            if let (Some(last), rest @ 1..) = (bits.last_mut(), pages % 64) {
                *last = (1 << rest) - 1;
            }
            log.clear(index, first, pages, &bits)?;
        }
    }
    Ok(true)
}
