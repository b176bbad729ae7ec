//! What becomes of migrations whose agents are lost, and of their records.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use objects::{FailureReason, MigrationPhase};
use serde_json::json;
use support::Site;

/// A machine on node a that is on its way to node b.
fn on_its_way() -> Site {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.settle(0);
    site.run_instances(1);
    site.migrate("m1", "db", &json!({}));
    site.settle(2);
    site.agents_begin("m1");
    site
}

fn node_of(site: &Site) -> Option<String> {
    site.instance("db").status.clone().unwrap().node_name
}

#[test]
fn a_machine_that_arrived_is_known_to_be_there_though_its_source_is_gone() {
    let mut site = on_its_way();
    site.source_is_gone("m1", 10);
    site.settle(11);
    assert_eq!(site.phase("m1"), MigrationPhase::Running, "the target has not been heard yet");
    site.target_has("m1", 12);
    site.settle(12);
    assert_eq!((site.phase("m1"), node_of(&site).as_deref()), (MigrationPhase::Succeeded, Some("b")));
}

#[test]
fn a_source_that_is_gone_fails_a_migration_of_which_the_target_has_nothing() {
    let mut site = on_its_way();
    site.source_is_gone("m1", 10);
    site.settle(21);
    assert_eq!((site.phase("m1"), node_of(&site).as_deref()), (MigrationPhase::Failed, Some("a")));
    let mut site = on_its_way();
    site.source_is_gone("m1", 10);
    site.silence("b");
    site.settle(1000);
    assert_eq!(site.phase("m1"), MigrationPhase::Running, "nobody knows, and nobody says so");
}

#[test]
fn a_machine_that_arrived_from_a_node_that_is_cut_off_is_where_it_is() {
    let mut site = on_its_way();
    site.target_has("m1", 50);
    site.settle(100);
    assert_eq!(site.phase("m1"), MigrationPhase::Running, "the source's agent has more to say");
    site.silence("a");
    site.settle(101);
    assert_eq!((site.phase("m1"), node_of(&site).as_deref()), (MigrationPhase::Succeeded, Some("b")));
}

#[test]
fn to_delete_a_migration_is_to_cancel_it() {
    let mut site = on_its_way();
    site.delete_migration("m1");
    site.settle(3);
    assert_eq!(site.phase("m1"), MigrationPhase::Running, "the engine is at work");
    site.agents_say("m1", true);
    site.settle(4);
    assert!(site.world.migrations.is_empty(), "it is over, and let go");
    site.migrate("m2", "db", &json!({ "zone": "none" }));
    site.settle(5);
    site.delete_migration("m2");
    site.settle(6);
    assert!(site.world.migrations.is_empty());
}

#[test]
fn records_are_kept_for_a_time_and_a_number_of_each_machine() {
    let mut site = on_its_way();
    site.agents_say("m1", true);
    site.settle(4);
    for index in 0..25 {
        let name = format!("n{index}");
        site.migrate(&name, "db", &json!({}));
        site.settle(10 + index);
        site.cancel(&name);
        site.settle(10 + index);
    }
    assert_eq!(site.world.migrations.len(), 20);
    assert_eq!(site.state("n24").failure.unwrap().reason, FailureReason::Cancelled, "the latest are kept");
    site.settle(8 * 24 * 3600);
    assert!(site.world.migrations.is_empty());
    assert!(site.instance("db").metadata.deletion_timestamp.is_none());
}

#[test]
fn a_later_run_has_not_gone_where_an_earlier_one_went() {
    let mut site = on_its_way();
    site.agents_say("m1", false);
    for instance in site.world.instances.iter_mut().map(std::sync::Arc::make_mut) {
        instance.status.as_mut().unwrap().vmm = Some("db-of-another-run".to_owned());
    }
    site.settle(4);
    assert_eq!((site.phase("m1"), node_of(&site).as_deref()), (MigrationPhase::Succeeded, Some("a")));
}

fn with_policy(spec: &serde_json::Value) -> Site {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.policy("p", spec);
    site.settle(0);
    site.run_instances(1);
    site.migrate("m1", "db", &json!({}));
    site.settle(2);
    site.agents_begin("m1");
    site
}

#[test]
fn when_the_time_is_up_the_guest_is_disturbed_if_it_may_be_and_else_the_migration_given_up() {
    let mut site = with_policy(&json!({ "selectors": {}, "deadlineSeconds": 60 }));
    site.settle(62);
    assert!(!site.state("m1").abort_requested);
    site.settle(63);
    assert!(site.state("m1").abort_requested);
    assert!(site.state("m1").failure.unwrap().message.contains("60 s, which is what deadlineSeconds allows"));

    let spec = json!({ "selectors": {}, "completionTimeoutPerGiB": 60, "allowWorkloadDisruption": true });
    let mut site = with_policy(&spec);
    site.settle(63);
    let state = site.state("m1");
    assert!(state.workload_disruption_requested && !state.abort_requested);
    site.settle(1000);
    assert!(!site.state("m1").abort_requested, "nothing is dirtied any more: it comes to its end");

    let mut site = with_policy(&json!({ "selectors": {}, "completionTimeoutPerGiB": 0 }));
    site.settle(1_000_000);
    assert!(!site.state("m1").abort_requested, "it was given all the time that there is");
}

#[test]
fn a_namespace_that_is_deleted_goes_when_everything_in_it_is_gone() {
    let mut site = on_its_way();
    let namespace = json!({
        "metadata": {
            "name": "default", "finalizers": ["whimbrel.dev/namespace"], "deletionTimestamp": "2027-01-01T00:00:00Z",
        },
    });
    site.world.namespaces.push(std::sync::Arc::new(serde_json::from_value(namespace).unwrap()));
    site.settle(3);
    assert!(site.world.machines.is_empty());
    assert!(site.instance("db").metadata.deletion_timestamp.is_some());
    assert_eq!((site.phase("m1"), site.world.namespaces.len()), (MigrationPhase::Running, 1));
    site.agents_say("m1", true);
    site.settle(4);
    assert_eq!((site.world.migrations.len(), site.world.namespaces.len()), (0, 1), "a VMM is still there");
    site.let_go();
    site.settle(5);
    assert!(site.world.instances.is_empty() && site.world.namespaces.is_empty());
}
