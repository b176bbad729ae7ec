//! Orders that come at any moment: whatever the moment, the machine is at one place, whole.

use std::time::{Duration, Instant};

use monitor::types::{MigrationStatus, RunState};
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, Story, Vmm, until};

const NONE: Value = Value::Null;

/// Lets that much time pass, for the moment of what follows to be another one each time.
fn after(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Waits until the migration is over.
fn over(source: &Vmm) -> MigrationStatus {
    until("the migration is over", || source.query_migrate().status.filter(|status| status.is_final()))
}

#[test]
fn a_cancel_at_any_moment_leaves_the_machine_at_one_place() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=20M own=16M disk=200").memory_mib(64).disk(&lab.disk("disk.img", 20));
    let mut here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    let mut there = lab.vacancy(&spec);
    let mut uri = there.listen();
    let mut outcomes = Vec::new();
    // A migration of this machine takes a few tens of milliseconds.
    for step in 0..30_u32 {
        here.migrate(&uri);
        after(Duration::from_micros(2500) * step);
        // Refused when the machine has gone.
        let _ = here.client().execute("migrate_cancel", NONE);
        let outcome = over(&here);
        let states = (here.run_state(), there.run_state());
        match outcome {
            MigrationStatus::Cancelled => assert_eq!(states, (RunState::Running, RunState::Inmigrate)),
            MigrationStatus::Completed => {
                assert_eq!(states, (RunState::Postmigrate, RunState::Running));
                story.goes_on_at(&there);
                here = there;
                there = lab.vacancy(&spec);
                uri = there.listen();
            }
            other => panic!("it ended as {other}: {:?}", here.query_migrate().error_desc),
        }
        outcomes.push(outcome);
    }
    story.goes_on(3);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
    assert!(outcomes.contains(&MigrationStatus::Cancelled), "{outcomes:?}");
}

#[test]
fn a_destination_killed_at_any_moment_never_leaves_two_machines() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=20M own=16M").memory_mib(64);
    let mut source = lab.boot(&spec);
    let mut story = Story::of(&source);
    story.filled();
    for step in 0..12_u32 {
        let destination = lab.vacancy(&spec);
        source.migrate(&destination.listen());
        after(Duration::from_millis(6) * step);
        destination.kill();
        let info = until("it is clear what became of it", || {
            let info = source.query_migrate();
            let why = info.whimbrel.as_ref().and_then(|more| more.reason.clone()).unwrap_or_default();
            (info.status.is_some_and(MigrationStatus::is_final) || why.contains("not known")).then_some(info)
        });
        match info.status.unwrap() {
            // The machine runs on here.
            MigrationStatus::Failed => {
                assert_eq!(source.run_state(), RunState::Running);
                story.goes_on(1);
                continue;
            }
            // It was gone already.
            MigrationStatus::Completed => assert_eq!(source.run_state(), RunState::Postmigrate),
            // It was going: nobody can tell, and nothing runs.
            MigrationStatus::Device => assert_eq!(source.run_state(), RunState::FinishMigrate),
            other => panic!("{other}"),
        }
        source = lab.boot(&spec);
        story = Story::of(&source);
        story.filled();
    }
    story.assert_intact();
}

#[test]
fn stopping_and_going_on_all_the_time_does_not_disturb_a_migration() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=30M order=random").cpus(2);
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "max-bandwidth": 50_000_000, "whimbrel-digest": true, "downtime-limit": 1 }));
    source.migrate(&destination.listen());
    for step in 0..100_u64 {
        source.command("stop", NONE);
        source.command("cont", NONE);
        source.set(json!({ "max-bandwidth": 50_000_000 + step }));
    }
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 500 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn the_monitor_answers_many_clients_while_a_machine_moves() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=32M rate=max order=random touch=page");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    source.set(json!({ "max-bandwidth": 200_000_000, "downtime-limit": 1 }));
    source.migrate(&uri);
    let slowest = std::thread::scope(|scope| {
        let clients: Vec<_> = [&source, &source, &source, &destination]
            .map(|vmm| {
                let mut client = vmm.another_client();
                scope.spawn(move || {
                    let mut slowest = Duration::ZERO;
                    for _ in 0..200 {
                        let asked = Instant::now();
                        client.query_migrate().unwrap();
                        client.human("info migrate").unwrap();
                        slowest = slowest.max(asked.elapsed());
                    }
                    slowest
                })
            })
            .into_iter()
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).max().unwrap()
    });
    assert!(slowest < Duration::from_secs(3), "an answer took {slowest:?}");
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 2000 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}
