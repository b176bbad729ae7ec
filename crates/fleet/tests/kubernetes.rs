//! What is decided about objects that a server of Kubernetes has: it knows schemas, and there are kubelets.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::sync::Arc;

use fleet::Intent;
use k8s_openapi::api::coordination::v1::Lease;
use objects::{
    AGENT_CONDITION, InstancePhase, MIGRATION_FINALIZER, MigrationPhase, VMM_FINALIZER, condition,
};
use serde_json::json;

use support::{Site, at};

/// What a kubelet says of its node, and its agent if there is one.
fn kubelets(site: &mut Site, name: &str, agent: Option<&str>) {
    let mut status = json!({
        "conditions": [{ "type": "Ready", "status": "True" }],
        "allocatable": { "memory": "64Gi", "cpu": "8" }, "nodeInfo": {
            "kubeletVersion": "v1.33.1", "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "",
        },
    });
    if let Some(is_alive) = agent {
        let ready = json!({ "type": AGENT_CONDITION, "status": is_alive });
        status["conditions"].as_array_mut().unwrap().push(ready);
        status["allocatable"]["whimbrel.dev/memory"] = "2Gi".into();
        status["allocatable"]["whimbrel.dev/cpu"] = "8".into();
    }
    let mut nodes = site.world.nodes.iter_mut().map(Arc::make_mut);
    let node = nodes.find(|node| node.metadata.name.as_deref() == Some(name));
    node.unwrap().status = Some(serde_json::from_value(status).unwrap());
}

fn why_not_placed(site: &Site, name: &str) -> (Option<String>, String) {
    let status = site.instance(name).status.clone().unwrap_or_default();
    let scheduled = condition(&status.conditions, "Scheduled").unwrap().clone();
    (scheduled.reason, scheduled.message.unwrap_or_default())
}

#[test]
fn a_kubelets_node_without_an_agent_takes_no_machine() {
    let mut site = Site::default();
    site.node("a", 64).machine("m", "Always", 1);
    kubelets(&mut site, "a", None);
    site.settle(0);
    assert!(why_not_placed(&site, "m").1.contains("its agent is not heard of"));
    kubelets(&mut site, "a", Some("True"));
    site.settle(1);
    assert_eq!(site.instance("m").status.clone().unwrap().node_name.as_deref(), Some("a"));
}

#[test]
fn machines_have_what_the_agent_says_and_not_what_the_kubelet_says() {
    let mut site = Site::default();
    site.node("a", 64).machine("m", "Always", 4);
    kubelets(&mut site, "a", Some("True"));
    site.settle(0);
    let (_, message) = why_not_placed(&site, "m");
    assert!(message.contains("2048 MiB of memory are free, 4096 MiB are needed"), "{message}");
}

#[test]
fn a_silent_agent_is_said_in_its_own_condition_and_the_kubelets_stays() {
    let mut site = Site::default();
    site.node("a", 64);
    kubelets(&mut site, "a", Some("True"));
    site.silence("a");
    // The kubelet goes on renewing a lease of the same name.
    let mut kubelets_lease = Lease::clone(&site.world.leases[0]);
    kubelets_lease.metadata.labels = None;
    kubelets_lease.spec.as_mut().unwrap().renew_time =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(at(100).0));
    site.world.leases.insert(0, Arc::new(kubelets_lease));
    site.settle(100);
    let conditions = site.world.nodes[0].status.clone().unwrap().conditions.unwrap();
    let status = |kind: &str| conditions.iter().find(|one| one.type_ == kind).unwrap().status.clone();
    assert_eq!((status("Ready").as_str(), status(AGENT_CONDITION).as_str()), ("True", "Unknown"));
}

#[test]
fn what_no_schema_refuses_is_not_placed_and_says_why() {
    let mut site = Site::default();
    site.machine("m", "Always", 1);
    site.settle(0);
    Arc::make_mut(&mut site.world.instances[0]).spec.domain.memory.guest = "3Mi".into();
    site.node("a", 64);
    site.settle(1);
    let (reason, message) = why_not_placed(&site, "m");
    assert_eq!(reason.as_deref(), Some("Invalid"));
    assert!(message.starts_with("spec.domain.memory.guest: Invalid value"), "{message}");
    assert_eq!(site.instance("m").status.clone().unwrap().node_name, None);
}

#[test]
fn a_machine_that_cannot_start_as_it_is_described_says_so_and_gets_no_instance() {
    let mut site = Site::default();
    site.node("a", 64).machine("m", "Always", 1);
    let memory = &mut Arc::make_mut(&mut site.world.machines[0]).spec.template.spec.domain.memory;
    memory.guest = "3Mi".into();
    site.settle(0);
    assert!(site.world.instances.is_empty());
    let status = site.world.machines[0].status.clone().unwrap();
    assert_eq!((status.printable_status.as_deref(), status.ready), (Some("Failed"), false));
    assert_eq!(status.conditions[0].reason.as_deref(), Some("Invalid"));
    Arc::make_mut(&mut site.world.machines[0]).spec.template.spec.domain.memory.guest = "4Mi".into();
    site.settle(1);
    assert_eq!(site.world.instances.len(), 1);
}

#[test]
fn nothing_is_done_for_what_is_not_held_yet() {
    let mut site = Site::default();
    site.node("a", 64).node("b", 64).machine("m", "Always", 1);
    site.settle(0);
    let instance = Arc::make_mut(&mut site.world.instances[0]);
    (instance.metadata.finalizers, instance.status) = (None, None);
    let intents = fleet::decide(&site.world, &at(1));
    assert!(matches!(&intents[..], [Intent::HoldInstance(_), ..]), "{intents:?}");
    assert!(!intents.iter().any(|intent| matches!(intent, Intent::SetInstanceStatus(_))), "{intents:?}");
    site.settle(1);
    assert_eq!(site.instance("m").metadata.finalizers.as_deref(), Some(&[VMM_FINALIZER.to_owned()][..]));
    site.run_instances(1);
    site.migrate("move", "m", &json!({}));
    Arc::make_mut(&mut site.world.migrations[0]).metadata.finalizers = None;
    let intents = fleet::decide(&site.world, &at(2));
    assert!(matches!(&intents[..], [Intent::HoldMigration(_)]), "{intents:?}");
    site.settle(2);
    assert_eq!(
        site.migration("move").metadata.finalizers.as_deref(),
        Some(&[MIGRATION_FINALIZER.to_owned()][..])
    );
    assert_eq!(site.phase("move"), MigrationPhase::Scheduled);
    assert_eq!(site.instance("m").status.clone().unwrap().phase(), InstancePhase::Running);
}

#[test]
fn of_two_migrations_of_one_machine_the_first_goes_on() {
    let mut site = Site::default();
    site.node("a", 64).node("b", 64).machine("m", "Always", 1);
    site.settle(0);
    site.run_instances(0);
    site.migrate("first", "m", &json!({}));
    site.migrate("second", "m", &json!({}));
    site.settle(1);
    assert_eq!(
        (site.phase("first"), site.phase("second")),
        (MigrationPhase::Scheduled, MigrationPhase::Failed)
    );
    let why = site.state("second").failure_reason.unwrap();
    assert_eq!(why, "This instance is migrated already, by first.");
}

#[test]
fn an_agent_of_the_release_before_is_missed_too() {
    let mut site = Site::default();
    site.node("a", 64);
    site.silence("a");
    Arc::make_mut(&mut site.world.leases[0]).metadata.labels = None;
    site.settle(100);
    assert!(!fleet::fit::is_ready(&site.world.nodes[0]));
}
