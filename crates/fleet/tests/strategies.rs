//! What machines ask for beside memory: which nodes, which turn, and what a drain does with them.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::sync::Arc;

use objects::{
    BlockedReason, DrainPhase, EvictionStrategy, MigrationPhase, MigrationPriority, NodeDrainPlanSpec,
    NodeDrainStatus, VirtualMachineInstance, VirtualMachineInstanceSpec,
};
use serde_json::json;
use support::Site;

/// The instance of that name, to be changed.
fn change(site: &mut Site, name: &str, change: impl FnOnce(&mut VirtualMachineInstanceSpec)) {
    let mut all = site.world.instances.iter_mut().map(Arc::make_mut);
    let is_it = |one: &&mut VirtualMachineInstance| one.metadata.name.as_deref() == Some(name);
    change(&mut all.find(is_it).unwrap().spec);
}

/// Machines m0, m1 and so on run on node `a`, and nodes `b` and `c` are empty.
fn site(machines: usize) -> Site {
    let mut site = Site::default();
    site.node("a", 8);
    for index in 0..machines {
        site.machine(&format!("m{index}"), "Always", 1);
    }
    site.settle(0);
    site.run_instances(1);
    site.settle(2);
    site.node("b", 8).node("c", 4);
    site
}

fn node_of(site: &Site, name: &str) -> Option<String> {
    site.instance(name).status.as_ref().and_then(|status| status.node_name.clone())
}

fn status(site: &Site) -> NodeDrainStatus {
    site.drain("d").status.clone().unwrap_or_default()
}

#[test]
fn a_machine_goes_where_its_affinity_lets_it_and_rather_where_it_likes() {
    let mut site = site(1);
    let label = |site: &mut Site, node: &str, name: &str, value: &str| {
        let mut nodes = site.world.nodes.iter_mut().map(Arc::make_mut);
        let found = nodes.find(|one| one.metadata.name.as_deref() == Some(node)).unwrap();
        found.metadata.labels.get_or_insert_default().insert(name.to_owned(), value.to_owned());
    };
    label(&mut site, "b", "rack", "1");
    label(&mut site, "c", "rack", "2");
    let choose = |site: &Site| {
        fleet::plan::plan(&site.world, site.instance("m0"), &objects::MigrationPlanSpec::default()).target
    };
    assert_eq!(choose(&site).as_deref(), Some("b"), "it has most room");
    let prefer = json!({ "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": 5, "preference": { "matchExpressions": [{ "key": "rack", "operator": "Gt", "values": ["1"] }] } },
    ] } });
    change(&mut site, "m0", |spec| spec.affinity = Some(serde_json::from_value(prefer).unwrap()));
    assert_eq!(choose(&site).as_deref(), Some("c"));
    let require = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "rack", "operator": "In", "values": ["3"] }] }],
    } } });
    change(&mut site, "m0", |spec| spec.affinity = Some(serde_json::from_value(require).unwrap()));
    assert_eq!(choose(&site), None);
    site.migrate("m", "m0", &json!({}));
    site.settle(3);
    assert_eq!(site.phase("m"), MigrationPhase::Pending);
    label(&mut site, "c", "rack", "3");
    site.settle(4);
    assert_eq!(site.state("m").target_node.as_deref(), Some("c"));
}

#[test]
fn who_is_more_important_has_its_turn_first() {
    let mut site = site(3);
    site.limits(&json!({ "parallelOutboundMigrationsPerNode": 1 }));
    for (name, machine, priority) in [
        ("first", "m0", Some(MigrationPriority::SystemMaintenance)),
        ("second", "m1", None),
        ("third", "m2", Some(MigrationPriority::SystemCritical)),
    ] {
        site.migrate(name, machine, &json!({}));
        let last = site.world.migrations.last_mut().map(Arc::make_mut).unwrap();
        last.spec.priority = priority;
    }
    let mut order = Vec::new();
    for seconds in 10..16 {
        site.settle(seconds);
        let names = ["first", "second", "third"];
        order.extend(names.into_iter().filter(|name| site.phase(name).is_under_way()));
        site.agents_finish(seconds);
    }
    assert_eq!(order, ["third", "second", "first"]);
}

#[test]
fn a_drain_ends_what_shall_not_move_and_leaves_alone_what_is_somebody_elses() {
    let mut site = site(3);
    change(&mut site, "m0", |spec| spec.eviction_strategy = Some(EvictionStrategy::None));
    change(&mut site, "m1", |spec| spec.eviction_strategy = Some(EvictionStrategy::External));
    let asked = NodeDrainPlanSpec { nodes: vec!["a".to_owned()], ..NodeDrainPlanSpec::default() };
    let plan = fleet::drain::plan(&site.world, &asked);
    let steps: Vec<_> = plan.steps.iter().map(|step| (step.name.as_str(), step.ended)).collect();
    assert_eq!((steps, plan.blocked), (vec![("m0", true), ("m2", false)], 1));
    let before = site.instance("m0").metadata.uid.clone();
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.move_all(10);
    site.let_go();
    site.move_all(20);
    let seen = status(&site);
    assert_eq!((seen.phase(), seen.moved, seen.blocked), (DrainPhase::Draining, 1, 1));
    assert_eq!((seen.machines, seen.left), (3, 1), "one was moved, one ended");
    assert_eq!(seen.blocked_machines[0].reason, BlockedReason::External);
    assert_ne!(site.instance("m0").metadata.uid, before, "another run");
    assert_ne!(node_of(&site, "m0").as_deref(), Some("a"));
    assert_eq!(node_of(&site, "m1").as_deref(), Some("a"));
}

#[test]
fn who_waits_long_has_its_turn_before_who_came_much_later() {
    let mut site = site(2);
    site.limits(&json!({ "parallelOutboundMigrationsPerNode": 1 }));
    for (name, machine, priority, created) in [
        ("patient", "m0", MigrationPriority::SystemMaintenance, 10),
        ("late", "m1", MigrationPriority::UserTriggered, 10 + 601),
    ] {
        site.migrate(name, machine, &json!({}));
        let last = site.world.migrations.last_mut().map(Arc::make_mut).unwrap();
        last.spec.priority = Some(priority);
        last.metadata.creation_timestamp = Some(support::at(created));
    }
    site.settle(620);
    assert!(site.phase("patient").is_under_way() && !site.phase("late").is_under_way());
}

#[test]
fn runs_are_ended_only_where_there_is_room_and_not_all_at_once() {
    let mut site = site(4);
    site.limits(&json!({ "parallelOutboundMigrationsPerNode": 2 }));
    for name in ["m0", "m1", "m2", "m3"] {
        change(&mut site, name, |spec| spec.eviction_strategy = Some(EvictionStrategy::None));
    }
    for node in ["b", "c"] {
        site.cordon(node);
    }
    let uids = |site: &Site| ["m0", "m1", "m2", "m3"].map(|name| site.instance(name).metadata.uid.clone());
    let is_ending = |site: &Site| {
        let all = site.world.instances.iter();
        all.filter(|one| one.metadata.deletion_timestamp.is_some()).count()
    };
    let before = uids(&site);
    let asked = NodeDrainPlanSpec {
        nodes: vec!["a".to_owned()],
        min_available: Some(0),
        ..NodeDrainPlanSpec::default()
    };
    let plan = fleet::drain::plan(&site.world, &asked);
    assert_eq!((plan.steps.len(), plan.blocked), (0, 4), "there is no room");
    site.empty("d", &json!({ "nodes": ["a"], "minAvailable": 0 }));
    site.settle(10);
    assert_eq!((is_ending(&site), uids(&site)), (0, before.clone()));
    assert_eq!(status(&site).blocked_machines[0].reason, BlockedReason::NoNodeFits);
    site.uncordon("b");
    site.settle(20);
    assert_eq!(is_ending(&site), 2, "as many as may leave a node");
    for seconds in [30, 40, 50] {
        site.let_go();
        site.move_all(seconds);
    }
    assert_eq!(status(&site).phase(), DrainPhase::Succeeded);
    assert!(uids(&site).iter().zip(&before).all(|(after, before)| after != before));
}

#[test]
fn of_many_runs_no_more_are_ended_than_the_next_ones_have_room_for() {
    let mut site = Site::default();
    site.node("a", 8);
    for index in 0..4 {
        site.machine(&format!("m{index}"), "Always", 1);
    }
    site.settle(0);
    site.run_instances(1);
    site.settle(2);
    site.node("b", 1);
    site.limits(&json!({ "parallelOutboundMigrationsPerNode": 2 }));
    let all = ["m0", "m1", "m2", "m3"];
    let uids = |site: &Site| all.map(|name| site.instance(name).metadata.uid.clone());
    for name in all {
        change(&mut site, name, |spec| spec.eviction_strategy = Some(EvictionStrategy::None));
    }
    let before = uids(&site);
    site.empty("d", &json!({ "nodes": ["a"], "minAvailable": 0 }));
    // While the run ends, when the next one is to be made, when that waits for its node, and when it runs.
    site.settle(10);
    site.settle(11);
    for seconds in [20, 30, 40] {
        site.let_go();
        site.settle(seconds);
        site.move_all(seconds + 1);
    }
    let other = uids(&site).iter().zip(&before).filter(|(after, before)| after != before).count();
    assert_eq!(other, 1, "there was room for one");
    let seen = status(&site);
    assert_eq!((seen.phase(), seen.left, seen.blocked), (DrainPhase::Draining, 3, 3));
}

#[test]
fn a_run_may_be_ended_where_a_migration_could_not_go() {
    let mut site = site(1);
    change(&mut site, "m0", |spec| spec.eviction_strategy = Some(EvictionStrategy::None));
    for (node, maker) in [("a", "Intel"), ("b", "AMD"), ("c", "AMD")] {
        let mut nodes = site.world.nodes.iter_mut().map(Arc::make_mut);
        let found = nodes.find(|one| one.metadata.name.as_deref() == Some(node)).unwrap();
        let label = format!("{}{maker}", objects::CPU_VENDOR_LABEL);
        found.metadata.labels.get_or_insert_default().insert(label, "true".to_owned());
    }
    site.empty("d", &json!({ "nodes": ["a"] }));
    for seconds in [10, 20] {
        site.settle(seconds);
        site.let_go();
        site.move_all(seconds + 1);
    }
    assert_eq!(status(&site).phase(), DrainPhase::Succeeded, "{:?}", status(&site).blocked_machines);
    assert_ne!(node_of(&site, "m0").as_deref(), Some("a"));
}

#[test]
fn a_machine_that_moves_if_possible_is_ended_where_it_is_not() {
    let mut site = site(2);
    for name in ["m0", "m1"] {
        change(&mut site, name, |spec| {
            spec.eviction_strategy = Some(EvictionStrategy::LiveMigrateIfPossible);
        });
    }
    let mut all = site.world.instances.iter_mut().map(Arc::make_mut);
    let stuck = all.find(|one| one.metadata.name.as_deref() == Some("m1")).unwrap();
    let blocker = json!({ "type": "LiveMigratable", "status": "False", "message": "a disk" });
    stuck.status.as_mut().unwrap().conditions.push(serde_json::from_value(blocker).unwrap());
    drop(all);
    let before = ["m0", "m1"].map(|name| site.instance(name).metadata.uid.clone());
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.move_all(10);
    site.let_go();
    site.move_all(20);
    assert_eq!((status(&site).phase(), status(&site).moved), (DrainPhase::Succeeded, 1));
    let after = ["m0", "m1"].map(|name| site.instance(name).metadata.uid.clone());
    assert_eq!(after[0], before[0], "it has moved");
    assert_ne!(after[1], before[1], "it was ended");
}
