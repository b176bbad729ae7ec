//! Decisions, driven against a world in memory: intents are applied as a server would, and decided on again.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::sync::Arc;

use objects::{AbortStatus, FailureReason, InstancePhase, MigrationPhase};
use proptest::prelude::*;
use serde_json::json;
use support::{Site, at};

#[test]
fn a_machine_gets_an_instance_and_the_instance_the_roomiest_node() {
    let mut site = Site::default();
    site.node("a", 4).node("b", 8).machine("db", "Always", 2);
    site.settle(0);
    let instance = site.instance("db");
    let status = instance.status.clone().unwrap();
    assert_eq!((status.node_name.as_deref(), status.phase()), (Some("b"), InstancePhase::Scheduled));
    assert!(status.vmm.unwrap().starts_with("db-"));
    assert_eq!(site.printable("db"), "Starting");
}

#[test]
fn what_fits_nowhere_waits_with_the_reasons_of_every_node() {
    let mut site = Site::default();
    site.node("a", 1).node("b", 8).node("c", 8).machine("db", "Always", 2);
    site.cordon("b");
    site.silence("c");
    site.settle(100);
    let status = site.instance("db").status.clone().unwrap();
    let message = objects::condition(&status.conditions, "Scheduled").unwrap().message.clone().unwrap();
    assert!(message.contains("a: 1024 MiB of memory are free, 2048 MiB are needed"), "{message}");
    assert!(
        message.contains("b: it is cordoned") && message.contains("c: its agent is not heard of"),
        "{message}"
    );
    assert_eq!(site.printable("db"), "Unschedulable");
}

#[test]
fn an_agent_is_heard_of_by_when_it_was_heard_and_not_by_its_own_clock() {
    let mut site = Site::default();
    site.node("a", 8).machine("db", "Always", 1);
    // Its clock is far behind.
    site.silence("a");
    site.hear("a", 980);
    site.settle(1000);
    assert_eq!(site.instance("db").status.clone().unwrap().node_name.as_deref(), Some("a"));
    // It falls silent, and what it wrote last by a clock that is far ahead does not keep it alive.
    let mut site = Site::default();
    site.node("a", 8).machine("db", "Always", 1);
    site.hear("a", 940);
    site.settle(1000);
    assert_eq!(site.instance("db").status.clone().unwrap().node_name, None);
}

#[test]
fn a_machine_goes_where_the_processor_will_do_and_every_other_node_says_why_not() {
    let mut site = Site::default();
    for (name, gib) in [("old", 8), ("new", 4), ("silent", 32)] {
        site.node(name, gib);
    }
    site.machine("db", "Always", 1).machine("strict", "Always", 1).machine("none", "Always", 1);
    site.processor("old", "GenuineIntel", &["x86-64-v2"], &["aes", "sse4.2"]);
    site.processor(
        "new",
        "GenuineIntel",
        &["x86-64-v2", "x86-64-v3"],
        &["aes", "avx2", "sse4.2", "spec-ctrl"],
    );
    let require = |name: &str| json!({ "name": name });
    site.see("db", &json!({ "model": "x86-64-v3", "features": [require("aes"), require("spec_ctrl")] }));
    site.see("strict", &json!({ "features": [require("sse4_2"), { "name": "avx2", "policy": "forbid" }] }));
    site.see("none", &json!({ "model": "x86-64-v4", "features": [require("aes"), require("sha-ni")] }));
    site.settle(0);
    let node = |site: &Site, name: &str| site.instance(name).status.clone().unwrap().node_name;
    assert_eq!(node(&site, "db").as_deref(), Some("new"));
    assert_eq!(node(&site, "strict").as_deref(), Some("old"));
    let status = site.instance("none").status.clone().unwrap();
    let message = objects::condition(&status.conditions, "Scheduled").unwrap().message.clone().unwrap();
    for part in [
        "new: its processor cannot be shown as CPU model x86-64-v4, its processor lacks sha-ni",
        "silent: its processor cannot be shown as CPU model x86-64-v4, its processor lacks aes, sha-ni",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_feature_is_forbidden_by_all_of_its_names_and_where_nothing_is_said_of_features() {
    for name in ["lzcnt", "abm", "sse4_1", "sse4-1", "sse4.1"] {
        let mut site = Site::default();
        site.node("has", 8).node("silent", 32).machine("db", "Always", 1);
        site.processor("has", "GenuineIntel", &[], &["abm", "fpu", "sse4.1"]);
        site.see("db", &json!({ "features": [{ "name": name, "policy": "forbid" }] }));
        site.settle(0);
        let status = site.instance("db").status.clone().unwrap();
        let message = objects::condition(&status.conditions, "Scheduled").unwrap().message.clone().unwrap();
        for part in ["has: its processor has ", "silent: its agent does not say whether its processor has "] {
            assert!(message.contains(part), "{name}, {part}: {message}");
        }
        site.node("without", 4);
        site.processor("without", "GenuineIntel", &[], &["fpu"]);
        site.settle(1);
        let node = site.instance("db").status.clone().unwrap().node_name;
        assert_eq!(node.as_deref(), Some("without"), "{name}");
    }
}

#[test]
fn without_a_model_a_machine_goes_to_a_node_that_lacks_nothing_of_its_own_if_there_is_one() {
    for (cpu, expected) in [
        (json!({}), "small"),
        (json!({ "model": "host-model" }), "small"),
        (json!({ "features": [{ "name": "avx2", "policy": "disable" }] }), "large"),
        (json!({ "model": "x86-64-v2" }), "large"),
    ] {
        let mut site = Site::default();
        site.node("here", 64).machine("db", "Always", 1);
        site.processor("here", "GenuineIntel", &["x86-64-v2"], &["aes", "avx2", "fpu"]);
        site.see("db", &cpu);
        site.settle(0);
        site.run_instances(1);
        site.node("large", 32).node("small", 16);
        site.processor("large", "GenuineIntel", &["x86-64-v2"], &["aes", "fpu", "sse4.2"]);
        site.processor("small", "GenuineIntel", &["x86-64-v2"], &["aes", "avx2", "fpu", "sse4.2"]);
        site.migrate("move", "db", &json!({}));
        site.settle(2);
        let state = site.world.migrations[0].status.clone().unwrap().migration_state.unwrap();
        assert_eq!(state.target_node.as_deref(), Some(expected), "{cpu}");
    }
}

#[test]
fn a_machine_does_not_go_to_a_processor_of_another_maker() {
    let mut site = Site::default();
    site.node("a", 8).machine("db", "Always", 1);
    site.processor("a", "GenuineIntel", &[], &[]);
    site.settle(0);
    site.run_instances(1);
    site.node("b", 8);
    site.processor("b", "AuthenticAMD", &[], &[]);
    site.migrate("move", "db", &json!({}));
    site.settle(2);
    let phase = |site: &Site| site.world.migrations[0].status.clone().unwrap().phase();
    assert_eq!(phase(&site), MigrationPhase::Pending);
    let plan = fleet::fit::fits(&site.world, site.instance("db"), &std::collections::BTreeMap::new());
    let why: Vec<_> = plan[1].misfits.iter().map(ToString::to_string).collect();
    assert_eq!(why, ["its processor is of AuthenticAMD, and the machine runs on one of GenuineIntel"]);
    site.node("c", 4);
    site.processor("c", "GenuineIntel", &[], &[]);
    site.settle(3);
    assert_ne!(phase(&site), MigrationPhase::Pending);
}

#[test]
fn machines_move_between_nodes_that_are_on_the_network_of_migrations_and_start_anywhere() {
    let mut site = Site::default();
    let fleet = |network: &str| json!({ "metadata": { "name": "fleet" }, "spec": { "configuration": { "migrations": { "network": network } } } });
    site.world.fleets.push(serde_json::from_value(fleet("10.88.0.0/24")).unwrap());
    site.node("a", 8).machine("db", "Always", 1);
    site.settle(0);
    site.run_instances(1);
    site.node("b", 8);
    site.migrate("move", "db", &json!({}));
    site.settle(2);
    let why = |site: &Site| {
        let plan = fleet::fit::fits(&site.world, site.instance("db"), &std::collections::BTreeMap::new());
        plan[1].misfits.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let unsaid = "has not said yet which address it has in the network of migrations 10.88.0.0/24";
    assert_eq!(why(&site), [format!("node a, where the machine runs, {unsaid}"), format!("it {unsaid}")]);
    site.comes_to("a", "10.88.0.1", "10.88.0.0/24");
    site.comes_to("b", "", "10.88.0.0/24");
    assert_eq!(why(&site), ["it has no address in the network of migrations 10.88.0.0/24"]);
    site.settle(3);
    assert_eq!(site.phase("move"), MigrationPhase::Pending);
    let said = site.migration("move").status.clone().unwrap().conditions;
    let said = objects::condition(&said, "Scheduled").cloned().unwrap();
    assert!(said.message.unwrap().contains("it has no address in the network of migrations"));
    // What was chosen for another network does not count.
    site.comes_to("b", "10.88.0.2", "10.99.0.0/24");
    assert_eq!(why(&site), [format!("it {unsaid}")]);
    site.comes_to("b", "10.88.0.2", "10.88.0.0/24");
    site.settle(4);
    assert_eq!(site.state("move").target_node.as_deref(), Some("b"));
}

#[test]
fn a_stopped_machine_has_no_instance_and_a_deleted_one_takes_it_along() {
    let mut site = Site::default();
    site.node("a", 8).machine("db", "Always", 1).machine("web", "Always", 1);
    site.settle(0);
    std::sync::Arc::make_mut(&mut site.world.machines[0]).spec.run_strategy = objects::RunStrategy::Halted;
    site.world.machines.retain(|machine| machine.metadata.name.as_deref() != Some("web"));
    site.settle(1);
    assert!(site.world.instances.iter().all(|instance| instance.metadata.deletion_timestamp.is_some()));
    assert_eq!(site.printable("db"), "Stopping");
}

#[test]
fn a_run_that_failed_is_followed_by_another_after_a_rest() {
    let mut site = Site::default();
    site.node("a", 8).machine("db", "RerunOnFailure", 1);
    site.settle(0);
    let first = site.instance("db").metadata.uid.clone();
    site.run_instances(1);
    site.end_instance("db", InstancePhase::Failed, 2);
    site.settle(5);
    assert_eq!(site.instance("db").metadata.uid, first, "it rests");
    site.settle(20);
    site.let_go();
    site.settle(21);
    assert_ne!(site.instance("db").metadata.uid, first);
    site.end_instance("db", InstancePhase::Succeeded, 30);
    site.settle(100);
    assert_eq!(
        site.instance("db").status.clone().unwrap().phase(),
        InstancePhase::Succeeded,
        "it ended as it should"
    );
}

#[test]
fn a_migration_goes_to_another_node_and_ends_with_the_instance_there() {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.settle(0);
    site.run_instances(1);
    site.migrate("m1", "db", &json!({}));
    site.settle(2);
    let state = site.state("m1");
    assert_eq!((state.source_node.as_deref(), state.target_node.as_deref()), (Some("a"), Some("b")));
    assert_eq!(state.migration_configuration.unwrap().completion_timeout_per_gi_b, 150);
    assert_eq!(site.printable("db"), "Migrating");
    site.agents_say("m1", false);
    site.settle(5);
    assert_eq!(site.phase("m1"), MigrationPhase::Succeeded);
    let status = site.instance("db").status.clone().unwrap();
    assert_eq!((status.node_name, status.vmm), (Some("b".to_owned()), state.target_vmm));
    let phases: Vec<_> = site
        .migration("m1")
        .status
        .clone()
        .unwrap()
        .phase_transition_timestamps
        .iter()
        .map(|entry| entry.phase)
        .collect();
    assert_eq!(
        phases,
        [
            MigrationPhase::Pending,
            MigrationPhase::Scheduled,
            MigrationPhase::Running,
            MigrationPhase::Succeeded
        ]
    );
}

#[test]
fn a_migration_that_failed_leaves_the_instance_where_it_is() {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.settle(0);
    site.run_instances(1);
    site.migrate("m1", "db", &json!({}));
    site.settle(2);
    site.agents_say("m1", true);
    site.settle(3);
    assert_eq!(site.phase("m1"), MigrationPhase::Failed);
    assert_eq!(site.instance("db").status.clone().unwrap().node_name.as_deref(), Some("a"));
}

#[test]
fn a_cancelled_migration_says_what_came_of_it() {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.settle(0);
    site.run_instances(1);
    site.migrate("early", "db", &json!({}));
    site.settle(2);
    site.cancel("early");
    site.settle(3);
    let state = site.state("early");
    assert_eq!(
        (site.phase("early"), state.abort_status),
        (MigrationPhase::Failed, Some(AbortStatus::Succeeded))
    );
    assert_eq!(state.failure.unwrap().reason, FailureReason::Cancelled);
    site.migrate("late", "db", &json!({}));
    site.settle(4);
    site.cancel("late");
    // It was running already, and the engine was faster.
    site.agents_say("late", false);
    site.settle(5);
    let state = site.state("late");
    assert_eq!(
        (site.phase("late"), state.abort_status),
        (MigrationPhase::Succeeded, Some(AbortStatus::Failed))
    );
}

#[test]
fn while_memory_moves_only_the_engine_ends_a_migration() {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.settle(0);
    site.run_instances(1);
    site.migrate("m1", "db", &json!({}));
    site.settle(2);
    site.agents_begin("m1");
    site.cancel("m1");
    site.settle(100);
    assert_eq!(site.phase("m1"), MigrationPhase::Running, "the source has the word");
    site.settle(1000);
    assert!(site.state("m1").abort_requested, "it is asked to end, past its time");
    assert_eq!(site.phase("m1"), MigrationPhase::Running);
}

#[test]
fn a_target_that_is_never_ready_is_given_up() {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.settle(0);
    site.run_instances(1);
    site.migrate("m1", "db", &json!({}));
    site.settle(2);
    site.settle(200);
    assert_eq!(site.state("m1").failure.unwrap().reason, FailureReason::TargetTimeout);
}

#[test]
fn a_migration_waits_for_its_turn_and_says_so() {
    let mut site = Site::default();
    site.node("a", 64).node("b", 32).node("c", 32);
    for name in ["v1", "v2", "v3"] {
        site.machine(name, "Always", 1);
    }
    site.settle(0);
    site.run_instances(1);
    for (index, name) in ["v1", "v2", "v3"].into_iter().enumerate() {
        site.migrate(&format!("m{index}"), name, &json!({}));
    }
    site.settle(2);
    assert_eq!(site.phase("m2"), MigrationPhase::Pending);
    let status = site.migration("m2").status.clone().unwrap();
    let message = objects::condition(&status.conditions, "Scheduled").unwrap().message.clone().unwrap();
    assert_eq!(message, "Position 1 in the queue: 2 migrations leave node a, as many as there may be.");
    site.agents_say("m0", false);
    site.settle(3);
    site.settle(4);
    assert!(site.phase("m2").is_under_way());
}

#[test]
fn the_policy_with_more_labels_wins_then_the_first_by_name() {
    let mut site = Site::default();
    site.policy("z-all", &json!({ "selectors": {}, "channels": 1 }));
    site.policy("b-app", &json!({ "selectors": { "virtualMachineInstanceSelector": { "app": "db" } } }));
    site.policy(
        "a-app",
        &json!({ "selectors": { "virtualMachineInstanceSelector": { "app": "db" } }, "allowPostCopy": true }),
    );
    site.policy(
        "both",
        &json!({ "selectors": {
            "namespaceSelector": { "zone": "1" }, "virtualMachineInstanceSelector": { "app": "db" },
        }}),
    );
    let labels =
        |text: &str| serde_json::from_str::<std::collections::BTreeMap<String, String>>(text).unwrap();
    let name = |namespace: &str, instance: &str| {
        let choice = fleet::policy::choose(&site.world.policies, &labels(namespace), &labels(instance));
        (choice.policy.and_then(|policy| policy.metadata.name.clone()).unwrap(), choice.reason)
    };
    assert_eq!(name("{}", "{}").0, "z-all");
    let (winner, reason) = name("{}", r#"{"app":"db"}"#);
    assert_eq!(winner, "a-app");
    assert_eq!(reason, "1 labels match, as many as of b-app, and its name comes first");
    assert_eq!(name(r#"{"zone":"1"}"#, r#"{"app":"db"}"#).0, "both");
    let values = fleet::policy::resolve(Some(&site.world.policies[2]), &site.world.settings());
    assert!(values.allow_post_copy && !values.allow_auto_converge);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is asked for: limits hold, nothing goes where it is or where it does not fit, whatever waits says why, and what was
    /// decided once is not decided again.
    #[test]
    fn limits_hold_and_decisions_come_to_rest(
        nodes in prop::collection::vec(1..32_u64, 1..5),
        sizes in prop::collection::vec(1..8_u64, 1..12),
        moved in prop::collection::vec(any::<bool>(), 12),
        cordoned in any::<bool>(),
    ) {
        let mut site = Site::default();
        for (index, gib) in nodes.iter().enumerate() {
            site.node(&format!("n{index}"), *gib);
        }
        for (index, gib) in sizes.iter().enumerate() {
            site.machine(&format!("v{index}"), "Always", *gib);
        }
        site.settle(0);
        site.run_instances(1);
        if cordoned {
            site.cordon("n0");
        }
        for index in (0..sizes.len()).filter(|index| moved[*index]) {
            site.migrate(&format!("m{index}"), &format!("v{index}"), &json!({}));
        }
        site.settle(2);
        let quiet = fleet::decide(&site.world, &at(2));
        prop_assert!(quiet.is_empty(), "{quiet:?}");
        let under_way: Vec<_> = site.world.migrations.iter().filter_map(|migration| migration.status.clone())
            .filter(|status| status.phase().is_under_way()).filter_map(|status| status.migration_state).collect();
        prop_assert!(under_way.len() <= 5);
        for (index, room) in nodes.iter().enumerate() {
            let name = Some(format!("n{index}"));
            prop_assert!(under_way.iter().filter(|state| state.source_node == name).count() <= 2);
            prop_assert!(under_way.iter().filter(|state| state.target_node == name).count() <= 2);
            prop_assert!(site.taken(&format!("n{index}")) <= *room, "no node has more than it has room for");
        }
        for state in &under_way {
            prop_assert_ne!(&state.source_node, &state.target_node);
            prop_assert!(!cordoned || state.target_node.as_deref() != Some("n0"));
        }
        for migration in &site.world.migrations {
            let status = migration.status.clone().unwrap();
            if status.phase() == MigrationPhase::Pending {
                prop_assert!(objects::condition(&status.conditions, "Scheduled").unwrap().message.is_some());
            }
        }
    }
}

#[test]
fn a_machine_goes_where_its_bridges_and_disks_are() {
    let mut site = Site::default();
    site.node("a", 8).node("b", 8).node("old", 8).machine("db", "Always", 1);
    let spec = json!({
        "domain": {
            "memory": { "guest": "1Gi" }, "firmware": { "kernelBoot": { "container": { "image": "whimbrel.dev/workload" } } },
            "devices": { "disks": [{ "name": "d" }], "interfaces": [{ "name": "n" }] },
        },
        "volumes": [{ "name": "d", "hostDisk": { "path": "/srv/db.raw", "shared": true } }],
        "networks": [{ "name": "n", "hostBridge": { "bridgeName": "br0" } }],
    });
    let machine = Arc::make_mut(&mut site.world.machines[0]);
    machine.spec.template.spec = serde_json::from_value(spec).unwrap();
    let say = |site: &mut Site, name: &str, places: serde_json::Value, bridges: &[&str]| {
        let node =
            site.world.nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some(name)).unwrap();
        let metadata = &mut Arc::make_mut(node).metadata;
        metadata
            .annotations
            .get_or_insert_default()
            .insert(objects::DISKS_ANNOTATION.to_owned(), places.to_string());
        let labels = metadata.labels.get_or_insert_default();
        labels.extend(
            bridges.iter().map(|name| (format!("{}{name}", objects::BRIDGE_LABEL), "true".to_owned())),
        );
    };
    say(&mut site, "a", json!({ "/srv": true, "/srv/db.raw": false }), &["br1"]);
    say(&mut site, "b", json!({ "/srv": true }), &["br0"]);
    site.settle(0);
    let why =
        objects::condition(&site.instance("db").status.clone().unwrap().conditions, "Scheduled").cloned();
    assert_eq!(
        why.unwrap().message.unwrap(),
        "No node fits. a: it has no bridge br0, it has no /srv/db.raw, or its storage does not reply; b: its agent has not \
         looked for /srv/db.raw yet; old: its agent is of a release without network cards and cloud-init."
    );
    say(&mut site, "b", json!({ "/srv": true, "/srv/db.raw": true }), &[]);
    site.settle(1);
    site.run_instances(2);
    assert_eq!(site.instance("db").status.clone().unwrap().node_name.as_deref(), Some("b"));
    // To move it a node has to have the directory, and the other side of the migration looks at the image.
    let plan = fleet::plan::plan(&site.world, site.instance("db"), &objects::MigrationPlanSpec::default());
    let misfits = |node: &str| plan.fits.iter().find(|fit| fit.node == node).unwrap().misfits.len();
    assert_eq!((misfits("a"), misfits("old")), (1, 1));
    say(&mut site, "a", json!({ "/srv": true }), &["br0"]);
    let plan = fleet::plan::plan(&site.world, site.instance("db"), &objects::MigrationPlanSpec::default());
    assert_eq!(plan.target.as_deref(), Some("a"));
}
