use std::sync::atomic::{AtomicU64, Ordering};

use wire::PageCounts;

/// [`PageCounts`] that several threads add to, and anybody reads.
#[derive(Debug, Default)]
pub(crate) struct PageCounters {
    raw: AtomicU64,
    zero: AtomicU64,
}

impl PageCounters {
    pub(crate) fn add(&self, pages: PageCounts) {
        self.raw.fetch_add(pages.raw, Ordering::Relaxed);
        self.zero.fetch_add(pages.zero, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> PageCounts {
        PageCounts { raw: self.raw.load(Ordering::Relaxed), zero: self.zero.load(Ordering::Relaxed) }
    }

    pub(crate) fn reset(&self) {
        self.raw.store(0, Ordering::Relaxed);
        self.zero.store(0, Ordering::Relaxed);
    }
}
