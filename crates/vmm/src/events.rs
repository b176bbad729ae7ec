//! What a machine tells the program it runs in.

use std::sync::{
    Arc,
    mpsc::{Receiver, Sender, channel},
};

use devices::MachineRequests;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

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
}

/// What a guest wants of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Reset,
    PowerOff,
}

/// The request on which nobody has acted yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestsV1 {
    pending: Option<Request>,
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
        (Self { sender, request: Arc::default() }, receiver)
    }

    /// A thread of the machine cannot go on.
    pub(crate) fn failed(&self, thread: String, reason: String) {
        tracing::error!(thread, reason, "Part of the machine has failed");
        self.send(MachineEvent::Failed { thread, reason });
    }

    /// The machine has been reset: what was wanted is done, or has become pointless.
    pub(crate) fn settle(&self) {
        *self.request.lock() = None;
    }

    /// Says again what is pending. For a machine to which this became possible only now: one that has arrived, or one whose
    /// migration failed.
    pub(crate) fn repeat(&self) {
        if let Some(request) = *self.request.lock() {
            self.say(request);
        }
    }

    /// Takes over what was pending where the machine came from.
    pub(crate) fn restore(&self, RequestsV1 { pending }: &RequestsV1) {
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

impl From<&Events> for RequestsV1 {
    fn from(events: &Events) -> Self {
        Self { pending: *events.request.lock() }
    }
}
