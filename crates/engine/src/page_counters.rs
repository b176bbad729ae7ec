use std::sync::atomic::{AtomicU64, Ordering};

use wire::PageCounts;

/// [`PageCounts`] that several threads add to, and anybody reads.
#[derive(Debug, Default)]
pub(crate) struct PageCounters {
    raw: AtomicU64,
    zero: AtomicU64,
    delta: AtomicU64,
}

impl PageCounters {
    pub(crate) fn add(&self, pages: PageCounts) {
        self.raw.fetch_add(pages.raw, Ordering::Relaxed);
        self.zero.fetch_add(pages.zero, Ordering::Relaxed);
        self.delta.fetch_add(pages.delta, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> PageCounts {
        let [raw, zero, delta] =
            [&self.raw, &self.zero, &self.delta].map(|count| count.load(Ordering::Relaxed));
        PageCounts { raw, zero, delta }
    }

    pub(crate) fn reset(&self) {
        self.raw.store(0, Ordering::Relaxed);
        self.zero.store(0, Ordering::Relaxed);
        self.delta.store(0, Ordering::Relaxed);
    }
}
