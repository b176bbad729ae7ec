//! A machine that ends while it moves.

use monitor::types::RunState;
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, Story, until};

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
