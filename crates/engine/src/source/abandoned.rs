use std::sync::Arc;

use migration::{Outcome, Status};

use super::Shared;
use crate::{Observer, SourceMachine, chain};

/// What is left of an attempt whose thread is gone: the state machine itself is defective.
pub(super) struct Abandoned {
    pub(super) machine: Arc<dyn SourceMachine>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) shared: Arc<Shared>,
}

impl Abandoned {
    /// Lets the machine go on here, unless the destination may have it.
    pub(super) fn take_back(&self, reason: String) {
        tracing::error!("{reason}");
        if !self.shared.source.lock().side().may_run() {
            tracing::error!("The machine stays stopped: see whether it runs at the destination");
            return self.shared.tell(Status::Unknown, self.observer.as_ref());
        }
        let run = self.shared.source.lock().state().runs_if_it_stays();
        if let Some(run) = run
            && let Err(error) = self.machine.resume(run)
        {
            tracing::error!("The machine stays stopped: {}", chain(error.as_ref()));
        }
        if let Err(error) = self.machine.dirty_log().stop() {
            tracing::warn!("Dirty logging could not be stopped: {error}");
        }
        self.observer.ended(&Outcome::Failed(reason));
        self.shared.tell(Status::Failed, self.observer.as_ref());
    }
}
