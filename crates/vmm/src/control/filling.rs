use std::{
    num::NonZero,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use parking_lot::Mutex;
use ram::{Backing, Populate, Ram};

use crate::{
    launcher::Launcher,
    seccomp::{self, Role},
};

/// Has the memory of a machine that is to come backed with pages while nobody waits for anything else.
///
/// Only where pages are reserved anyway. Other memory that a machine has not touched is to cost this host nothing either.
///
/// While a source is let in, and while the machine is loaded, nothing is filled: both start threads and map memory, which waits
/// behind filling, and the source waits for both; in the second case its machine is stopped.
#[derive(Debug)]
pub(super) struct Filling {
    launcher: Launcher,
    /// Processors that this process may use.
    cores: usize,
    /// Page channels of the source that came last.
    channels: AtomicUsize,
    /// The machine of the source that came last is being made.
    loads: AtomicBool,
    /// Locked for moments: never while threads are waited for.
    populate: Mutex<Option<Populate>>,
}

/// Most threads that fill memory: more of them only share what the memory can take.
const MOST_THREADS: usize = 8;

impl Filling {
    pub(super) fn new(launcher: Launcher) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            launcher,
            cores,
            channels: AtomicUsize::new(0),
            loads: AtomicBool::new(false),
            populate: Mutex::new(None),
        }
    }

    /// Starts with fresh memory.
    pub(super) fn begin(&self, ram: &Ram) {
        if ram.backing() != Some(Backing::Hugetlb2M) {
            return;
        }
        let (ram, threads) = (ram.clone(), at_rest(self.cores));
        // By the launcher: who calls this may not be allowed to start threads.
        let started = self.launcher.run(move || {
            Populate::start(ram, threads, || Ok(seccomp::enter(Role::Populate)?))
                .map_err(|error| error.to_string())
        });
        match started.map_err(|defect| defect.to_string()).flatten() {
            Ok(populate) => *self.populate.lock() = Some(populate),
            Err(error) => tracing::warn!("Memory is not filled ahead, its first pages come slower: {error}"),
        }
    }

    /// A source is let in, with so many page channels.
    pub(super) fn source_came(&self, channels: u16) {
        self.channels.store(channels.into(), Ordering::Relaxed);
        self.loads.store(false, Ordering::Relaxed);
        self.limit_to(0);
    }

    /// The source was refused: there is nothing else to be done again.
    pub(super) fn source_left(&self) {
        self.limit_to(at_rest(self.cores));
    }

    /// All channels are open.
    pub(super) fn pages_come(&self) {
        self.limit_to(beside(self.cores, self.channels.load(Ordering::Relaxed)));
    }

    /// The machine at the source is stopped, and is made anew here.
    pub(super) fn machine_loads(&self) {
        self.loads.store(true, Ordering::Relaxed);
        self.limit_to(0);
    }

    /// Pages are to be missing of this memory: none is filled from here on.
    pub(super) fn pages_will_be_missing(&self) {
        if self.loads.load(Ordering::Relaxed) {
            self.end();
        }
    }

    /// Ends it, and waits for the threads: they hold the memory.
    pub(super) fn end(&self) {
        let populate = self.populate.lock().take();
        drop(populate);
    }

    fn limit_to(&self, threads: usize) {
        if let Some(populate) = &*self.populate.lock() {
            populate.limit_to(threads);
        }
    }
}

/// Threads while nothing else is to be done: half of the processors are left to what else runs on this host.
fn at_rest(cores: usize) -> usize {
    (cores / 2).clamp(1, MOST_THREADS)
}

/// Threads while pages come. A channel makes the pages that it needs itself, and then has them in its processor's cache: only
/// processors that no channel wants can do more than that.
fn beside(cores: usize, channels: usize) -> usize {
    cores.saturating_sub(channels).min(at_rest(cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filling_leaves_processors_to_the_channels_and_to_others() {
        assert_eq!([1, 2, 3, 16, 64].map(at_rest), [1, 1, 1, 8, 8]);
        assert_eq!([1, 4, 12, 16, 64].map(|channels| beside(16, channels)), [8, 8, 4, 0, 0]);
        assert_eq!([1, 2, 4].map(|channels| beside(2, channels)), [1, 0, 0]);
    }
}
