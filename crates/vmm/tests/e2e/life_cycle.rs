//! A machine that ends while it moves.

use monitor::types::{MigrationStatus, RunState};
use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE, Spec, Story, Vmm, until};

#[test]
fn a_destination_is_told_that_the_guest_has_switched_the_machine_off() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=50M poweroff=0x604:0x34").typed();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    source.set(json!({ "max-bandwidth": 2_000_000 }));
    source.migrate(&destination.listen());
    until("pages come", || destination.query_migrate().whimbrel?.arrived.filter(|arrived| arrived.pages > 0));
    source.types("poweroff\n");
    assert!(source.end().success());
    let reason = until("the destination knows", || destination.query_migrate().error_desc);
    assert!(reason.contains("its guest has switched it off"), "{reason}");
    assert_eq!(destination.run_state(), RunState::Inmigrate);
}

#[test]
fn a_destination_is_told_that_the_source_was_told_to_end() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=50M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    source.set(json!({ "max-bandwidth": 2_000_000 }));
    source.migrate(&destination.listen());
    until("pages come", || destination.query_migrate().whimbrel?.arrived.filter(|arrived| arrived.pages > 0));
    source.command("quit", Value::Null);
    assert!(source.end().success());
    let reason = until("the destination knows", || destination.query_migrate().error_desc);
    assert!(reason.contains("its process was told to end"), "{reason}");
}

#[test]
fn a_guest_that_reboots_while_it_moves_arrives_anew() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=20M").typed();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let events = source.events();
    source.set(json!({ "max-bandwidth": 20_000_000, "whimbrel-digest": true, "downtime-limit": 1 }));
    source.migrate(&destination.listen());
    for boots in 2..4 {
        source.types("reset\n");
        let event = events.wait_for("RESET", PATIENCE).expect("RESET");
        assert_eq!(event.data.unwrap(), json!({ "guest": true, "reason": "guest-reset" }));
        until("it boots again", || (boots_of(&story) == boots).then_some(()));
        assert_eq!(source.query_migrate().status, Some(MigrationStatus::Active));
    }
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 1000 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact_after(3);
}

fn boots_of(story: &Story) -> usize {
    story.lines().iter().filter(|line| line.contains("whimbrel boot")).count()
}

/// A machine that runs at the destination while its memory follows slowly.
fn followed_by_its_memory(lab: &Lab) -> (Vmm, Vmm, Story) {
    let spec = Spec::new("work=4M rate=2M verify=10 poweroff=0x604:0x34").typed();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.enable("postcopy-ram");
    source.set(json!({ "whimbrel-postcopy": "immediate", "max-postcopy-bandwidth": 1_000_000 }));
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PostcopyActive);
    story.goes_on_at(&destination);
    story.goes_on(1);
    (source, destination, story)
}

#[test]
fn a_guest_that_powers_off_before_its_memory_is_there_ends_both_sides() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, _story) = followed_by_its_memory(&lab);
    destination.types("poweroff\n");
    assert!(destination.end().success());
    let info = until("the source knows", || {
        Some(source.query_migrate()).filter(|info| info.status.is_some_and(MigrationStatus::is_final))
    });
    assert_eq!(source.run_state(), RunState::Postmigrate, "{info:?}");
    source.command("quit", Value::Null);
    assert!(source.end().success());
}

#[test]
fn a_guest_that_reboots_before_its_memory_is_there_boots_without_it() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, story) = followed_by_its_memory(&lab);
    destination.types("reset\n");
    until("it boots again", || (boots_of(&story) == 2).then_some(()));
    source.set(json!({ "max-postcopy-bandwidth": 0 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on(3);
    story.assert_intact_after(2);
    assert_eq!(destination.run_state(), RunState::Running);
}
