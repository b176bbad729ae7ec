//! Everything that must not harm a migration: strangers at the port, peers that do not keep to the protocol, connections
//! that break, stall or damage bytes. After each the machine runs on exactly one side, and a good attempt succeeds.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod bad_destinations;
mod bad_encodings;
mod bad_links;
mod bad_sources;
#[path = "../machine/mod.rs"]
mod machine;
mod peer;
mod proxy;
mod strangers;
mod watch;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use migration::{Outcome, Params};

use machine::{
    Machine, Notes,
    travel::{self, Destination, assert_arrived_whole, migrate},
};

/// Pages of a machine that moves in milliseconds.
const SMALL: u64 = 512;

/// A small machine that runs.
fn running_machine() -> Arc<Machine> {
    let machine = Machine::new(machine::ram_of(SMALL), 0);
    machine.fill();
    machine.rest.store(500, Ordering::SeqCst);
    machine.run(SMALL);
    machine
}

fn destination(machine: &Machine) -> Destination {
    travel::destination(&travel::loopback(), machine)
}

fn checked() -> Params {
    Params::default().digest(wire::Digest::Full).channels(2)
}

/// The machine runs at the source, and nowhere else.
fn assert_runs_here(machine: &Machine, destination: &Destination) {
    assert!(machine.running.load(Ordering::SeqCst), "the machine does not run at the source");
    assert_eq!(*destination.arrival.ran.lock().unwrap(), None, "the machine was started at the destination");
    assert!(!machine.disk.two_ran.load(Ordering::SeqCst), "two machines ran at once");
}

/// A good attempt succeeds, as if nothing had been before. Nothing of the engine may have panicked until then.
fn assert_moves(machine: &Arc<Machine>, destination: &Destination) {
    let notes = attempt(machine, destination);
    assert_has_moved(machine, destination, &notes);
}

/// The same, when the destination may not have noticed yet that the attempt before is over.
fn assert_moves_soon(machine: &Arc<Machine>, destination: &Destination) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let notes = attempt(machine, destination);
        match notes.outcome() {
            Outcome::Failed(reason) if reason.contains("busy") => {
                assert!(Instant::now() < deadline, "the destination holds on to an attempt that is over");
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return assert_has_moved(machine, destination, &notes),
        }
    }
}

fn attempt(machine: &Arc<Machine>, destination: &Destination) -> Arc<Notes> {
    let (handle, notes) = migrate(machine.clone(), destination.address(), checked());
    handle.join();
    notes
}

fn assert_has_moved(machine: &Machine, destination: &Destination, notes: &Notes) {
    assert_eq!(notes.outcome(), Outcome::Completed);
    assert_arrived_whole(machine, destination, notes);
    assert_eq!(*destination.arrival.ran.lock().unwrap(), Some(true));
    watch::assert_no_panic();
}
