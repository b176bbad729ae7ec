//! Runs migrations: the threads and sockets around the state machines of the `migration` crate.
//!
//! The engine knows no hypervisor. A virtual machine monitor implements [`SourceMachine`] and [`DestinationMachine`], and then
//!
//! * [`source::start`] moves its machine to an address, and
//! * [`destination::listen`] takes a machine in.
//!
//! # Threads
//! The source has one migration thread (state machine, control connection, device states), one thread that reads the
//! control connection, and one thread for each page channel, which does everything that concerns a page: clear its dirty bit,
//! look at it, send it. The destination has the same, and one thread that accepts connections. No thread of the engine
//! holds a lock while it waits for a peer. A program may have them started in a way of its own ([`Threads`]).

mod cpu_time;
mod frames;
mod machine;
mod threads;

pub mod destination;
pub mod source;

pub use machine::{DestinationMachine, MachineError, Observer, SourceMachine, VcpuTimes};
pub use threads::{PlainThreads, ThreadRole, Threads, catch_panic};

/// An error and everything that caused it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
