//! Commands that start and stop the machine, before, during and after it moves.

use monitor::types::{MigrationStatus, RunState};
use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE, PAUSE_BEFORE_SWITCHOVER, Spec, Story, holds};

const NONE: Value = Value::Null;

#[test]
fn a_machine_stops_and_goes_on_as_it_is_told() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let (story, events) = (Story::of(&vmm), vmm.events());
    story.filled();
    vmm.command("stop", NONE);
    assert_eq!(vmm.run_state(), RunState::Paused);
    let printed = story.lines();
    vmm.command("stop", NONE);
    assert!(events.wait_for("STOP", PATIENCE).is_some());
    assert_eq!(story.lines(), printed);
    vmm.command("cont", NONE);
    vmm.command("cont", NONE);
    assert!(events.wait_for("RESUME", PATIENCE).is_some());
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_machine_stopped_while_it_migrates_arrives_paused() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "max-bandwidth": 3_000_000 }));
    source.migrate(&destination.listen());
    source.round_is(1);
    source.command("stop", NONE);
    source.set(json!({ "max-bandwidth": 0 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    assert_eq!(destination.run_state(), RunState::Paused);
    destination.command("cont", NONE);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_paused_machine_moves_whatever_the_downtime_limit_and_a_running_one_is_told_what_to_raise() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "downtime-limit": 0 }));
    source.migrate(&destination.listen());
    source.round_is(3);
    let info = source.query_migrate();
    let own = info.whimbrel.unwrap();
    assert_eq!((info.status, own.eta_ms), (Some(MigrationStatus::Active), None));
    assert!(own.advice.unwrap().contains("downtime-limit="));
    source.command("stop", NONE);
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    assert_eq!(destination.run_state(), RunState::Paused);
}

#[test]
fn a_machine_that_is_stopped_for_the_switchover_takes_no_orders() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PreSwitchover);
    for command in ["cont", "stop", "system_reset"] {
        let refused = source.refused(command, NONE);
        assert!(refused.contains("stopped for the end of a migration"), "{command}: {refused}");
    }
    assert_eq!(source.run_state(), RunState::FinishMigrate);
    source.command("migrate-continue", json!({ "state": "pre-switchover" }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_source_whose_machine_has_moved_away_answers_and_refuses() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);

    let orders = [
        ("cont", NONE),
        ("system_reset", NONE),
        ("system_powerdown", NONE),
        ("query-balloon", NONE),
        ("balloon", json!({ "value": 64 << 20 })),
        ("announce-self", json!({ "initial": 50, "max": 550, "rounds": 1, "step": 50 })),
        ("send-key", json!({ "keys": [{ "type": "qcode", "data": "a" }] })),
        ("migrate", json!({ "uri": uri })),
    ];
    for (command, arguments) in orders {
        let refused = source.refused(command, arguments);
        assert!(refused.contains("has moved away"), "{command}: {refused}");
    }
    let refused = source.refused("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    assert!(refused.contains("does not wait for a migration"), "{refused}");
    source.command("stop", NONE);
    source.command("migrate_cancel", NONE);
    let queries = [
        "query-status",
        "query-migrate",
        "query-migrate-parameters",
        "query-migrate-capabilities",
        "query-name",
        "query-uuid",
        "query-version",
        "query-commands",
        "query-cpus-fast",
    ];
    for query in queries {
        source.another_client().execute(query, NONE).unwrap();
    }
    assert_eq!(source.run_state(), RunState::Postmigrate);
    story.goes_on(2);
    story.assert_intact();
    source.command("quit", NONE);
    assert!(source.end().success());
    story.goes_on(2);
}

#[test]
fn a_place_without_a_machine_says_so() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.vacancy(&Spec::calm());
    assert_eq!(vmm.run_state(), RunState::Inmigrate);
    for (command, arguments) in [
        ("system_reset", NONE),
        ("system_powerdown", NONE),
        ("query-balloon", NONE),
        ("migrate", json!({ "uri": "tcp:127.0.0.1:1" })),
    ] {
        let refused = vmm.refused(command, arguments);
        assert!(refused.contains("waits for a migration"), "{command}: {refused}");
    }
    let refused = vmm.refused("migrate-incoming", json!({ "uri": "tcp:192.0.2.1:4444" }));
    assert!(refused.contains("--insecure"), "{refused}");
    vmm.listen();
    vmm.command("quit", NONE);
    assert!(vmm.end().success());
}

#[test]
fn the_destination_decides_whether_the_machine_runs_on_arrival() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let source = lab.boot(&spec);
    let mut story = Story::of(&source);
    story.filled();
    let held = lab.vacancy(&spec.clone().with(&["-S"]));
    source.migrate(&held.listen());
    source.migration_is(MigrationStatus::Completed);
    assert_eq!(held.run_state(), RunState::Paused);
    story.goes_on_at(&held);
    // It is paused here, and is to run there.
    let eager = lab.vacancy(&spec);
    let uri = eager.listen();
    eager.command("cont", NONE);
    held.migrate(&uri);
    held.migration_is(MigrationStatus::Completed);
    assert_eq!(eager.run_state(), RunState::Running);
    story.goes_on_at(&eager);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_machine_that_is_reset_while_it_migrates_arrives_anew() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=20M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let events = source.events();
    source.set(json!({ "max-bandwidth": 60_000_000, "whimbrel-digest": true, "downtime-limit": 1 }));
    source.migrate(&destination.listen());
    source.round_is(1);
    source.command("system_reset", NONE);
    let event = events.wait_for("RESET", PATIENCE).expect("RESET");
    assert_eq!(event.data.unwrap(), json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 1000 }));
    source.migration_is(MigrationStatus::Completed);

    // The guest that arrives is the one that was started anew.
    story.goes_on_at(&destination);
    holds("it has booted again", || {
        story.lines().iter().filter(|line| line.contains("whimbrel boot")).count() == 2
    });
    story.goes_on(3);
    story.assert_intact_after(2);
}
