use std::sync::atomic::AtomicU64;

use crate::page_counters::PageCounters;

/// What has arrived so far, over all channels.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    pub(super) pages: PageCounters,
    pub(super) bytes: AtomicU64,
}
