//! What a machine tells the program it runs in.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, Sender, channel},
};

use devices::{
    MachineRequests,
    blk::{DiskFailure, DiskWatch},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state::{DeviceState, Schema, StateError, Value, not_read};

/// Something happened in the machine that the program decides about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest asked for a reset (keyboard controller, ACPI reset register) or crashed its processor (triple fault).
    /// The machine expects [`Machine::reset`](crate::Machine::reset), or its end.
    Reset,
    /// The guest switched itself off. The machine expects its end, or a reset.
    PowerOff,
    /// A thread of the machine cannot go on. The machine must be paused and cannot run again, except after a reset.
    Failed {
        /// Name of the thread.
        thread: String,
        /// Why.
        reason: String,
    },
    /// A request failed at the image of a disk. If it waits, the machine must be paused, and can run on when whatever is wrong was mended.
    Disk {
        /// Number of the disk.
        index: usize,
        /// What failed.
        failure: DiskFailure,
    },
}

/// The sending end of the events of one machine, cheap to clone.
///
/// A guest that wants a reset may say so many times before it is stopped. Only its first request is sent, until the
/// machine was reset. The request is part of the machine's state: it is sent again where a machine arrives that was
/// moved before anybody acted on it.
#[derive(Clone, Debug)]
pub struct Events {
    sender: Sender<MachineEvent>,
    request: Arc<Mutex<Option<Request>>>,
    /// The machine is stopped as the storage of a disk failed.
    waits_for_storage: Arc<AtomicBool>,
}

/// Tells of the failures of one disk.
#[derive(Debug)]
pub(crate) struct OfDisk {
    index: usize,
    events: Events,
}

/// What a guest wants of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Reset,
    PowerOff,
}

/// The request on which nobody has acted yet, and why the machine is stopped where that is its own doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestsV2 {
    pending: Option<Request>,
    /// A request waits for the storage of its disk; until then the machine is stopped.
    waits_for_storage: bool,
}

/// As it was before storage could stop a machine. Also what is still written of a machine that it did not stop: a destination of the
/// release before can take that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestsV1 {
    pending: Option<Request>,
}

impl Schema for RequestsV2 {
    const KIND: &'static str = RequestsV1::KIND;
    const VERSION: u32 = 2;
    const OLDEST: u32 = 1;

    fn older(_: u32, body: Value) -> Result<Self, String> {
        let RequestsV1 { pending } = body.deserialized().map_err(|error| error.to_string())?;
        Ok(Self { pending, waits_for_storage: false })
    }
}

impl Schema for RequestsV1 {
    const KIND: &'static str = "machine-requests";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

impl Events {
    /// A channel for the events of one machine.
    #[must_use]
    pub fn channel() -> (Self, Receiver<MachineEvent>) {
        let (sender, receiver) = channel();
        (Self { sender, request: Arc::default(), waits_for_storage: Arc::default() }, receiver)
    }

    /// A thread of the machine cannot go on.
    pub(crate) fn failed(&self, thread: String, reason: String) {
        tracing::error!(thread, reason, "Part of the machine has failed");
        self.send(MachineEvent::Failed { thread, reason });
    }

    /// The machine has been reset: what was wanted is done, or has become pointless.
    pub(crate) fn settle(&self) {
        *self.request.lock() = None;
        self.set_waits_for_storage(false);
    }

    /// Whether the machine is stopped as the storage of a disk failed, or was when it was saved.
    pub(crate) fn waits_for_storage(&self) -> bool {
        self.waits_for_storage.load(Ordering::SeqCst)
    }

    /// The machine is stopped as the storage of a disk failed, or runs on.
    pub(crate) fn set_waits_for_storage(&self, waits: bool) {
        self.waits_for_storage.store(waits, Ordering::SeqCst);
    }

    /// Who hears of the failures of disk number `index`.
    pub(crate) fn of_disk(&self, index: usize) -> Arc<dyn DiskWatch> {
        Arc::new(OfDisk { index, events: self.clone() })
    }

    /// What is saved of them.
    pub(crate) fn save(&self, id: &str) -> Result<DeviceState, StateError> {
        let pending = *self.request.lock();
        if self.waits_for_storage() {
            DeviceState::encode(id, &RequestsV2 { pending, waits_for_storage: true })
        } else {
            DeviceState::encode(id, &RequestsV1 { pending })
        }
    }

    /// Says again what is pending. For a machine to which this became possible only now: one that has arrived, or one whose
    /// migration failed.
    pub(crate) fn repeat(&self) {
        if let Some(request) = *self.request.lock() {
            self.say(request);
        }
    }

    /// Takes over what was pending where the machine came from.
    pub(crate) fn restore(&self, RequestsV2 { pending, waits_for_storage }: &RequestsV2) {
        self.set_waits_for_storage(*waits_for_storage);
        if let Some(request) = pending {
            self.request(*request);
        }
    }

    fn request(&self, request: Request) {
        let mut pending = self.request.lock();
        if pending.is_none() {
            *pending = Some(request);
            self.say(request);
        }
    }

    fn say(&self, request: Request) {
        self.send(match request {
            Request::Reset => MachineEvent::Reset,
            Request::PowerOff => MachineEvent::PowerOff,
        });
    }

    /// Tells the program. When nobody listens any more, the machine is about to end anyway.
    fn send(&self, event: MachineEvent) {
        let _ = self.sender.send(event);
    }
}

impl MachineRequests for Events {
    fn shutdown(&self) {
        self.request(Request::PowerOff);
    }

    fn reset(&self) {
        self.request(Request::Reset);
    }
}

impl DiskWatch for OfDisk {
    fn failed(&self, failure: DiskFailure) {
        self.events.send(MachineEvent::Disk { index: self.index, failure });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(state: &DeviceState) -> Events {
        let (events, _) = Events::channel();
        events.restore(&state.decode::<RequestsV2>().unwrap());
        events
    }

    #[test]
    fn a_machine_that_waits_for_storage_says_so_where_it_arrives_and_any_other_is_as_in_the_release_before() {
        let (events, _heard) = Events::channel();
        events.reset();
        let before = events.save("requests").unwrap();
        assert_eq!(
            (before.version, before.decode::<RequestsV1>().unwrap().pending),
            (1, Some(Request::Reset))
        );
        assert!(!arrived(&before).waits_for_storage());

        events.set_waits_for_storage(true);
        let waits = events.save("requests").unwrap();
        assert!(waits.version == 2 && waits.decode::<RequestsV1>().is_err());
        let there = arrived(&waits);
        assert!(there.waits_for_storage());
        assert_eq!(there.save("requests").unwrap(), waits);
        there.settle();
        assert!(!there.waits_for_storage());
    }
}
