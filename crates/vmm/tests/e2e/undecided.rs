//! Migrations of which the source cannot find out who has the machine, until an operator says so.

use ::faults::{Address, Processes, Proxy};
use monitor::types::{MigrationStatus, RunState};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Lab, Spec, Story, Vmm, holds, until};

fn spec() -> Spec {
    Spec::new("work=4M rate=10M own=16M").memory_mib(48)
}

/// Migrates through a proxy that does this harm, and waits until the source does not know who has the machine.
fn lose(source: &Vmm, destination: &Vmm, fault: &str) -> Proxy {
    let there = destination.listen().parse().unwrap();
    let here = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
    let processes = Processes::new(Some(source.pid()), Some(destination.pid())).unwrap();
    let proxy = Proxy::start(&here, there, &[fault.parse().unwrap()], processes).unwrap();
    source.migrate(&proxy.address().to_string());
    let advice = until("the source does not know", || source.query_migrate().whimbrel?.advice);
    assert!(advice.contains("Do not start the machine anywhere") && advice.contains("take_back"), "{advice}");
    assert_eq!(source.query_migrate().status, Some(MigrationStatus::Device));
    assert_eq!(source.run_state(), RunState::FinishMigrate);
    proxy
}

fn says(source: &Vmm, line: &str) -> String {
    source.client().human(line).unwrap()
}

#[test]
fn a_machine_whose_destination_died_before_it_ran_is_taken_back_by_an_operator() {
    let Some(lab) = Lab::new() else { return };
    let spec = spec().disk(&lab.disk("disk.img", 4));
    let source = lab.boot(&spec);
    let mut story = Story::of(&source);
    story.filled();
    let destination = lab.vacancy(&spec);
    let _proxy = lose(&source, &destination, "kill=destination@control:before:go");
    let risk = says(&source, "take_back");
    assert!(risk.contains("two machines have lived on"), "{risk}");
    assert_eq!(source.run_state(), RunState::FinishMigrate, "it only told what it risks");

    let refused = source.refused("migrate_cancel", json!(null));
    assert!(refused.contains("too late to cancel"), "{refused}");
    // It may be the only copy.
    let refused = source.refused("quit", json!({}));
    assert!(refused.contains("may have its only copy") && refused.contains("take_back"), "{refused}");
    source.signal(Signal::TERM);
    holds("the signal is heard", || source.log().contains("A second signal ends it all the same"));
    assert!(source.is_alive());

    assert_eq!(says(&source, "take_back -f"), "");
    holds("the machine runs on", || source.run_state() == RunState::Running);
    let info = source.migration_is(MigrationStatus::Failed);
    assert_eq!(info.status, Some(MigrationStatus::Failed));
    assert!(info.error_desc.unwrap().contains("An operator took the machine back"));
    let refused = says(&source, "take_back -f");
    assert!(refused.contains("nothing to decide"), "{refused}");
    story.goes_on(3);

    let destination = lab.vacancy(&spec);
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_machine_that_ran_at_a_destination_that_died_is_let_go_by_an_operator() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&spec());
    Story::of(&source).filled();
    let destination = lab.vacancy(&spec());
    let _proxy = lose(&source, &destination, "outage=60s@control:before:running");
    assert_eq!(destination.run_state(), RunState::Running);
    destination.kill();
    let risk = says(&source, "let_go");
    assert!(risk.contains("thrown away"), "{risk}");
    assert_eq!(says(&source, "let_go -f"), "");
    holds("it is gone", || source.run_state() == RunState::Postmigrate);
    holds("it is over", || source.query_migrate().status == Some(MigrationStatus::Completed));
    let refused = says(&source, "cont");
    assert!(!refused.is_empty(), "what was let go must not run here");
}

#[test]
fn an_operator_who_is_wrong_is_stopped_by_the_disk() {
    let Some(lab) = Lab::new() else { return };
    let spec = spec().disk(&lab.disk("disk.img", 4));
    let source = lab.boot(&spec);
    let mut story = Story::of(&source);
    story.filled();
    let destination = lab.vacancy(&spec);
    let _proxy = lose(&source, &destination, "outage=60s@control:before:running");
    assert_eq!(destination.run_state(), RunState::Running);
    assert_eq!(says(&source, "take_back -f"), "");
    let reason = until("the source says why it does not run", || {
        source.query_migrate().whimbrel?.reason.filter(|reason| reason.contains("in use"))
    });
    assert!(reason.contains("cannot run here yet"), "{reason}");
    story.goes_on_at(&destination);
    story.goes_on(5);
    assert_eq!((source.run_state(), destination.run_state()), (RunState::FinishMigrate, RunState::Running));
    story.assert_intact();
}
