//! Attempts that do not go straight through: too slow, cancelled, made to wait, one after the other.

use monitor::types::{MigrationStatus, RunState, ShutdownCause};
use serde_json::json;

use crate::harness::{HugePages, Lab, PAUSE_BEFORE_SWITCHOVER, Spec, Story, capability, until};

/// Bytes per second that no machine of these tests converges at.
const TOO_SLOW: u64 = 3_000_000;

/// A machine that dirties its memory faster than [`TOO_SLOW`].
fn busy() -> Spec {
    Spec::new("work=16M rate=40M order=random own=32M")
}

#[test]
fn a_machine_that_does_not_converge_is_cancelled_and_moves_later() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    source.set(json!({ "max-bandwidth": TOO_SLOW * 10, "downtime-limit": 20 }));
    source.migrate(&uri);
    let info = source.round_is(4);
    assert!(info.ram.unwrap().remaining > 0);
    source.command("migrate_cancel", json!({}));
    let info = source.migration_is(MigrationStatus::Cancelled);
    assert_eq!((info.downtime, source.run_state()), (None, RunState::Running));
    assert_eq!(destination.run_state(), RunState::Inmigrate);
    story.goes_on(3);

    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 300, "whimbrel-digest": true }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_destination_in_huge_pages_takes_a_machine_after_attempts_that_came_to_nothing() {
    let Some(lab) = Lab::new() else { return };
    let Some(_pages) = HugePages::reserve(32) else { return };
    let spec = busy().memory_mib(64);
    let destination = lab.vacancy(&spec.clone().flag("--memory-backing", "hugetlb"));
    let (source, other) = (lab.boot(&spec), lab.boot(&busy().memory_mib(96)));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    other.migrate(&uri);
    let refused = other.migration_is(MigrationStatus::Failed);
    assert!(refused.error_desc.is_some_and(|reason| reason.contains("same memory size")));
    source.set(json!({ "max-bandwidth": TOO_SLOW, "multifd-channels": 1 }));
    source.migrate(&uri);
    source.migration_is(MigrationStatus::Active);
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);
    assert_eq!(destination.run_state(), RunState::Inmigrate);
    source.set(json!({ "max-bandwidth": 0, "whimbrel-digest": true }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn cancelling_and_migrating_again_at_once_loses_nothing() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    for round in [1, 2, 1, 3, 1, 2] {
        source.set(json!({ "max-bandwidth": TOO_SLOW * 20, "downtime-limit": 1 }));
        source.migrate(&uri);
        source.round_is(round);
        // Of this attempt nothing is known to be wrong, whatever became of the one before.
        let there = destination.query_migrate();
        assert_eq!((there.error_desc, there.whimbrel.unwrap().reason), (None, None));
        source.command("migrate_cancel", json!({}));
        source.migration_is(MigrationStatus::Cancelled);
    }
    until("the destination tells why it came to nothing", || destination.query_migrate().error_desc);
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 300, "whimbrel-digest": true }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_bandwidth_limit_that_is_lifted_lets_the_migration_finish() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "max-bandwidth": TOO_SLOW }));
    source.migrate(&destination.listen());
    let info = source.round_is(1);
    assert_eq!(source.query_migrate().status, Some(MigrationStatus::Active));
    source.set(json!({ "max-bandwidth": 0 }));
    let done = source.migration_is(MigrationStatus::Completed);
    assert!(done.ram.unwrap().transferred > info.ram.unwrap().transferred);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_downtime_limit_that_is_raised_lets_the_migration_finish() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let mut story = Story::of(&source);
    story.filled();
    // 16 MiB at 30 MB/s and the last pass at full speed: over a millisecond, under ten seconds.
    source.set(json!({ "max-bandwidth": TOO_SLOW * 10, "downtime-limit": 1 }));
    source.migrate(&destination.listen());
    source.round_is(3);
    for agreed_on in
        [json!({ "multifd-channels": 7 }), json!({ "downtime-limit": 9, "whimbrel-digest": "full" })]
    {
        let refused = source.refused("migrate-set-parameters", agreed_on);
        assert!(refused.contains("the migration under way began with it"), "{refused}");
    }
    assert_eq!(source.query_migrate().whimbrel.unwrap().downtime_limit_ms, Some(1), "all or nothing");
    source.set(json!({ "downtime-limit": 10_000 }));
    let done = source.migration_is(MigrationStatus::Completed);
    assert_eq!(done.whimbrel.unwrap().downtime_limit_ms, Some(10_000));
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_migration_waits_before_the_switchover_until_it_may_go_on() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let mut story = Story::of(&source);
    story.filled();
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    assert!(
        source
            .refused("migrate-continue", json!({ "state": "pre-switchover" }))
            .contains("not in expected state")
    );
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PreSwitchover);
    assert_eq!(source.run_state(), RunState::FinishMigrate);
    let wrong = source.refused("migrate-continue", json!({ "state": "device" }));
    assert!(wrong.contains("pre-switchover"), "{wrong}");
    source.command("migrate-continue", json!({ "state": "pre-switchover" }));
    let info = source.migration_is(MigrationStatus::Completed);
    assert!(info.whimbrel.unwrap().downtime_phases.unwrap().waiting_ms.is_some());
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_migration_that_waits_before_the_switchover_can_be_cancelled() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    source.migrate(&uri);
    source.migration_is(MigrationStatus::PreSwitchover);
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);
    assert_eq!(source.run_state(), RunState::Running);
    story.goes_on(3);
    source.command("migrate-set-capabilities", capability(PAUSE_BEFORE_SWITCHOVER, false));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_paused_machine_whose_migration_is_cancelled_stays_paused() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let story = Story::of(&source);
    story.filled();
    source.command("stop", json!({}));
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PreSwitchover);
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);
    assert_eq!(source.run_state(), RunState::Paused);
    source.command("cont", json!({}));
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_destination_that_cancels_waits_for_the_next_attempt() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    source.set(json!({ "max-bandwidth": TOO_SLOW }));
    source.migrate(&uri);
    source.round_is(1);
    destination.command("migrate_cancel", json!({}));
    let why = source.migration_fails();
    assert!(why.contains("Cancelled at the destination"), "{why}");
    assert_eq!(source.run_state(), RunState::Running);
    source.set(json!({ "max-bandwidth": 0 }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn one_migration_at_a_time() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    Story::of(&source).filled();
    let uri = destination.listen();
    source.set(json!({ "max-bandwidth": TOO_SLOW }));
    source.migrate(&uri);
    source.round_is(1);
    let refused = source.refused("migrate", json!({ "uri": uri }));
    assert!(refused.contains("There's a migration process in progress"), "{refused}");
    let refused = source.refused("migrate-set-capabilities", capability(PAUSE_BEFORE_SWITCHOVER, true));
    assert!(refused.contains("in progress"), "{refused}");
    let again = destination.refused("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    assert!(again.contains("already been started"), "{again}");
}

#[test]
fn a_second_source_is_told_to_come_later() {
    let Some(lab) = Lab::new() else { return };
    let (first, second) = (lab.boot(&busy()), lab.boot(&busy()));
    let destination = lab.vacancy(&busy());
    let (mut story, other) = (Story::of(&first), Story::of(&second));
    story.filled();
    let uri = destination.listen();
    first.set(json!({ "max-bandwidth": TOO_SLOW }));
    first.migrate(&uri);
    first.round_is(1);
    second.migrate(&uri);
    let why = second.migration_fails();
    assert!(why.contains("busy with another source"), "{why}");
    other.goes_on(2);
    first.set(json!({ "max-bandwidth": 0 }));
    first.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_destination_that_is_another_machine_says_every_reason() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&Spec::calm());
    let destination = lab.vacancy(&Spec::calm().cpus(2).memory_mib(128).flag("--keyboard", "on"));
    let story = Story::of(&source);
    source.migrate(&destination.listen());
    let why = source.migration_fails();
    for reason in ["vCPU", "memory", "keyboard0"] {
        assert!(why.to_lowercase().contains(&reason.to_lowercase()), "'{reason}' is not in: {why}");
    }
    story.goes_on(2);
    assert_eq!(destination.run_state(), RunState::Inmigrate);
}

#[test]
fn quitting_a_source_ends_it_and_leaves_the_destination_waiting() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&busy()), lab.vacancy(&busy()));
    Story::of(&source).filled();
    let uri = destination.listen();
    source.set(json!({ "max-bandwidth": TOO_SLOW }));
    source.migrate(&uri);
    source.round_is(1);
    let events = source.events();
    source.command("quit", json!({}));
    let event = events.wait_for("SHUTDOWN", crate::harness::PATIENCE).expect("SHUTDOWN");
    assert_eq!(event.data.unwrap()["reason"], json!(ShutdownCause::HostQmpQuit));
    assert!(source.end().success());
    until("the destination has given up", || destination.query_migrate().whimbrel?.reason);

    let next = lab.boot(&busy());
    let mut story = Story::of(&next);
    story.filled();
    next.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}
