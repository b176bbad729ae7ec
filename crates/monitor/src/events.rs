use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    protocol::{Event, Timestamp},
    types::{BlockError, DumpInfo, MigrationStatus, ShutdownCause},
};

/// What a machine says by itself. A handle: clones speak to the same clients, from any thread.
///
/// A call puts the event into the queue of every client that has finished its handshake, and returns; it never waits for a
/// client. With no server, or no client, events go nowhere.
#[derive(Clone, Debug, Default)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
    /// The capability `events`: MIGRATION and MIGRATION_PASS are silent without it, as in QEMU.
    migration: AtomicBool,
    /// Events that were told; goes up before one is, with the listeners locked.
    count: AtomicU64,
}

/// How often something is read again at most as an event came. As many events come one after the other only where nobody can tell
/// before from after.
const READ_AGAIN: usize = 64;

/// Takes events: a client's outbox. Must not block.
pub(crate) trait Listener: Send + Sync {
    fn event(&self, line: &Arc<[u8]>);
}

impl Events {
    /// No client, and migration's events off.
    pub fn new() -> Self {
        Self::default()
    }

    /// STOP: the vCPUs are stopped. `set` has what the machine says of itself say so too: for every client that changes between
    /// the same two lines.
    pub fn stop(&self, set: impl FnOnce()) {
        self.emit_with("STOP", None, set);
    }

    /// RESUME: the vCPUs run. `set` as for [`Self::stop`].
    pub fn resume(&self, set: impl FnOnce()) {
        self.emit_with("RESUME", None, set);
    }

    /// Has `tell` told what `read` returns with no event between the two: a client that is told so finds that it agrees with the
    /// events before it and after. `tell` must not wait, nor tell an event.
    pub(crate) fn between<T>(&self, mut read: impl FnMut() -> T, tell: impl FnOnce(T)) {
        for last in [false; READ_AGAIN].into_iter().chain([true]) {
            // With the lock: an event that is being told has been counted, and what it is about may not say so yet.
            let before = self.count_when_told();
            let found = read();
            let _no_event = self.shared.listeners.lock();
            if last || self.shared.count.load(Ordering::SeqCst) == before {
                return tell(found);
            }
        }
    }

    /// BLOCK_IO_ERROR: a request of the guest failed at its disk's image.
    pub fn block_io_error(&self, error: &BlockError) {
        self.emit("BLOCK_IO_ERROR", Some(json!(error)));
    }

    /// POWERDOWN: the power button is pressed.
    pub fn powerdown(&self) {
        self.emit("POWERDOWN", None);
    }

    /// SHUTDOWN: the machine ends.
    pub fn shutdown(&self, reason: ShutdownCause) {
        self.emit("SHUTDOWN", Some(json!({ "guest": reason.by_guest(), "reason": reason })));
    }

    /// RESET: the machine starts anew.
    pub fn reset(&self, reason: ShutdownCause) {
        self.emit("RESET", Some(json!({ "guest": reason.by_guest(), "reason": reason })));
    }

    /// DUMP_COMPLETED: a dump is over, as `result` says; `error` says why it failed.
    pub fn dump_completed(&self, result: DumpInfo, error: Option<&str>) {
        let mut data = json!({ "result": result });
        if let Some(error) = error {
            data["error"] = error.into();
        }
        self.emit("DUMP_COMPLETED", Some(data));
    }

    /// MIGRATION: the migration's status changes, which `set` has what is said of it say too, as for [`Self::stop`]. Silent without the
    /// capability `events`.
    pub fn migration(&self, status: MigrationStatus, set: impl FnOnce()) {
        if self.shared.migration.load(Ordering::Relaxed) {
            self.emit_with("MIGRATION", Some(json!({ "status": status })), set);
        } else {
            set();
        }
    }

    /// MIGRATION_PASS: the set of dirty pages was made for the `pass`-th time, from 1. Silent without the capability `events`.
    pub fn migration_pass(&self, pass: u32) {
        if self.shared.migration.load(Ordering::Relaxed) {
            self.emit("MIGRATION_PASS", Some(json!({ "pass": pass })));
        }
    }

    /// Switches MIGRATION and MIGRATION_PASS on or off. The server calls it when a client sets the capability `events`; the
    /// machine calls it if the capability is on from the start.
    pub fn set_migration_events(&self, on: bool) {
        self.shared.migration.store(on, Ordering::Relaxed);
    }

    /// Adds a client. It is forgotten when its last owner drops it.
    pub(crate) fn listen(&self, listener: Weak<dyn Listener>) {
        let mut listeners = self.shared.listeners.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    /// How many events there were, and each of them is told.
    fn count_when_told(&self) -> u64 {
        let _told = self.shared.listeners.lock();
        self.shared.count.load(Ordering::SeqCst)
    }

    fn emit(&self, name: &str, data: Option<Value>) {
        self.emit_with(name, data, || {});
    }

    fn emit_with(&self, name: &str, data: Option<Value>, set: impl FnOnce()) {
        // The time is taken under the lock, so that every client sees timestamps in order.
        let mut listeners = self.shared.listeners.lock();
        self.shared.count.fetch_add(1, Ordering::SeqCst);
        set();
        let line: Arc<[u8]> =
            Event { event: name.to_owned(), data, timestamp: Timestamp::now() }.to_line().into();
        listeners.retain(|listener| match listener.upgrade() {
            Some(listener) => {
                listener.event(&line);
                true
            }
            None => false,
        });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners = self.listeners.lock().len();
        f.debug_struct("Shared").field("migration", &self.migration).field("listeners", &listeners).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_the_machine_agrees_with_the_events_around_it() {
        let (events, running) = (Events::new(), AtomicBool::new(true));
        let told = Mutex::new(Vec::new());
        let mut stops = 0;
        let read = || {
            let found = running.load(Ordering::SeqCst);
            // It stops twice just when it was read.
            if stops < 2 {
                stops += 1;
                events.stop(|| running.store(false, Ordering::SeqCst));
            }
            found
        };
        events.between(read, |found| told.lock().push(found));
        assert_eq!(*told.lock(), [false], "it was told of as it is after STOP");
    }

    #[test]
    fn what_was_read_while_an_event_was_being_told_is_not_told_after_it() {
        let (events, running) = (Events::new(), AtomicBool::new(true));
        let (has_read, reads) = std::sync::mpsc::channel();
        let told = std::thread::scope(|scope| {
            let mut asker = None;
            events.stop(|| {
                let (events, running) = (&events, &running);
                let read = move || {
                    // Nobody waits for it any more where it came later, as it should.
                    let _ = has_read.send(());
                    running.load(Ordering::SeqCst)
                };
                asker = Some(scope.spawn(move || {
                    let mut told = None;
                    events.between(read, |found| told = Some(found));
                    told
                }));
                // Whoever asks just now has all the time to see what is about to change.
                let _ = reads.recv_timeout(std::time::Duration::from_millis(200));
                running.store(false, Ordering::SeqCst);
            });
            asker.unwrap().join().unwrap()
        });
        assert_eq!(told, Some(false), "STOP was told before");
    }

    #[test]
    fn a_machine_that_never_rests_is_told_of_all_the_same() {
        let events = Events::new();
        let mut told = false;
        events.between(|| events.resume(|| {}), |()| told = true);
        assert!(told);
    }
}
