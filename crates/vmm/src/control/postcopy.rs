//! A machine that runs at one side while pages of it are at the other: what its operator can say, and what must wait.

use std::time::Duration;

use engine::destination;
use migration::Postcopy;
use monitor::{CommandError, types::MigrationCapability};
use transport::{Address, Dialler};

use crate::PauseError;

use super::{
    Control, UNDECIDED_PATIENCE,
    moves::{Arrival, Departure},
    one_line,
};

/// How long the threads that place pages may take to end. They are told to, and wait for nothing but the network.
pub(super) const FORGET_PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of the process waits for the source to hear that its pages are not needed any more: it asks within 100 ms.
const FAREWELL: Duration = Duration::from_secs(1);

impl Control {
    /// Has the machine run at the destination now.
    pub(super) fn start_postcopy(&self) -> Result<(), CommandError> {
        let departure = self.departure.lock().clone();
        let Some(departure) = departure.filter(|departure| departure.handle.snapshot().status.is_under_way())
        else {
            return Err(CommandError::generic(
                "There is no migration under way: start one with capability postcopy-ram on",
            ));
        };
        if departure.handle.snapshot().params.postcopy == Postcopy::Off {
            return Err(CommandError::generic(format!(
                "Capability '{}' was off when this migration began: the two sides have not agreed on it. Cancel the migration, \
                 switch it on, and start again",
                MigrationCapability::PostcopyRam
            )));
        }
        departure.handle.start_postcopy();
        Ok(())
    }

    /// Breaks the link of a postcopy.
    pub(super) fn pause_postcopy(&self) -> Result<(), CommandError> {
        match self.leaves_by_postcopy() {
            Some(departure) => {
                departure.handle.pause();
                Ok(())
            }
            None => Err(CommandError::generic(
                "There is no postcopy from here to pause: it is said at the source, while pages follow the machine",
            )),
        }
    }

    /// Finds the destination of a postcopy again, at `address`.
    pub(super) fn resume_postcopy(&self, address: &Address) -> Result<(), CommandError> {
        let Some(departure) = self.leaves_by_postcopy() else {
            return Err(CommandError::generic("There is no postcopy from here to go on with"));
        };
        let trust = self.trust()?;
        super::security::check_address(&trust, address)?;
        self.check_to_leave(&trust)?;
        departure.handle.recover_by(Dialler::new(address.clone(), trust));
        Ok(())
    }

    /// The source of a postcopy will come again, to `address`: to where this side listens all the time.
    pub(super) fn expect_source_again(&self, address: &Address) -> Result<(), CommandError> {
        let Some(arrival) = self.arrival_that_lacks_pages() else {
            return Err(CommandError::generic("No pages are to come here: there is nothing to recover"));
        };
        if arrival.listens_at.contains(&address.to_string()) {
            return Ok(());
        }
        Err(CommandError::generic(format!(
            "This side listens at {} all the time, and cannot listen at {address} as well: have the source come there",
            arrival.listens_at.join(" and ")
        )))
    }

    /// A machine some of whose pages are still at the place that it came from cannot leave.
    pub(super) fn refuse_while_pages_come(&self) -> Result<(), CommandError> {
        match self.arrival_that_lacks_pages() {
            None => Ok(()),
            Some(arrival) => {
                let destination::Snapshot { status, .. } = arrival.handle.snapshot();
                Err(CommandError::generic(format!(
                    "Pages of the machine are still coming from where it was ({}): migrate it when that is over",
                    status.name()
                )))
            }
        }
    }

    /// What must not be done as long as the destination needs pages of this process.
    pub(super) fn refuse_in_postcopy(&self, what: &str) -> Result<(), CommandError> {
        if self.leaves_by_postcopy().is_none() {
            return Ok(());
        }
        Err(CommandError::generic(format!(
            "{what}: the machine runs at the destination, and pages of it are still here. `info migrate` says how many; \
             where it is gone for good, let_go gives them up"
        )))
    }

    /// The process was told to end while the destination needs pages of it. They are worth waiting for: who cannot wait sends a
    /// second signal.
    pub(super) fn finish_postcopy(&self, departure: &Departure) {
        while departure.handle.snapshot().status.is_postcopy() {
            tracing::error!(
                "The machine runs at the destination and lacks pages that are here: the process ends when it has them"
            );
            departure.handle.join_within(UNDECIDED_PATIENCE);
        }
    }

    /// The process ends, and the machine with it: the source need not keep pages for it. They are given up only when no thread of a
    /// device works any more, as the machine would go on with others.
    pub(super) fn forget_missing(&self) {
        let Some(arrival) = self.arrival_that_lacks_pages() else { return };
        let forget = || arrival.handle.forget_missing(FORGET_PATIENCE);
        let turn = self.turn.lock();
        let machine = self.machine.lock().clone();
        let stopped = machine.map_or(Ok(()), |machine| machine.stop_lacking(forget));
        drop(turn);
        if let Err(error) = stopped {
            tracing::error!("{}", one_line(&error));
            if let (PauseError::Stuck { .. }, Some(machine)) = (error, self.machine.lock().take()) {
                // Its threads cannot be waited for: they end with the process.
                std::mem::forget(machine);
            }
        }
        // It may have taken the end of its channels for a lost link, and asks then.
        arrival.handle.join_within(FAREWELL);
    }

    /// Where a machine came from that runs here and lacks pages.
    pub(super) fn arrival_that_lacks_pages(&self) -> Option<Arrival> {
        let arrival = self.arrival.lock().clone();
        arrival.filter(|arrival| arrival.handle.snapshot().status.is_postcopy())
    }

    fn leaves_by_postcopy(&self) -> Option<Departure> {
        let departure = self.departure.lock().clone();
        departure.filter(|departure| departure.handle.snapshot().status.is_postcopy())
    }
}
