//! A fleet on this host as a user has it: `whimbrel up`, kubectl, machines on /dev/kvm. Skipped, loudly, without KVM or kubectl.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[path = "../programs/mod.rs"]
mod programs;

mod console;
mod devices;
mod drain;
mod figures;
mod join;
mod networks;
mod operator;
mod processors;
mod prompt;
mod retries;
mod site;

use site::{Fleet, manifest};

#[test]
fn a_machine_starts_moves_and_goes_and_leaves_nothing_but_the_record() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let before = fleet.get("vmi/busy");
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done && said.contains("busy runs on node-"), "{said}\n{}", fleet.log());
    let after = fleet.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before["status"]["nodeName"]);
    assert_ne!(after["status"]["vmm"], before["status"]["vmm"]);
    assert_eq!((&after["metadata"]["uid"], &after["spec"]), (&before["metadata"]["uid"], &before["spec"]));
    let record = fleet.get("vmim")["items"][0].clone();
    let state = &record["status"]["migrationState"];
    assert_eq!(
        (&record["status"]["phase"], &state["sourceNode"]),
        (&"Succeeded".into(), &before["status"]["nodeName"])
    );
    assert!(
        state["result"]["downtime"]["totalMs"].is_u64() && state["result"]["session"].is_string(),
        "{state:#}"
    );
    fleet.wait_vmms((1, 1));
    fleet.kubectl("delete vm busy");
    fleet.wait_vmms((0, 0));
    fleet.wait("vmi", |seen| seen["items"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(fleet.get("vmim")["items"].as_array().unwrap().len(), 1, "the record outlives the machine");
}

#[test]
fn a_cancelled_migration_leaves_the_machine_where_it_was() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.slow("4Mi");
    fleet.machine("50M");
    let before = fleet.get("vmi/busy");
    fleet.migration("m");
    fleet.wait_phase("vmim/m", "Running");
    fleet.kubectl(r#"patch vmim m --type=merge -p {"spec":{"cancel":true}}"#);
    let state = fleet.wait_phase("vmim/m", "Failed")["status"]["migrationState"].clone();
    assert_eq!(state["abortStatus"], "Succeeded");
    assert_eq!(state["failure"]["reason"], "Cancelled");
    assert_eq!(
        (&state["migrationPolicyName"], &state["migrationConfiguration"]["bandwidthPerMigration"]),
        (&"slow".into(), &"4Mi".into())
    );
    fleet.wait_vmms((1, 1));
    assert_eq!(fleet.get("vmi/busy")["status"]["vmm"], before["status"]["vmm"]);
}

#[test]
fn a_fleet_that_is_killed_while_memory_moves_breaks_no_migration_and_loses_no_status() {
    let Some(mut fleet) = Fleet::start() else { return };
    fleet.slow("16Mi");
    fleet.machine("0");
    let before = fleet.get("vmi/busy");
    fleet.migration("m");
    fleet.wait_phase("vmim/m", "Running");
    fleet.kill();
    assert_eq!(fleet.vmms(), (2, 2), "VMMs outlive agents");
    fleet.up();
    let after = fleet.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before["status"]["nodeName"]);
    assert_eq!(after["status"]["phase"], "Running");
    fleet.wait_phase("vmim/m", "Succeeded");
    fleet.wait_vmms((1, 1));
}

#[test]
fn a_machine_that_is_deleted_while_it_moves_is_gone_from_both_nodes() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.slow("4Mi");
    fleet.machine("50M");
    fleet.migration("m");
    fleet.wait_phase("vmim/m", "Running");
    fleet.kubectl("delete vm busy");
    fleet.wait_phase("vmim/m", "Failed");
    fleet.wait_vmms((0, 0));
}

#[test]
fn a_machine_whose_process_dies_is_said_to_have_failed_and_runs_again() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let first = fleet.get("vmi/busy")["metadata"]["uid"].clone();
    fleet.kill_vmms();
    fleet.wait_phase("vmi/busy", "Failed");
    fleet.wait("vmi/busy", |seen| seen["metadata"]["uid"].is_string() && seen["metadata"]["uid"] != first);
    fleet.wait_phase("vmi/busy", "Running");
    fleet.wait_vmms((1, 1));
}

#[test]
fn a_fleet_that_is_killed_after_every_write_starts_moves_and_deletes_a_machine() {
    let Some(mut fleet) = Fleet::start() else { return };
    let machine = fleet.file("machine.yaml", &manifest("50M"));
    let migration = fleet.file(
        "migration.yaml",
        "apiVersion: whimbrel.dev/v1\nkind: VirtualMachineInstanceMigration\nmetadata: {name: m}\n\
         spec: {vmiName: busy}\n",
    );
    let starts = fleet.while_aborting(|fleet| {
        let is_there = |what: &str| fleet.get(what)["metadata"]["name"].is_string();
        fleet.insist(&format!("create -f {machine}"), || is_there("vm/busy"));
        let before = fleet.wait_phase("vmi/busy", "Running")["status"]["nodeName"].clone();
        fleet.insist(&format!("create -f {migration}"), || is_there("vmim/m"));
        fleet.wait_phase("vmim/m", "Succeeded");
        let after = fleet.wait("vmi/busy", |seen| seen["status"]["nodeName"].is_string());
        assert_ne!(after["status"]["nodeName"], before);
        fleet.wait_vmms((1, 1));
        fleet.insist("delete vm busy --wait=false", || {
            let machines = fleet.get("vm");
            machines["items"].as_array().is_some_and(Vec::is_empty)
        });
        fleet.wait_vmms((0, 0));
    });
    assert!(starts > 10, "it was killed {starts} times");
    fleet.wait("vmi", |seen| seen["items"].as_array().is_some_and(Vec::is_empty));
    fleet.machine("50M");
    fleet.wait_vmms((1, 1));
}
