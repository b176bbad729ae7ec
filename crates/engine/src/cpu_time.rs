use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// CPU time that the threads of one attempt have spent.
#[derive(Debug, Default)]
pub(crate) struct CpuTime(AtomicU64);

/// Measures the CPU time of the thread that made it.
#[derive(Debug)]
pub(crate) struct ThreadClock(Duration);

impl CpuTime {
    /// All that was added so far.
    pub(crate) fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl ThreadClock {
    pub(crate) fn start() -> Self {
        Self(thread_time())
    }

    /// Adds what the thread spent since the start or the last call.
    pub(crate) fn add_to(&mut self, total: &CpuTime) {
        let now = thread_time();
        let spent = now.saturating_sub(self.0);
        total.0.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0 = now;
    }
}

/// What this thread has had of a processor.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
