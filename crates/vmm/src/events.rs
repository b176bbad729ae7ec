//! What a machine tells the program it runs in.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::vcpu::End;

/// Something happened in the machine that the program decides about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest asked for a reset (keyboard controller, ACPI reset register) or crashed its processor (triple fault).
    /// The machine expects [`Machine::reset`](crate::Machine::reset), or its end.
    Reset,
    /// The guest switched itself off. The machine expects its end.
    PowerOff,
    /// A vCPU cannot go on. The machine must be paused and cannot run again, except after a reset.
    Failed {
        /// Number of the vCPU.
        vcpu: u8,
        /// Why.
        reason: String,
    },
}

/// The sending end, cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(Sender<MachineEvent>);

impl Events {
    /// A channel for the events of one machine.
    #[must_use]
    pub fn channel() -> (Self, Receiver<MachineEvent>) {
        let (sender, receiver) = channel();
        (Self(sender), receiver)
    }

    /// Tells the program. When nobody listens any more, the machine is about to end anyway.
    pub(crate) fn send(&self, event: MachineEvent) {
        let _ = self.0.send(event);
    }

    pub(crate) fn vcpu_left(&self, vcpu: u8, end: End) {
        match end {
            End::Asked => {}
            End::Shutdown => self.send(MachineEvent::Reset),
            End::Failed(reason) => {
                tracing::error!(vcpu, reason, "vCPU stopped");
                self.send(MachineEvent::Failed { vcpu, reason });
            }
        }
    }
}
