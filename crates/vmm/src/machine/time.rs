//! The time of a machine that is stopped: it goes on, as for a computer whose lid is closed. A guest with kvmclock is told, so that none of
//! its watchdogs takes the time for a processor that hung.

use std::sync::atomic::Ordering;

use super::Machine;
use crate::arch;

impl Machine {
    /// The machine stands still until it is let run, which may be long: its guest is told then.
    pub(crate) fn stands_still(&self) {
        self.stood_still.store(true, Ordering::Release);
    }

    /// The machine is about to run.
    pub(super) fn tell_that_it_stood_still(&self) {
        if self.stood_still.swap(false, Ordering::AcqRel)
            && let Err(error) = self.board.on_vcpus(|_| {
                |fd| {
                    arch::tell_that_it_stood_still(fd);
                    Ok(())
                }
            })
        {
            tracing::warn!("The guest is not told that it was stopped: {}", engine::chain(&error));
        }
    }
}
