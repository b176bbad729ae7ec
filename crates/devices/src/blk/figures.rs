//! What a disk has done for its guest, counted.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that were done.
    pub done: u64,
    /// Bytes of these; 0 of flushes.
    pub bytes: u64,
    /// The time that they took, all together.
    pub took: Duration,
    /// Those of which the guest was told that the image failed.
    pub failed: u64,
    /// Those that could not be done by any image: beyond its end, or a write to one that is only read.
    pub invalid: u64,
}

/// What a disk has done for its guest since the machine came to this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFigures {
    /// Reads.
    pub reads: Tally,
    /// Writes, those of zeroes too.
    pub writes: Tally,
    /// Flushes that the guest asked for.
    pub flushes: Tally,
    /// Ranges that the guest needs no more.
    pub discards: Tally,
    /// Where the byte that was written farthest from the beginning ends.
    pub highest_write: u64,
}

/// What a request is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Flush,
    Discard,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It moved so many bytes, the last of which is before that offset.
    Done {
        bytes: u64,
        end: u64,
    },
    Failed,
    Invalid,
}

/// Counts while others look. The disk's thread alone adds, so that nothing needs to be locked, not even a cache line.
#[derive(Debug, Default)]
pub(super) struct Counters {
    reads: Counter,
    writes: Counter,
    flushes: Counter,
    discards: Counter,
    highest_write: AtomicU64,
}

#[derive(Debug, Default)]
struct Counter {
    done: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, operation: Operation, end: End, took: Duration) {
        let counter = match operation {
            Operation::Read => &self.reads,
            Operation::Write => &self.writes,
            Operation::Flush => &self.flushes,
            Operation::Discard => &self.discards,
        };
        match end {
            End::Done { bytes, end } => {
                more(&counter.done, 1);
                more(&counter.bytes, bytes);
                more(&counter.nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                if operation == Operation::Write && end > self.highest_write.load(Ordering::Relaxed) {
                    self.highest_write.store(end, Ordering::Relaxed);
                }
            }
            End::Failed => more(&counter.failed, 1),
            End::Invalid => more(&counter.invalid, 1),
        }
    }

    pub(super) fn figures(&self) -> DiskFigures {
        DiskFigures {
            reads: self.reads.tally(),
            writes: self.writes.tally(),
            flushes: self.flushes.tally(),
            discards: self.discards.tally(),
            highest_write: self.highest_write.load(Ordering::Relaxed),
        }
    }
}

impl Counter {
    fn tally(&self) -> Tally {
        Tally {
            done: self.done.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            took: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
            failed: self.failed.load(Ordering::Relaxed),
            invalid: self.invalid.load(Ordering::Relaxed),
        }
    }
}

/// One thread adds: a load and a store are enough.
fn more(count: &AtomicU64, by: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
