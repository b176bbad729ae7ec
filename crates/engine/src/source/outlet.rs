//! Where a channel's batches leave, and when they count as sent.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use transport::{Bulk, Connection, TransportError};
use wire::PageCounts;

use super::work::RoundProgress;

/// How pages are sent without a copy; for all channels.
#[derive(Clone)]
pub(crate) struct ZeroCopy {
    /// Most bytes that the kernel may pin for one channel.
    pub(crate) most: usize,
    pub(crate) counters: Arc<ZeroCopyCounters>,
    /// Tells people.
    pub(crate) note: Arc<dyn Fn(String) + Send + Sync>,
}

/// Counts sends without a copy, over all channels of an attempt.
#[derive(Debug, Default)]
pub(crate) struct ZeroCopyCounters {
    sends: AtomicU64,
    copied: AtomicU64,
    /// That the kernel copies has been told.
    is_told: AtomicBool,
}

/// What became of sends without a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroCopyFigures {
    /// How many were begun.
    pub sends: u64,
    /// Of how many batches something was copied all the same, by whoever.
    pub copied: u64,
}

/// Sends the batches of one channel. What is sent without a copy counts when the kernel is done with it.
#[derive(Debug)]
pub(crate) struct Outlet {
    connection: Arc<Connection>,
    bulk: Bulk,
    zero_copy: Option<ZeroCopy>,
    progress: Arc<RoundProgress>,
    /// Batches that do not count yet, each with the number of the send that has to be done.
    uncounted: VecDeque<(u64, u64, PageCounts)>,
    /// What was added to the counters.
    counted: ZeroCopyFigures,
}

impl Outlet {
    pub(crate) fn new(
        connection: Arc<Connection>,
        zero_copy: Option<ZeroCopy>,
        progress: Arc<RoundProgress>,
    ) -> Self {
        let bulk = match &zero_copy {
            Some(zero_copy) => Bulk::without_copy(connection.clone(), zero_copy.most),
            None => Bulk::copying(connection.clone()),
        };
        let counted = ZeroCopyFigures::default();
        Self { connection, bulk, zero_copy, progress, uncounted: VecDeque::new(), counted }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What batches are sent by; each is to be [told of](Self::sent).
    pub(crate) fn bulk(&mut self) -> &mut Bulk {
        &mut self.bulk
    }

    /// A batch of so many bytes and pages is on its way.
    pub(crate) fn sent(&mut self, bytes: u64, pages: PageCounts) -> Result<(), TransportError> {
        self.uncounted.push_back((self.bulk.begun(), bytes, pages));
        self.count()
    }

    /// Waits until all batches have been sent.
    pub(crate) fn flush(&mut self) -> Result<(), TransportError> {
        self.bulk.flush()?;
        self.count()
    }

    fn count(&mut self) -> Result<(), TransportError> {
        let done = self.bulk.done()?;
        while let Some((_, bytes, pages)) = self.uncounted.pop_front_if(|(last, ..)| *last <= done) {
            self.progress.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.progress.pages.add(pages);
        }
        let Some(ZeroCopy { counters, note, .. }) = &self.zero_copy else { return Ok(()) };
        let now = ZeroCopyFigures { sends: self.bulk.begun(), copied: self.bulk.copied() };
        counters.sends.fetch_add(now.sends - self.counted.sends, Ordering::Relaxed);
        counters.copied.fetch_add(now.copied - self.counted.copied, Ordering::Relaxed);
        self.counted = now;
        if let Some(why) = self.bulk.why_copied()
            && !counters.is_told.swap(true, Ordering::Relaxed)
        {
            note(format!("Pages are copied although zero-copy-send is on: {why}"));
        }
        Ok(())
    }
}

impl ZeroCopyCounters {
    pub(crate) fn figures(&self) -> ZeroCopyFigures {
        let (sends, copied) = (self.sends.load(Ordering::Relaxed), self.copied.load(Ordering::Relaxed));
        ZeroCopyFigures { sends, copied }
    }
}

impl fmt::Debug for ZeroCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeroCopy").field("most", &self.most).finish_non_exhaustive()
    }
}
