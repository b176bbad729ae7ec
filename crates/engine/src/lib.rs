//! Runs migrations: the threads and sockets around the state machines of the `migration` crate.
//!
//! The engine knows no hypervisor. A virtual machine monitor implements [`SourceMachine`] and [`DestinationMachine`], and then
//!
//! * [`source::start`] moves its machine to an address, and
//! * [`destination::listen`] takes a machine in.
//!
//! Names of other crates that this needs are names of this one too: guest memory ([`Ram`], [`DirtyLog`]), connections ([`Dial`],
//! [`Accept`]), saved states ([`DeviceState`], [`Schema`]), parameters and figures ([`Params`], [`Statistics`]). A monitor depends on
//! this crate alone. `docs/embedding.md` goes through `examples/toy_monitor.rs`, a monitor that does it.
//!
//! # Threads
//! The source has one migration thread (state machine, control connection, device states), one thread that reads the
//! control connection, and one thread for each page channel, which does everything that concerns a page: clear its dirty bit,
//! look at it, send it. The destination has the same, and one thread that accepts connections. No thread of the engine
//! holds a lock while it waits for a peer. A program may have them started in a way of its own ([`Threads`]).

mod cpu_time;
mod frames;
mod greet;
mod lane;
mod link;
mod machine;
mod main_thread;
mod page_counters;
mod priority;
mod threads;
mod throttle;

pub mod destination;
pub mod source;

pub use migration::{
    Advice, ByWhen, Downtime, FixedCosts, Means, Outcome, Params, Postcopy, Progress, RoundStats, Statistics,
    Status, Steps, Throttling, source::Verdict,
};
pub use ram::{
    Backing, Block, BlockLayout, DirtyLog, GuestMemory, Incomplete, PAGE_SIZE, Populate, Ram, RamError,
    UserfaultError, Userfaultfd, vm_memory,
};
pub use state::{DeviceState, Schema, StateError, Value, not_read};
pub use transport::{
    Accept, Address, Authz, Connection, Dial, Dialler, Listener, Security, Stopper, Tls, TlsError,
    TransportError, Trust,
};
pub use wire::{BlockInfo, DeviceInfo, Digest, Forward, FrameKind, Hello, Offer, PageCounts, SessionId};

pub use machine::{DestinationMachine, Heard, MachineError, Observer, SourceMachine, VcpuTimes};
pub use threads::{NewThread, PlainThreads, ThreadRole, Threads, catch_panic};
pub use throttle::{Throttle, VcpuLoad};

/// An error and everything that caused it, in one line. Errors of other crates may repeat what caused them: that is told once.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("It broke: {0}")]
        Repeats(#[source] std::io::Error),
        #[error("It broke")]
        Says(#[source] std::io::Error),
    }

    #[test]
    fn a_cause_is_told_once_whether_or_not_the_error_repeats_it() {
        for failure in [Failure::Repeats, Failure::Says] {
            assert_eq!(
                chain(&failure(std::io::Error::other("the disk is full"))),
                "It broke: the disk is full"
            );
        }
    }
}
