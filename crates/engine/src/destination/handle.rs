use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, Sender as Queue, bounded};
use migration::Status;
use transport::Stopper;
use wire::PageCounts;

use super::{Input, Shared, Waits, figures::AttemptFigures};
use crate::main_thread::MainThread;

/// A destination that listens, receives, or is done.
#[derive(Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Queue<Input>,
    pub(super) stopper: Stopper,
    pub(super) thread: MainThread,
}

/// The figures of a destination at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it stands.
    pub status: Status,
    /// Bytes of pages that arrived in this attempt.
    pub bytes: u64,
    /// Pages that arrived.
    pub pages: PageCounts,
    /// CPU time of the engine's threads.
    pub cpu: Duration,
    /// Why the last attempt came to nothing; `None` once another has begun.
    pub last_failure: Option<String>,
    /// Pages of a machine that runs here that are missing.
    pub missing_pages: u64,
    /// How long the machine waited for pages that followed it; `None` where none did.
    pub faults: Option<Waits>,
    /// The attempt under way, or the last one.
    pub attempt: Option<AttemptFigures>,
}

impl Handle {
    /// Gives up the attempt under way, unless the machine runs here already. Sources may come again.
    pub fn cancel(&self) {
        // Fails only when the destination is done.
        let _ = self.queue.send(Input::Cancel);
    }

    /// The machine that runs here starts anew, or ends: what is missing of its memory is not needed any more, and the source may let go
    /// of it. The machine must be stopped. Returns whether nothing of this side writes its memory any more, which is so within
    /// `patience` unless a thread hangs.
    #[must_use]
    pub fn forget_missing(&self, patience: Duration) -> bool {
        let (done, is_done) = bounded(1);
        // Fails only when the destination is done, as the wait does without a time-out: then nothing is missing.
        let _ = self.queue.send(Input::Forget(done));
        is_done.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }

    /// Stops listening and gives up an attempt under way, unless the machine runs here already.
    pub fn stop(&self) {
        self.stopper.stop();
        // Fails only when the destination is done.
        let _ = self.queue.send(Input::Stop);
    }

    /// The figures now. Never waits for the network.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let view = self.shared.view.lock();
        Snapshot {
            status: view.status,
            bytes: view.arrived.bytes.load(Ordering::Relaxed),
            pages: view.arrived.pages.get(),
            cpu: self.shared.cpu.total(),
            last_failure: view.last_failure.clone(),
            missing_pages: view.memory.as_ref().map_or(0, |memory| memory.remaining()),
            faults: view.faults.as_ref().map(|faults| faults.waits()),
            attempt: view.counts.as_ref().map(|counts| counts.figures()),
        }
    }

    /// Waits until the destination is done and its threads have ended, but no longer than `timeout`.
    pub fn join_within(&self, timeout: Duration) {
        self.thread.join_within(timeout);
    }

    /// Waits until the destination is done and its threads have ended.
    pub fn join(&self) {
        self.thread.join();
    }
}
