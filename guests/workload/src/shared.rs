//! What the CPUs share: what was decided at the start, what can change while they run, and their counts.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use workload::{
    page::{BYTES, Rules},
    params::{MAX_CPUS, Order, Rate},
};

use crate::{lock::Once, memory::Regions};

/// Decided once, before any CPU works.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) rules: Rules,
    pub(crate) order: Order,
    /// The owned pages.
    pub(crate) owned: Regions,
    /// The generation that each owned page must have.
    pub(crate) generations: &'static [AtomicU32],
    /// For each CPU that came up, which part of the work is its.
    pub(crate) ranks: [Option<u8>; MAX_CPUS as usize],
    /// How many came up.
    pub(crate) cpus: u64,
    /// How many of them dirty memory: those with the lowest ranks.
    pub(crate) writers: u64,
    pub(crate) tsc_khz: u64,
}

/// See [`Setup`].
pub(crate) static SETUP: Once<Setup> = Once::new();

/// Changes while the guest runs.
#[derive(Debug)]
pub(crate) struct Orders {
    /// Bytes per second; [`Orders::MAX`] is as fast as it goes.
    rate: AtomicU64,
    /// The first so many owned pages are the working set.
    pub(crate) work_pages: AtomicU64,
    /// Percent of the time.
    pub(crate) verify: AtomicU32,
    /// Owned pages from here on are in the balloon, and not to be touched.
    pub(crate) limit: AtomicU64,
    /// All memory is filled: dirtying may begin.
    pub(crate) filled: AtomicBool,
}

/// See [`Orders`].
pub(crate) static ORDERS: Orders = Orders {
    rate: AtomicU64::new(0),
    work_pages: AtomicU64::new(0),
    verify: AtomicU32::new(0),
    limit: AtomicU64::new(0),
    filled: AtomicBool::new(false),
};

impl Orders {
    const MAX: u64 = u64::MAX;

    pub(crate) fn rate(&self) -> Rate {
        match self.rate.load(Ordering::Relaxed) {
            Self::MAX => Rate::Max,
            rate => Rate::BytesPerSecond(rate),
        }
    }

    pub(crate) fn set_rate(&self, rate: Rate) {
        let rate = match rate {
            Rate::Max => Self::MAX,
            Rate::BytesPerSecond(rate) => rate,
        };
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Sets the working set in bytes; `None` or more than is owned is all that is owned.
    pub(crate) fn set_work(&self, bytes: Option<u64>, owned_pages: u64) {
        let pages = bytes.map_or(owned_pages, |bytes| bytes.div_ceil(BYTES).min(owned_pages));
        self.work_pages.store(pages, Ordering::Relaxed);
    }
}

/// What takes less is no wait, in microseconds: a write that the hypervisor logs takes five.
pub(crate) const SHORTEST_WAIT_US: u64 = 16;
/// From 16 µs to 8 s and beyond.
pub(crate) const WAITS: usize = 20;

/// One CPU's counts. Only that CPU writes them, except for `longest_gap`, which the reporting CPU takes.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counts {
    pub(crate) online: AtomicBool,
    /// Its part of memory is filled.
    pub(crate) filled: AtomicBool,
    /// Pages dirtied.
    pub(crate) dirtied: AtomicU64,
    /// Pages checked.
    pub(crate) verified: AtomicU64,
    /// How often all its pages were checked, first to last.
    pub(crate) passes: AtomicU64,
    pub(crate) errors: AtomicU64,
    /// TSC ticks, since it was last reported.
    pub(crate) longest_gap: AtomicU64,
    /// How often an access to a page took so long: of each entry, twice as long as of the one before, from
    /// [`SHORTEST_WAIT_US`] on.
    pub(crate) waits: [AtomicU64; WAITS],
    /// TSC ticks that these took together.
    pub(crate) waited: AtomicU64,
    /// How often its TSC went backwards.
    pub(crate) tsc_backward: AtomicU64,
    /// The TSC at its last turn.
    pub(crate) last_turn: AtomicU64,
    /// The limit that it respects by now.
    pub(crate) seen_limit: AtomicU64,
}

/// See [`Counts`].
pub(crate) static COUNTS: [Counts; MAX_CPUS as usize] = [const {
    Counts {
        online: AtomicBool::new(false),
        filled: AtomicBool::new(false),
        dirtied: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        passes: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        longest_gap: AtomicU64::new(0),
        waits: [const { AtomicU64::new(0) }; WAITS],
        waited: AtomicU64::new(0),
        tsc_backward: AtomicU64::new(0),
        last_turn: AtomicU64::new(0),
        seen_limit: AtomicU64::new(u64::MAX),
    }
}; MAX_CPUS as usize];

impl Counts {
    /// Adds to a count that only this CPU writes.
    #[inline]
    pub(crate) fn add(count: &AtomicU64, more: u64) {
        count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

/// The counts of all CPUs that work.
pub(crate) fn working(setup: &Setup) -> impl Iterator<Item = (usize, &'static Counts)> {
    let ranks = setup.ranks;
    COUNTS.iter().enumerate().filter(move |(cpu, _)| ranks[*cpu].is_some())
}
