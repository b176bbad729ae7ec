//! A machine that runs at the destination before its memory is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;
#[path = "as_modelled/wire_between.rs"]
#[allow(dead_code, reason = "it does more than is needed here")]
mod wire_between;

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use migration::{Outcome, Params, Postcopy, Status};
use ram::PAGE_SIZE;
use vm_memory::{Bytes, GuestAddress};

use whimbrel_engine::source;

use machine::{
    Arrival, Machine, Notes, PAGES, ram,
    travel::{Destination, assert_arrived_whole, destination, loopback, migrate},
};
use wire::Digest;
use wire_between::Between;

fn by_postcopy(postcopy: Postcopy) -> Params {
    Params::default().postcopy(postcopy)
}

/// A machine that runs at the destination and lacks pages, for half a minute unless they are let through.
fn lacking_pages() -> (Arc<Machine>, Destination, source::Handle, Arc<Notes>) {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let params = by_postcopy(Postcopy::Immediate).max_postcopy_bandwidth(500_000);
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    while handle.snapshot().status != Status::PostcopyActive {
        std::thread::yield_now();
    }
    (machine, destination, handle, notes)
}

/// Touches all pages at random as soon as the machine runs at the destination, as a vCPU would. Returns how many it found to be other
/// than at the source, where nothing changes any more.
fn touch(machine: &Arc<Machine>, arrival: &Arc<Arrival>, seed: u64) -> JoinHandle<u64> {
    let (source, arrival) = (machine.clone(), arrival.clone());
    std::thread::spawn(move || {
        let there = loop {
            if let Some(machine) = arrival.machine.lock().unwrap().clone() {
                break machine;
            }
            std::thread::yield_now();
        };
        let (mut wrong, mut seed) = (0, seed);
        let (mut here, mut page) = (vec![0; PAGE_SIZE], vec![0; PAGE_SIZE]);
        for _ in 0..2 * PAGES {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = GuestAddress((seed >> 33) % PAGES * PAGE_SIZE as u64);
            there.ram.memory().read_slice(&mut page, at).unwrap();
            source.ram.memory().read_slice(&mut here, at).unwrap();
            wrong += u64::from(page != here);
        }
        wrong
    })
}

#[test]
fn a_machine_runs_from_the_start_and_its_memory_follows() {
    for channels in [1, 4] {
        let machine = Machine::new(ram(), 0);
        machine.fill();
        machine.run(PAGES);
        let destination = destination(&loopback(), &machine);
        let (handle, notes) = migrate(
            machine.clone(),
            destination.address(),
            by_postcopy(Postcopy::Immediate).channels(channels),
        );
        let touching: Vec<_> = (0..3).map(|seed| touch(&machine, &destination.arrival, seed)).collect();
        assert_arrived_whole(&machine, &destination, &notes);
        for touching in touching {
            assert_eq!(touching.join().unwrap(), 0, "pages were wrong when they were touched");
        }
        assert!(notes.statuses.lock().unwrap().contains(&Status::PostcopyActive));
        assert!(destination.notes.statuses.lock().unwrap().contains(&Status::PostcopyActive));
        assert_eq!(handle.snapshot().remaining_pages, 0);
    }
}

#[test]
fn pages_that_are_touched_first_while_a_machine_leaves_follow_it_too() {
    for _ in 0..5 {
        let machine = Machine::new(ram(), 0);
        // It writes to pages that nothing was in before, until it is stopped.
        machine.run(PAGES);
        let destination = destination(&loopback(), &machine);
        let (_handle, notes) =
            migrate(machine.clone(), destination.address(), by_postcopy(Postcopy::Immediate));
        assert_arrived_whole(&machine, &destination, &notes);
    }
}

#[test]
fn rounds_end_at_once_when_the_user_wants_postcopy() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    // The first round takes seconds.
    let params = by_postcopy(Postcopy::OnRequest).max_bandwidth(4_000_000);
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    while handle.snapshot().sent_bytes == 0 {
        std::thread::yield_now();
    }
    handle.start_postcopy();
    let touching = touch(&machine, &destination.arrival, 5);
    assert_arrived_whole(&machine, &destination, &notes);
    assert_eq!(touching.join().unwrap(), 0);
    let statistics = handle.snapshot().statistics;
    assert!(statistics.rounds[0].pages.total() < PAGES, "{statistics:#?}");
}

#[test]
fn a_machine_that_dirties_as_fast_as_it_is_sent_moves_by_postcopy_by_itself() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let params =
        by_postcopy(Postcopy::Auto).max_bandwidth(20_000_000).downtime_limit(Duration::from_millis(1));
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    let touching = touch(&machine, &destination.arrival, 5);
    assert_arrived_whole(&machine, &destination, &notes);
    assert_eq!(touching.join().unwrap(), 0);
    assert!(handle.snapshot().statistics.rounds.len() >= 2);
    assert!(notes.statuses.lock().unwrap().contains(&Status::PostcopyActive));
}

#[test]
fn a_machine_for_which_rounds_suffice_needs_no_postcopy() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(64);
    let destination = destination(&loopback(), &machine);
    let (_handle, notes) = migrate(machine.clone(), destination.address(), by_postcopy(Postcopy::Auto));
    assert_arrived_whole(&machine, &destination, &notes);
    assert!(!notes.statuses.lock().unwrap().contains(&Status::PostcopyActive));
}

#[test]
fn a_paused_machine_moves_by_postcopy_and_stays_paused() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    let destination = destination(&loopback(), &machine);
    let (_handle, notes) = migrate(machine.clone(), destination.address(), by_postcopy(Postcopy::Immediate));
    assert_arrived_whole(&machine, &destination, &notes);
    assert_eq!(*destination.arrival.ran.lock().unwrap(), Some(false));
}

#[test]
fn a_link_that_is_cut_again_and_again_delays_pages_and_loses_none() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let (between, address) = Between::start(destination.address());
    let params = by_postcopy(Postcopy::Immediate).channels(3).max_postcopy_bandwidth(8_000_000);
    let (handle, notes) = migrate(machine.clone(), &address, params);
    let touching: Vec<_> = (0..2).map(|seed| touch(&machine, &destination.arrival, seed)).collect();
    let mut remaining = u64::MAX;
    let mut cuts = 0;
    while handle.snapshot().status.is_under_way() && cuts < 4 {
        let now = handle.snapshot();
        if now.status == Status::PostcopyActive && now.remaining_pages < remaining {
            remaining = now.remaining_pages;
            cuts += 1;
            between.cut();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(cuts, 4, "{:#?}", handle.snapshot());
    handle.set_postcopy_bandwidth(0);
    assert_arrived_whole(&machine, &destination, &notes);
    for touching in touching {
        assert_eq!(touching.join().unwrap(), 0, "pages were wrong when they were touched");
    }
    let statuses = notes.statuses.lock().unwrap();
    assert!(
        statuses.contains(&Status::PostcopyPaused) && statuses.contains(&Status::PostcopyRecover),
        "{statuses:?}"
    );
    assert!(destination.notes.statuses.lock().unwrap().contains(&Status::PostcopyPaused));
}

/// Its requests and what was sent for them are lost, and every other connection is well: only the silence tells.
#[test]
fn an_urgent_connection_on_which_nothing_comes_through_is_made_again() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let (between, address) = Between::start(destination.address());
    let params = by_postcopy(Postcopy::Immediate).max_postcopy_bandwidth(500_000);
    let (handle, notes) = migrate(machine.clone(), &address, params);
    while handle.snapshot().status != Status::PostcopyActive {
        std::thread::yield_now();
    }
    between.swallow_last();
    let touching = touch(&machine, &destination.arrival, 1);
    while handle.snapshot().status == Status::PostcopyActive {
        std::thread::sleep(Duration::from_millis(5));
    }
    handle.set_postcopy_bandwidth(0);
    assert_arrived_whole(&machine, &destination, &notes);
    assert_eq!(touching.join().unwrap(), 0, "pages were wrong when they were touched");
    assert!(notes.statuses.lock().unwrap().contains(&Status::PostcopyRecover));
}

#[test]
fn a_page_that_is_damaged_on_the_way_is_asked_for_again_before_the_machine_sees_it() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let (between, address) = Between::start(destination.address());
    let params = by_postcopy(Postcopy::Immediate).digest(Digest::Transfer).channels(2);
    let (handle, notes) = migrate(machine.clone(), &address, params.max_postcopy_bandwidth(8_000_000));
    while handle.snapshot().status != Status::PostcopyActive {
        std::thread::yield_now();
    }
    between.damage();
    while handle.snapshot().status == Status::PostcopyActive {
        std::thread::sleep(Duration::from_millis(5));
    }
    handle.set_postcopy_bandwidth(0);
    assert_arrived_whole(&machine, &destination, &notes);
    assert!(notes.statuses.lock().unwrap().contains(&Status::PostcopyRecover), "it was not noticed");
}

#[test]
fn pages_of_rounds_and_those_that_follow_are_compared() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let params = by_postcopy(Postcopy::OnRequest).digest(Digest::Transfer).max_bandwidth(4_000_000);
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    while handle.snapshot().statistics.dirty_syncs < 2 {
        std::thread::yield_now();
    }
    handle.start_postcopy();
    assert_arrived_whole(&machine, &destination, &notes);
    assert_eq!(destination.handle.snapshot().attempt.unwrap().compared, Some(Ok(())));
}

#[test]
fn a_cancel_comes_too_late_once_the_machine_runs_at_the_destination() {
    let (machine, destination, handle, notes) = lacking_pages();
    handle.cancel();
    destination.handle.cancel();
    handle.set_postcopy_bandwidth(0);
    assert_arrived_whole(&machine, &destination, &notes);
    assert!(!machine.running.load(Ordering::SeqCst));
}

#[test]
fn a_user_pauses_and_says_when_to_go_on() {
    let (machine, destination, handle, notes) = lacking_pages();
    handle.pause();
    while handle.snapshot().status != Status::PostcopyPaused {
        std::thread::yield_now();
    }
    handle.set_postcopy_bandwidth(0);
    handle.recover();
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn a_machine_that_is_not_let_in_with_postcopy_runs_on() {
    let machine = Machine::new(ram(), 0);
    machine.run(64);
    let destination = destination(&loopback(), &machine);
    destination.arrival.no_userfault.store(true, Ordering::SeqCst);
    let (_handle, notes) = migrate(machine.clone(), destination.address(), by_postcopy(Postcopy::Immediate));
    let Outcome::Failed(reason) = notes.outcome() else { panic!("it cannot have succeeded") };
    assert!(reason.contains("Pages cannot follow the machine here: not today"), "{reason}");
    assert!(machine.running.load(Ordering::SeqCst));
    machine.halt();
}

#[test]
fn a_machine_gets_every_page_that_it_touches_though_hardly_any_may_be_pushed() {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination(&loopback(), &machine);
    let params = by_postcopy(Postcopy::Immediate).max_postcopy_bandwidth(1);
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    while handle.snapshot().status != Status::PostcopyActive {
        std::thread::yield_now();
    }
    let there = destination.arrival.machine.lock().unwrap().clone().unwrap();
    assert!(there.contents() == machine.contents(), "memory differs");
    // No limit was lifted: all pages have been asked for, but for one batch or two of each channel.
    assert_arrived_whole(&machine, &destination, &notes);
}
