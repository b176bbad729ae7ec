//! The engine's two sides over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;

use std::time::Duration;

use migration::{Outcome, Params, Status};
use transport::Address;
use wire::{Features, Forward, Offer};

use machine::{
    Machine, PAGES, ram,
    travel::{assert_arrived_whole, destination, destination_as, loopback, migrate},
};

#[test]
fn a_busy_machine_arrives_whole_over_many_channels() {
    for channels in [1, 4, 16] {
        let machine = Machine::new(ram(), 0);
        machine.fill();
        machine.run(PAGES);
        let destination = destination(&loopback(), &machine);
        let params = Params::default().channels(channels).digest(wire::Digest::Full);
        let (handle, notes) = migrate(machine.clone(), destination.address(), params);
        assert_arrived_whole(&machine, &destination, &notes);
        assert_eq!(*destination.arrival.ran.lock().unwrap(), Some(true));
        let statistics = handle.snapshot().statistics;
        assert!(statistics.rounds.len() >= 2, "{statistics:#?}");
        assert!(statistics.pages.zero > 0, "half of memory was zero");
    }
}

#[test]
fn a_machine_goes_back_and_forth_over_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(ram(), 0);
    machine.fill();
    for hop in 0..6 {
        machine.run(PAGES / 4);
        let destination = destination(&Address::Unix(folder.path().join(format!("{hop}.sock"))), &machine);
        let params = Params::default().digest(wire::Digest::Full);
        let (_handle, notes) = migrate(machine.clone(), destination.address(), params);
        machine = assert_arrived_whole(&machine, &destination, &notes);
    }
}

#[test]
fn a_paused_machine_moves_and_stays_paused() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    let destination = destination(&loopback(), &machine);
    let (_handle, notes) = migrate(machine.clone(), destination.address(), Params::default());
    assert_arrived_whole(&machine, &destination, &notes);
    assert_eq!(*destination.arrival.ran.lock().unwrap(), Some(false));
}

#[test]
fn after_a_cancel_the_machine_runs_on_and_the_next_attempt_succeeds() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let slow = Params::default().max_bandwidth(2_000_000);
    let (handle, notes) = migrate(machine.clone(), destination.address(), slow);
    while handle.snapshot().sent_bytes == 0 {
        std::thread::yield_now();
    }
    handle.cancel();
    assert_eq!(notes.outcome(), Outcome::Cancelled);
    // The outcome is told before the status.
    handle.join();
    assert_eq!(handle.snapshot().status, Status::Cancelled);
    assert!(machine.running.load(std::sync::atomic::Ordering::SeqCst), "the machine must run at the source");
    // The destination notices on its own time; until then it is busy.
    let mut attempts = 0;
    let (notes, _handle) = loop {
        let (handle, notes) =
            migrate(machine.clone(), destination.address(), Params::default().digest(wire::Digest::Full));
        match notes.outcome() {
            Outcome::Failed(reason) if reason.contains("busy") && attempts < 1000 => attempts += 1,
            _ => break (notes, handle),
        }
    };
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn pause_before_switchover_waits_for_the_word() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(64);
    let destination = destination(&loopback(), &machine);
    let params = Params::default().pause_before_switchover(true);
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    while handle.snapshot().status != Status::PreSwitchover {
        std::thread::yield_now();
    }
    assert!(!machine.running.load(std::sync::atomic::Ordering::SeqCst));
    handle.proceed();
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn lifting_the_bandwidth_limit_takes_effect_at_once() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    let destination = destination(&loopback(), &machine);
    let slow = Params::default().max_bandwidth(1000);
    let (handle, notes) = migrate(machine.clone(), destination.address(), slow);
    while handle.snapshot().status != Status::Active {
        std::thread::yield_now();
    }
    handle.set_live(0, Duration::from_millis(300), 0);
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn nobody_listening_is_a_failure_that_says_where() {
    let machine = Machine::new(ram(), 0);
    machine.run(64);
    let nobody = Address::Unix("/nonexistent/socket".into());
    let (_handle, notes) = migrate(machine.clone(), &nobody, Params::default());
    let Outcome::Failed(reason) = notes.outcome() else { panic!("it cannot have succeeded") };
    assert!(reason.contains("unix:/nonexistent/socket"), "{reason}");
    assert!(machine.running.load(std::sync::atomic::Ordering::SeqCst));
    machine.halt();
}

#[test]
fn what_came_for_a_machine_on_its_way_follows_it_to_a_peer_that_takes_it() {
    let packets = || {
        // More than a message may have.
        let first = Forward::new("net0", (0..50).map(|number| vec![number; 60_000]));
        [first, Forward::new("net2", []), Forward::new("net1", [vec![3; 60]])]
    };
    let none = Features::default();
    for (features, runs, follow, ends) in [
        (Features::OURS, true, true, true),
        (Features::OURS, false, false, false),
        (Features::FORWARD, true, true, false),
        (none, true, false, false),
    ] {
        let machine = Machine::new(ram(), 0);
        machine.fill();
        machine.undelivered.lock().unwrap().extend(packets());
        if runs {
            machine.run(PAGES / 4);
        }
        let offer = Offer { features, ..Offer::of("test") };
        let destination = destination_as(&offer, &loopback(), &machine);
        let (_handle, notes) = migrate(machine.clone(), destination.address(), Params::default());
        assert_arrived_whole(&machine, &destination, &notes);
        // What came for a machine that is paused is of the past when it goes on.
        let follows = if follow { packets().to_vec() } else { Vec::new() };
        let each = |forwards: &[Forward]| -> Vec<_> {
            let of_one = |forward: &Forward| {
                forward
                    .packets
                    .iter()
                    .map(|packet| (forward.device.clone(), packet.clone()))
                    .collect::<Vec<_>>()
            };
            forwards.iter().flat_map(of_one).collect()
        };
        let delivered = destination.arrival.delivered.lock().unwrap();
        assert_eq!(each(&delivered), each(&follows));
        assert_eq!(destination.arrival.foretold.load(std::sync::atomic::Ordering::SeqCst), ends);
        for device in ["net0", "net1", "net2"].iter().filter(|_| ends) {
            let last = delivered.iter().rfind(|forward| forward.device == *device);
            assert!(last.is_some_and(Forward::is_end), "{device}: {last:?}");
        }
    }
}
