use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use migration::{Outcome, Params, Status};

use crate::{
    assert_moves, assert_moves_soon, checked, destination,
    machine::{
        Machine, Notes,
        travel::{Destination, migrate},
    },
    proxy::{Harm, Moment, Plan, Proxy, Way},
    running_machine, watch,
};

/// What a run through a bad link came to.
struct Run {
    machine: Arc<Machine>,
    destination: Destination,
    outcome: Outcome,
    notes: Arc<Notes>,
    proxy: Proxy,
    what: String,
}

/// Migrates through a link that is harmed as planned, and checks what must hold whatever came of it.
fn migrate_through(plan: Plan, params: Params) -> Run {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let proxy = Proxy::new(destination.address(), plan);
    let (handle, notes) = migrate(machine.clone(), &proxy.address, params);
    let outcome = notes.outcome();
    handle.join();
    let run = Run { machine, destination, notes, proxy, what: format!("{plan:?}: {outcome:?}"), outcome };
    run.check();
    run
}

impl Run {
    /// What was sent last may still be on its way to the proxy.
    fn was_struck(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.proxy.has_struck() {
            assert!(Instant::now() < deadline, "{}", self.what);
            std::thread::yield_now();
        }
    }

    fn check(&self) {
        let what = &self.what;
        assert!(!self.machine.disk.two_ran.load(Ordering::SeqCst), "two machines ran: {what}");
        let here = self.machine.running.load(Ordering::SeqCst);
        let there = *self.destination.arrival.ran.lock().unwrap() == Some(true);
        assert_eq!(
            (here, there),
            (self.outcome != Outcome::Completed, self.outcome == Outcome::Completed),
            "{what}"
        );
        if there {
            let arrived = self.destination.arrival.machine.lock().unwrap().clone().unwrap();
            assert!(self.machine.contents() == arrived.contents(), "memory differs: {what}");
        } else {
            assert_moves_soon(&self.machine, &self.destination);
        }
    }
}

/// Runs all plans, some at a time: most of them wait.
fn all(plans: Vec<Plan>, params: &Params) -> Vec<Run> {
    let plans = std::sync::Mutex::new(plans.into_iter());
    let next = || plans.lock().unwrap().next();
    std::thread::scope(|scope| {
        let worker = || std::iter::from_fn(next).map(|plan| migrate_through(plan, params.clone())).collect();
        let workers: Vec<_> = (0..16).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| -> Vec<Run> { worker.join().unwrap() }).collect()
    })
}

const FROM_SOURCE: &[&str] = &["Hello", "Switchover", "Device", "Complete", "Go", "Bye"];
const FROM_DESTINATION: &[&str] = &["Accept", "ChannelsOpen", "Ready", "Running"];

fn around_every_message(harm: Harm) -> Vec<Plan> {
    let of = |way, names: &'static [&'static str]| names.iter().map(move |&name| (way, name));
    let messages = of(Way::ToDestination, FROM_SOURCE).chain(of(Way::ToSource, FROM_DESTINATION));
    messages
        .flat_map(|(way, name)| {
            [Moment::Before(name), Moment::After(name)].map(|moment| Plan { moment, way, harm })
        })
        .collect()
}

#[test]
fn a_control_connection_cut_around_any_message_leaves_one_machine() {
    for run in all(around_every_message(Harm::Cut), &checked()) {
        run.was_struck();
        // When go was said the destination is asked, and it knows.
        let unknown = run.notes.statuses.lock().unwrap().contains(&Status::Unknown);
        assert!(!unknown || run.outcome != Outcome::Cancelled, "{}", run.what);
    }
}

#[test]
fn a_control_connection_that_stalls_around_any_message_leaves_one_machine() {
    // Longer than the source waits before go, and than it waits for the answer to go.
    let harm = Harm::Stall(Duration::from_secs(7));
    let params = checked().switchover_timeout(Duration::from_millis(700));
    for run in all(around_every_message(harm), &params) {
        run.was_struck();
    }
}

#[test]
fn a_control_connection_cut_at_any_byte_leaves_one_machine() {
    let plan = |way| move |at| Plan { moment: Moment::Byte(0, at), way, harm: Harm::Cut };
    let up = (0..800).step_by(61).map(plan(Way::ToDestination));
    let down = (0..260).step_by(23).map(plan(Way::ToSource));
    let runs = all(up.chain(down).collect(), &checked());
    let struck = runs.iter().filter(|run| run.proxy.has_struck()).count();
    assert!(struck * 2 > runs.len(), "only {struck} of {} were cut", runs.len());
}

/// Byte offsets in a page channel: within its hello, within the first header and table, and further on.
fn channel_offsets() -> impl Iterator<Item = u64> {
    [0, 7, 16, 35, 36, 40, 52, 60, 70, 100].into_iter().chain((1..24).map(|step| 4099 * step * step))
}

#[test]
fn a_page_channel_cut_anywhere_leaves_the_machine_where_it_was() {
    let plans = channel_offsets().map(|at| Plan {
        moment: Moment::Byte(1 + (at % 2) as usize, at),
        way: Way::ToDestination,
        harm: Harm::Cut,
    });
    let runs = all(plans.collect(), &checked());
    let struck: Vec<_> = runs.iter().filter(|run| run.proxy.has_struck()).collect();
    assert!(struck.len() >= 15, "only {} were cut", struck.len());
    for run in struck {
        assert!(matches!(run.outcome, Outcome::Failed(_)), "{}", run.what);
    }
}

#[test]
fn a_bit_that_flips_anywhere_on_a_page_channel_is_noticed() {
    let plans = channel_offsets().map(|at| Plan {
        moment: Moment::Byte(1 + (at % 2) as usize, at),
        way: Way::ToDestination,
        harm: Harm::Flip,
    });
    let runs = all(plans.collect(), &checked());
    let failed = |run: &&Run| matches!(run.outcome, Outcome::Failed(_));
    let says = |part: &str| runs.iter().any(|run| run.what.contains(part));
    // A page that is sent again later mends the damage; everything else must fail, which `check` has seen to by comparing.
    let noticed = runs.iter().filter(|run| run.proxy.has_struck()).filter(failed).count();
    assert!(noticed >= 8, "only {noticed} were noticed");
    let all: Vec<_> = runs.iter().map(|run| &run.what).collect();
    assert!(says("Checksum"), "no damage to a header or table was noticed: {all:#?}");
    // The reason is what the destination found, not that it hung up then.
    let reasons =
        ["gave up: Page channel", "gave up: Memory is not", "closed a page channel before it was used"];
    let vague = |run: &&Run| !reasons.iter().any(|reason| run.what.contains(reason));
    let vague: Vec<_> = runs.iter().filter(failed).filter(vague).map(|run| &run.what).collect();
    assert!(vague.is_empty(), "{vague:#?}");
}

#[test]
fn a_bit_that_flips_in_the_last_copy_of_a_page_is_caught_by_the_digest() {
    watch::panics();
    // A machine that does not run: every page is sent once.
    let machine = running_machine();
    machine.halt();
    let destination = destination(&machine);
    let plan = Plan { moment: Moment::Byte(1, 100_000), way: Way::ToDestination, harm: Harm::Flip };
    let proxy = Proxy::new(destination.address(), plan);
    let params = checked().channels(1);
    let (_handle, notes) = migrate(machine.clone(), &proxy.address, params);
    let Outcome::Failed(reason) = notes.outcome() else { panic!("damaged memory was run") };
    assert!(reason.contains("Memory is not as it was at the source: ram.low"), "{reason}");
    assert!(!machine.running.load(Ordering::SeqCst), "a paused machine stays paused");
    machine.run(64);
    assert_moves(&machine, &destination);
}

#[test]
fn a_bit_that_flips_in_any_message_is_noticed_and_leaves_one_machine() {
    let plan = |way| move |at| Plan { moment: Moment::Byte(0, at), way, harm: Harm::Flip };
    let up = (0..800).step_by(53).map(plan(Way::ToDestination));
    let down = (0..260).step_by(29).map(plan(Way::ToSource));
    let mut plans: Vec<_> = up.chain(down).collect();
    for (way, name) in [(Way::ToDestination, "Go"), (Way::ToSource, "Running"), (Way::ToSource, "Ready")] {
        plans.push(Plan { moment: Moment::Before(name), way, harm: Harm::Flip });
    }
    all(plans, &checked());
}
