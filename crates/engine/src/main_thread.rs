//! The thread that runs one side of a migration, as others see it.

use std::{thread::JoinHandle, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use parking_lot::Mutex;

/// A thread that ends by itself.
#[derive(Debug)]
pub(crate) struct MainThread {
    /// Disconnected when it has ended.
    alive: Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl MainThread {
    /// The thread holds the other end of `alive`, and drops it last.
    pub(crate) fn new(alive: Receiver<()>, thread: JoinHandle<()>) -> Self {
        Self { alive, thread: Mutex::new(Some(thread)) }
    }

    /// Waits until it has ended.
    pub(crate) fn join(&self) {
        if let Some(thread) = self.thread.lock().take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }

    /// The same, but no longer than `timeout`.
    pub(crate) fn join_within(&self, timeout: Duration) {
        if self.alive.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected) {
            self.join();
        }
    }

    /// Whether it has ended. Never waits.
    pub(crate) fn has_ended(&self) -> bool {
        self.alive.try_recv() == Err(TryRecvError::Disconnected)
    }
}
