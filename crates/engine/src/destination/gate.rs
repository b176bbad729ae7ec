use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::{Condvar, Mutex};
use ram::Incomplete;

/// Where threads that receive pages wait for the machine to be made, whose memory they are to complete.
#[derive(Debug, Default)]
pub(super) struct Gate {
    memory: Mutex<Option<Arc<Incomplete>>>,
    changed: Condvar,
}

impl Gate {
    /// Waits for the memory. Returns `None` when the channels are `closed` before.
    pub(super) fn wait(&self, closed: &AtomicBool) -> Option<Arc<Incomplete>> {
        let mut memory = self.memory.lock();
        while memory.is_none() && !closed.load(Ordering::Relaxed) {
            self.changed.wait(&mut memory);
        }
        memory.clone()
    }

    /// From here on pages land in `memory`.
    pub(super) fn open(&self, memory: Arc<Incomplete>) {
        *self.memory.lock() = Some(memory);
        self.changed.notify_all();
    }

    /// Sends away who waits, now and later, for channels that are closed.
    pub(super) fn close(&self, closed: &AtomicBool) {
        // Whoever waits has looked at it, or looks at it after this.
        let memory = self.memory.lock();
        closed.store(true, Ordering::Relaxed);
        drop(memory);
        self.changed.notify_all();
    }
}
