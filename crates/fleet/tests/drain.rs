//! Nodes are emptied: what a drain does at each step, and what it does not.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use objects::{
    BlockedReason, DRAIN_LABEL, DrainPhase, MigrationPhase, NodeDrainPhase, NodeDrainPlanSpec,
    NodeDrainStatus, condition,
};
use serde_json::json;
use support::Site;

/// Three nodes of 16 GiB, and machines of a GiB on the first.
fn site(machines: usize) -> Site {
    let mut site = Site::default();
    site.node("a", 16);
    for index in 0..machines {
        site.machine(&format!("m{index}"), "Always", 1);
    }
    site.settle(0);
    site.run_instances(1);
    site.node("b", 16).node("c", 16);
    site.settle(1);
    site
}

fn status(site: &Site, name: &str) -> NodeDrainStatus {
    site.drain(name).status.clone().unwrap_or_default()
}

/// The node of each machine, in the order of their names.
fn places(site: &Site) -> Vec<String> {
    let instances = site.world.instances.iter();
    instances.map(|instance| instance.status.clone().unwrap().node_name.unwrap()).collect()
}

#[test]
fn a_node_is_cordoned_and_emptied_within_the_limits() {
    let mut site = site(5);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    assert!(site.is_cordoned("a"));
    let seen = status(&site, "d");
    assert_eq!((seen.phase(), seen.left, seen.moving, seen.blocked), (DrainPhase::Draining, 5, 2, 0));
    assert_eq!(site.world.migrations.len(), 2, "as many as may leave a node, and no more");
    assert!(
        site.world.migrations.iter().all(|one| one.metadata.labels.as_ref().unwrap()[DRAIN_LABEL] == "d")
    );
    assert!(seen.eta_seconds.is_some_and(|seconds| seconds > 10), "{seen:#?}");
    let rounds = site.move_all(11);
    assert!(rounds >= 3, "{rounds}");
    let seen = status(&site, "d");
    assert_eq!((seen.phase(), seen.moved, seen.left), (DrainPhase::Succeeded, 5, 0));
    assert_eq!(seen.nodes[0].phase, NodeDrainPhase::Drained);
    assert!(places(&site).iter().all(|node| node != "a"));
    assert!(site.is_cordoned("a"), "it stays so until its administrator uncordons it");
    let said = condition(&seen.conditions, "Complete").unwrap().message.clone().unwrap();
    assert_eq!(said, "All nodes were emptied; 5 machines moved.");
}

#[test]
fn a_machine_is_not_moved_to_a_node_that_comes_next() {
    let mut site = site(4);
    site.empty("d", &json!({ "nodes": ["a", "b"], "minAvailable": 2 }));
    site.settle(10);
    let nodes = status(&site, "d").nodes;
    assert_eq!((nodes[0].phase, nodes[1].phase), (NodeDrainPhase::Draining, NodeDrainPhase::Waiting));
    assert!(
        nodes[1].message.as_ref().unwrap().contains("2 nodes are ready and schedulable, and 2 must stay so")
    );
    site.move_all(11);
    assert_eq!(places(&site), ["c", "c", "c", "c"]);
    let seen = status(&site, "d");
    assert_eq!((seen.phase(), seen.nodes[0].phase), (DrainPhase::Draining, NodeDrainPhase::Drained));
    assert!(!site.is_cordoned("b"), "two nodes have to stay");
    site.uncordon("a");
    site.move_all(20);
    assert_eq!((status(&site, "d").phase(), site.is_cordoned("b")), (DrainPhase::Succeeded, true));
}

#[test]
fn the_next_node_takes_machines_where_no_other_does_and_gives_them_on() {
    let mut site = site(4);
    site.cordon("c");
    site.empty("d", &json!({ "nodes": ["a", "b"] }));
    site.settle(10);
    let plan = fleet::drain::plan(&site.world, &asked(&["a", "b"], 1));
    assert!(plan.steps.iter().take(4).all(|step| step.moves_again && step.target_node == "b"), "{plan:#?}");
    site.move_all(11);
    assert_eq!(places(&site), ["b", "b", "b", "b"]);
    site.uncordon("a");
    site.move_all(20);
    assert_eq!((status(&site, "d").moved, places(&site)), (8, vec!["a".to_owned(); 4]));
}

#[test]
fn a_stopped_drain_begins_nothing_and_a_resumed_one_goes_on() {
    let mut site = site(5);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.change_drain("d", |spec| spec.paused = true);
    site.settle(11);
    site.move_all(12);
    let seen = status(&site, "d");
    assert_eq!((seen.phase(), seen.moved, seen.left, seen.moving), (DrainPhase::Paused, 2, 3, 0));
    assert!(site.is_cordoned("a"));
    site.change_drain("d", |spec| spec.paused = false);
    site.move_all(20);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded);
}

#[test]
fn a_migration_that_waits_stays_where_it_is_while_its_drain_is_paused() {
    let mut site = site(3);
    site.limits(&json!({ "parallelMigrationsPerCluster": 0 }));
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    assert_eq!(status(&site, "d").moving, 0, "with a limit of 0 nothing is asked for");
    site.limits(&json!({ "parallelMigrationsPerCluster": 5 }));
    site.decide_once(11);
    site.change_drain("d", |spec| spec.paused = true);
    site.settle(12);
    let waiting = site
        .world
        .migrations
        .iter()
        .filter(|one| one.status.clone().unwrap_or_default().phase() == MigrationPhase::Pending);
    assert_eq!(waiting.count(), site.world.migrations.len());
    site.change_drain("d", |spec| spec.paused = false);
    site.move_all(20);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded);
}

#[test]
fn a_drain_that_is_cancelled_at_any_step_takes_back_what_it_has_not_finished() {
    for steps in 0..12 {
        let mut site = site(4);
        site.empty("d", &json!({ "nodes": ["a", "b"], "minAvailable": 2 }));
        for step in 0..steps {
            site.decide_once(10 + step);
            if step % 3 == 2 {
                site.agents_finish(10 + step);
            }
        }
        let emptied = status(&site, "d").nodes.iter().any(|node| node.phase == NodeDrainPhase::Drained);
        site.change_drain("d", |spec| spec.cancel = true);
        site.move_all(40);
        let seen = status(&site, "d");
        assert_eq!(seen.phase(), DrainPhase::Cancelled, "after {steps} steps");
        assert_eq!(site.is_cordoned("a"), emptied, "after {steps} steps");
        assert!(!site.is_cordoned("b"), "after {steps} steps");
        let is_over = |phase: MigrationPhase| phase.is_final();
        assert!(
            site.world.migrations.iter().all(|one| is_over(one.status.clone().unwrap_or_default().phase()))
        );
        let before = site.world.migrations.len();
        site.settle(1000);
        assert_eq!(site.world.migrations.len(), before, "after {steps} steps");
    }
}

#[test]
fn a_node_that_was_cordoned_before_stays_so_when_a_drain_is_given_up() {
    let mut site = site(1);
    site.cordon("a");
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.change_drain("d", |spec| spec.cancel = true);
    site.settle(11);
    assert!(site.is_cordoned("a"));
    assert!(!status(&site, "d").nodes[0].cordoned);
}

#[test]
fn to_delete_a_drain_is_to_cancel_it() {
    let mut site = site(4);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.delete_drain("d");
    site.settle(11);
    assert_eq!((site.world.drains.len(), site.is_cordoned("a")), (1, false), "migrations are under way");
    site.move_all(12);
    site.settle(13);
    assert!(site.world.drains.is_empty() && !site.is_cordoned("a"));
}

#[test]
fn when_its_time_is_up_a_drain_fails_and_nodes_that_are_not_empty_are_in_use_again() {
    let mut site = site(5);
    site.empty("d", &json!({ "nodes": ["a"], "deadlineSeconds": 60 }));
    site.settle(10);
    site.settle(69);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Draining);
    site.settle(70);
    let seen = status(&site, "d");
    assert_eq!((seen.phase(), seen.moving, seen.moved), (DrainPhase::Draining, 2, 0), "two are under way");
    assert!(!site.is_cordoned("a"));
    site.move_all(71);
    let seen = status(&site, "d");
    assert_eq!(
        (seen.phase(), seen.moving, seen.moved, seen.left, seen.blocked),
        (DrainPhase::Failed, 0, 2, 3, 0)
    );
    assert_eq!((seen.nodes[0].phase, seen.nodes[0].cordoned), (NodeDrainPhase::Waiting, false));
    assert_eq!(condition(&seen.conditions, "Complete").unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    assert!(!site.is_cordoned("a"));
}

#[test]
fn what_cannot_move_is_said_and_holds_up_no_other() {
    let mut site = site(3);
    site.pin("m1", "a");
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.move_all(11);
    let seen = status(&site, "d");
    assert_eq!((seen.phase(), seen.moved, seen.left, seen.blocked), (DrainPhase::Draining, 2, 1, 1));
    let blocked = &seen.blocked_machines[0];
    assert_eq!((blocked.name.as_str(), blocked.reason), ("m1", BlockedReason::NoNodeFits));
    assert!(blocked.message.contains("its label kubernetes.io/hostname is b, not a"), "{}", blocked.message);
    assert_eq!(condition(&seen.conditions, "Complete").unwrap().reason.as_deref(), Some("Blocked"));
    assert_eq!(seen.eta_seconds, None);
    site.end_instance("m1", objects::InstancePhase::Succeeded, 20);
    site.settle(20);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded, "once it is stopped the node is empty");
}

#[test]
fn a_machine_whose_migration_failed_is_tried_again_after_a_rest() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.agents_fail(11);
    site.settle(11);
    let seen = status(&site, "d");
    assert_eq!((seen.blocked, seen.blocked_machines[0].reason), (1, BlockedReason::Failed));
    assert_eq!(site.world.migrations.len(), 1);
    site.settle(20);
    assert_eq!(site.world.migrations.len(), 1, "10 seconds have not gone by");
    site.settle(21);
    assert_eq!(site.world.migrations.len(), 2);
    site.agents_fail(22);
    site.settle(32);
    assert_eq!(site.world.migrations.len(), 2, "the second rest is longer");
    site.move_all(42);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded);
}

#[test]
fn a_node_that_dies_keeps_its_machines_and_the_drain_goes_on_when_it_is_back() {
    let mut site = site(3);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.agents_fail(44);
    site.silence("a");
    site.settle(45);
    site.agents_fail(46);
    site.settle(46);
    let seen = status(&site, "d");
    assert_eq!((seen.phase(), seen.left, seen.blocked), (DrainPhase::Draining, 3, 3));
    assert!(seen.blocked_machines.iter().all(|machine| machine.reason == BlockedReason::NodeNotReady));
    site.revive("a");
    site.move_all(200);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded);
}

#[test]
fn a_target_that_fills_up_leaves_the_rest_where_it_is() {
    let mut site = Site::default();
    site.node("a", 16);
    for index in 0..4 {
        site.machine(&format!("m{index}"), "Always", 2);
    }
    site.settle(0);
    site.run_instances(1);
    site.node("b", 4);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.move_all(10);
    let seen = status(&site, "d");
    assert_eq!((seen.moved, seen.left, seen.blocked), (2, 2, 2));
    assert!(site.taken("b") <= 4);
    assert!(
        seen.blocked_machines[0].message.contains("0 MiB of memory are free, 2048 MiB are needed"),
        "{seen:#?}"
    );
    site.node("c", 16);
    site.move_all(100);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded, "with more room it goes on by itself");
}

#[test]
fn two_drains_that_need_each_others_space_never_take_the_last_node() {
    let mut site = Site::default();
    site.node("a", 16).node("b", 16);
    for index in 0..4 {
        site.machine(&format!("m{index}"), "Always", 1);
    }
    site.settle(0);
    site.run_instances(1);
    site.empty("first", &json!({ "nodes": ["a"] }));
    site.empty("second", &json!({ "nodes": ["b"] }));
    site.move_all(10);
    assert_eq!(
        (status(&site, "first").phase(), status(&site, "second").phase()),
        (DrainPhase::Succeeded, DrainPhase::Draining)
    );
    let second = status(&site, "second");
    assert_eq!(condition(&second.conditions, "Complete").unwrap().reason.as_deref(), Some("WaitingForNodes"));
    assert!(!site.is_cordoned("b"));
    site.uncordon("a");
    site.move_all(20);
    assert_eq!(status(&site, "second").phase(), DrainPhase::Succeeded);
    assert_eq!(places(&site), vec!["a"; 4]);
}

#[test]
fn the_last_node_is_not_drained() {
    let mut site = site(2);
    site.cordon("b");
    site.cordon("c");
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    assert!(!site.is_cordoned("a") && site.world.migrations.is_empty());
    let plan = fleet::drain::plan(&site.world, &asked(&["a", "x"], 1));
    let why: Vec<_> = plan.nodes.iter().map(|node| node.why_not.clone().unwrap_or_default()).collect();
    assert_eq!(why, ["1 nodes would not be left that are ready and schedulable.", "There is no such node."]);
}

#[test]
fn a_plan_keeps_the_limits_and_says_when_it_is_over() {
    let mut site = site(6);
    site.limits(&json!({ "parallelMigrationsPerCluster": 3, "parallelOutboundMigrationsPerNode": 2 }));
    site.pin("m5", "a");
    let plan = fleet::drain::plan(
        &site.world,
        &NodeDrainPlanSpec { deadline_seconds: Some(3600), ..asked(&["a"], 1) },
    );
    assert_eq!((plan.machines, plan.blocked, plan.concurrency, plan.steps.len()), (6, 1, 2, 5));
    assert_eq!(plan.in_time, Some(false), "m5 stays");
    let starts: Vec<_> = plan.steps.iter().map(|step| step.start_seconds).collect();
    let seconds = plan.steps[0].seconds;
    assert_eq!(starts, [0, 0, seconds, seconds, 2 * seconds]);
    assert_eq!(plan.eta_seconds, 3 * seconds);
    assert!(plan.steps.iter().all(|step| step.target_node != "a"));
}

fn asked(nodes: &[&str], min_available: u32) -> NodeDrainPlanSpec {
    NodeDrainPlanSpec {
        nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
        deadline_seconds: None,
        min_available: Some(min_available),
    }
}

#[test]
fn a_machine_that_is_seen_on_its_target_first_is_counted_when_its_migration_is_over() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.arrive("m0", "b");
    site.settle(11);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Draining);
    site.move_all(12);
    assert_eq!((status(&site, "d").phase(), status(&site, "d").moved), (DrainPhase::Succeeded, 1));
}

#[test]
fn a_node_is_occupied_by_a_machine_and_by_a_migration_that_comes_or_goes() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    let instances: Vec<_> = site.world.instances.iter().map(|one| (**one).clone()).collect();
    let migrations: Vec<_> = site.world.migrations.iter().map(|one| (**one).clone()).collect();
    let target =
        site.world.migrations[0].status.clone().unwrap().migration_state.unwrap().target_node.unwrap();
    let other = if target == "b" { "c" } else { "b" };
    let nodes = [other.to_owned(), target.clone(), "a".to_owned()];
    assert_eq!(fleet::drain::occupied(&nodes, &instances, &[]), Some("a"));
    assert_eq!(fleet::drain::occupied(&nodes, &instances, &migrations), Some(target.as_str()));
    assert_eq!(fleet::drain::occupied(&nodes[2..], &[], &migrations), Some("a"));
    assert_eq!(fleet::drain::occupied(&nodes[..1], &instances, &migrations), None);
    site.move_all(11);
    let last = site.world.instances.iter().map(|one| (**one).clone()).collect::<Vec<_>>();
    assert_eq!(fleet::drain::occupied(&nodes[2..], &last, &[]), None);
}

#[test]
fn a_status_that_says_that_a_node_is_empty_names_it() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.agents_say(&site.world.migrations[0].metadata.name.clone().unwrap(), false);
    let mut emptied = Vec::new();
    for _ in 0..5 {
        let intents = fleet::decide(&site.world, &support::at(11));
        emptied.extend(intents.iter().filter_map(|intent| match intent {
            fleet::Intent::SetDrainStatus(_, emptied) => Some(emptied.clone()),
            _ => None,
        }));
        site.decide_once(11);
    }
    assert_eq!(emptied.concat(), ["a"], "{emptied:?}");
}

#[test]
fn a_migration_that_is_heard_of_when_its_drain_was_given_up_does_not_begin() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.decide_once(10);
    let late = std::mem::take(&mut site.world.migrations);
    assert_eq!(late.len(), 1);
    site.change_drain("d", |spec| spec.cancel = true);
    site.settle(11);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Cancelled);
    let name = late[0].metadata.name.clone().unwrap();
    site.world.migrations = late;
    site.settle(12);
    assert_eq!(site.phase(&name), MigrationPhase::Failed);
    assert_eq!(places(&site), ["a"]);
    // Nor when the drain itself is gone.
    (site.world.drains, std::sync::Arc::make_mut(&mut site.world.migrations[0]).status) = (Vec::new(), None);
    site.settle(13);
    assert_eq!(site.phase(&name), MigrationPhase::Failed);
}

#[test]
fn a_migration_that_is_refused_holds_up_no_other_of_its_drain() {
    let mut site = site(2);
    site.empty("d", &json!({ "nodes": ["a"] }));
    let intents = fleet::decide(&site.world, &support::at(10));
    let (alone, others): (Vec<_>, Vec<_>) = intents.iter().partition(|intent| intent.stands_alone());
    assert!(
        alone.len() == 2 && alone.iter().all(|intent| matches!(intent, fleet::Intent::CreateMigration(..))),
        "{alone:?}"
    );
    assert!(others.iter().any(|intent| matches!(intent, fleet::Intent::Cordon(..))), "{others:?}");
}

#[test]
fn a_node_is_in_use_again_though_it_was_not_yet_seen_cordoned() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.decide_once(10);
    site.uncordon("a");
    site.change_drain("d", |spec| spec.cancel = true);
    let intents = fleet::decide(&site.world, &support::at(11));
    let is_cordon = |intent: &fleet::Intent| matches!(intent, fleet::Intent::Cordon(_, false, _));
    let is_status = |intent: &fleet::Intent| matches!(intent, fleet::Intent::SetDrainStatus(..));
    let cordon = intents.iter().position(is_cordon).unwrap();
    assert!(cordon < intents.iter().position(is_status).unwrap(), "{intents:?}");
    site.move_all(12);
    assert!(!site.is_cordoned("a"));
}

#[test]
fn what_one_drain_asks_to_stay_no_other_takes() {
    let mut site = site(2);
    site.empty("first", &json!({ "nodes": ["a"], "minAvailable": 2 }));
    site.empty("second", &json!({ "nodes": ["b"] }));
    site.move_all(10);
    assert_eq!(status(&site, "first").phase(), DrainPhase::Succeeded);
    // Its word holds while it goes on, and no longer.
    assert_eq!(status(&site, "second").phase(), DrainPhase::Succeeded);
    let mut site = self::site(2);
    site.empty("first", &json!({ "nodes": ["a"], "minAvailable": 2 }));
    site.empty("second", &json!({ "nodes": ["b"] }));
    site.settle(10);
    assert!(site.is_cordoned("a") && !site.is_cordoned("b"));
    let why = fleet::drain::plan(&site.world, &asked(&["b"], 1)).nodes[0].why_not.clone();
    assert!(why.unwrap().starts_with("2 nodes would not be left"));
}

#[test]
fn who_waits_for_the_word_of_another_drain_is_told_whose_and_what_cannot_be_holds_up_nobody_else() {
    let mut site = site(2);
    site.empty("first", &json!({ "nodes": ["a"], "minAvailable": 2 }));
    site.empty("second", &json!({ "nodes": ["b"] }));
    site.settle(10);
    let message = |site: &Site, name: &str| status(site, name).nodes[0].message.clone().unwrap_or_default();
    assert!(
        message(&site, "second").contains("and 2 must stay so, as drain first asks"),
        "{}",
        message(&site, "second")
    );
    let why = fleet::drain::plan(&site.world, &asked(&["b"], 1)).nodes[0].why_not.clone();
    assert_eq!(
        why.unwrap(),
        "2 nodes would not be left that are ready and schedulable, as drain first asks."
    );
    // Three nodes stay in use of three, while one is emptied: never.
    let mut site = self::site(2);
    site.empty("first", &json!({ "nodes": ["b"], "minAvailable": 3 }));
    site.empty("second", &json!({ "nodes": ["a"] }));
    site.move_all(10);
    assert_eq!(status(&site, "second").phase(), DrainPhase::Succeeded);
    let said = message(&site, "first");
    assert!(said.contains("3 nodes must stay ready and schedulable, and the fleet has 3 in all"), "{said}");
    assert!(!site.is_cordoned("b"));
    // With another node it can be, and holds.
    site.uncordon("a");
    site.node("e", 16);
    site.move_all(200);
    assert_eq!(status(&site, "first").phase(), DrainPhase::Succeeded);
}

/// What a server of Kubernetes lets through.
#[test]
fn a_drain_that_is_wrong_fails_and_says_why() {
    let mut site = site(1);
    site.empty("first", &json!({ "nodes": ["a"] }));
    site.settle(10);
    let long = "d".repeat(64);
    site.empty("twice", &json!({ "nodes": ["b", "b"] }));
    site.empty("typo", &json!({ "nodes": ["x"] }));
    site.empty("same", &json!({ "nodes": ["c", "a"] }));
    site.empty(&long, &json!({ "nodes": ["b"] }));
    site.settle(11);
    for (name, why) in [
        ("twice", "it is named before"),
        ("typo", "there is no such node"),
        ("same", "this node is drained already, by first"),
        (&long, "must be at most 63 bytes"),
    ] {
        let seen = status(&site, name);
        let said = condition(&seen.conditions, "Complete").unwrap();
        assert_eq!((seen.phase(), said.reason.as_deref()), (DrainPhase::Failed, Some("Invalid")), "{name}");
        assert!(said.message.as_ref().unwrap().contains(why), "{said:?}");
    }
    assert!(!site.is_cordoned("b") && !site.is_cordoned("c"));
}

#[test]
fn a_node_may_be_heard_of_after_the_drain_that_names_it() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["new"] }));
    std::sync::Arc::make_mut(&mut site.world.drains[0]).metadata.creation_timestamp = Some(support::at(10));
    site.settle(11);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Pending);
    site.node("new", 16);
    site.settle(12);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded);
    site.empty("e", &json!({ "nodes": ["other"] }));
    std::sync::Arc::make_mut(&mut site.world.drains[1]).metadata.creation_timestamp = Some(support::at(20));
    site.settle(30);
    assert_eq!(status(&site, "e").phase(), DrainPhase::Failed);
}

#[test]
fn a_drain_is_held_before_anything_is_done_for_it() {
    let mut site = site(1);
    site.empty("d", &json!({ "nodes": ["a"] }));
    std::sync::Arc::make_mut(&mut site.world.drains[0]).metadata.finalizers = None;
    let intents = fleet::decide(&site.world, &support::at(10));
    assert!(matches!(&intents[..], [fleet::Intent::HoldDrain(_)]), "{intents:?}");
    site.move_all(11);
    assert_eq!(status(&site, "d").phase(), DrainPhase::Succeeded);
}

#[test]
fn a_drain_whose_nodes_are_changed_goes_by_those_it_began_with() {
    let mut site = site(3);
    site.empty("d", &json!({ "nodes": ["a"] }));
    site.settle(10);
    site.change_drain("d", |spec| spec.nodes = vec!["b".to_owned()]);
    site.settle(11);
    assert_eq!((status(&site, "d").nodes[0].left, status(&site, "d").phase()), (3, DrainPhase::Draining));
}
