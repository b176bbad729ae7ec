//! What an operator does every day.

use super::Fleet;

/// Whether the guest stands still, by its instance.
fn is_paused(instance: &serde_json::Value) -> bool {
    let conditions = instance["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Paused" && one["status"] == "True"))
}

#[test]
fn a_machine_stops_starts_again_and_begins_another_run() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let uid = || fleet.get("vmi/busy")["metadata"]["uid"].as_str().map(str::to_owned);
    let first = uid();
    assert_eq!(fleet.whimbrel("restart busy"), ("busy ends, and starts again\n".to_owned(), true));
    fleet.wait("vmi/busy", |seen| {
        seen["metadata"]["uid"].as_str() != first.as_deref() && seen["status"]["phase"] == "Running"
    });
    assert!(fleet.whimbrel("stop busy").1);
    fleet.wait("vm/busy", |seen| seen["status"]["printableStatus"] == "Stopped");
    fleet.wait_vmms((0, 0));
    let (said, is_done) = fleet.whimbrel("restart busy");
    assert!(!is_done && said.contains("busy is stopped: whimbrel start busy"), "{said}");
    assert!(fleet.whimbrel("start busy").1);
    fleet.wait_phase("vmi/busy", "Running");
    fleet.wait_vmms((1, 1));
}

#[test]
fn a_guest_that_stands_still_does_so_after_a_migration_too() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let before = fleet.get("vmi/busy")["status"]["nodeName"].clone();
    assert!(fleet.whimbrel("pause busy").1);
    fleet.wait("vmi/busy", is_paused);
    fleet.wait("vm/busy", |seen| seen["status"]["printableStatus"] == "Paused");
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
    let after = fleet.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before);
    assert!(is_paused(&after), "{after:#}");
    assert!(fleet.whimbrel("unpause busy").1);
    fleet.wait("vmi/busy", |seen| !is_paused(seen));
    fleet.wait("vm/busy", |seen| seen["status"]["printableStatus"] == "Running");
}

#[test]
fn a_plan_and_a_policy_are_explained_and_a_cancel_says_what_came_of_it() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.slow("4Mi");
    fleet.machine("50M");
    let here = fleet.get("vmi/busy")["status"]["nodeName"].as_str().unwrap().to_owned();
    let there = if here == "node-a" { "node-b" } else { "node-a" };
    let (said, is_done) = fleet.whimbrel("plan busy");
    assert!(is_done && said.contains(&format!("A migration would go to {there} now.")), "{said}");
    assert!(said.contains("the machine runs there") && said.contains("Policy: slow"), "{said}");
    fleet.kubectl(&format!("cordon {there}"));
    let (said, is_done) = fleet.whimbrel(&format!("plan busy --to {there}"));
    assert!(!is_done && said.contains("it is cordoned") && said.contains("no node fits"), "{said}");
    fleet.kubectl(&format!("uncordon {there}"));
    let (said, _) = fleet.whimbrel("policy explain busy");
    assert!(said.contains("slow (the only policy that applies") && said.contains("4Mi"), "{said}");
    let wish = fleet.dir().join("wish.yaml");
    let policy = "apiVersion: whimbrel.dev/v1\nkind: MigrationPolicy\nmetadata: {name: slow}\n\
                  spec: {channels: 3, selectors: {virtualMachineInstanceSelector: {app: busy}}}\n";
    std::fs::write(&wish, policy).unwrap();
    let (said, _) = fleet.whimbrel(&format!("policy try {}", wish.display()));
    assert!(said.contains("channels unset → 3") && said.contains("1 of 1 instances would change"), "{said}");
    assert!(fleet.whimbrel(&format!("migrate busy --to {there} --detach")).1);
    fleet.wait("vmim", |seen| seen["items"][0]["status"]["phase"] == "Running");
    let (said, is_done) = fleet.whimbrel("cancel busy");
    assert!(is_done && said.contains("busy has not moved: It was cancelled."), "{said}");
    assert!(fleet.whimbrel("cancel busy").0.contains("busy is not being migrated"));
    for (role, may) in [("view", "no"), ("operate", "yes")] {
        let kubeconfig = fleet.dir().join(format!("kubeconfig.{role}"));
        let asked = format!("auth can-i delete vm --kubeconfig {}", kubeconfig.display());
        assert_eq!(String::from_utf8(fleet.run(&asked).stdout).unwrap().trim(), may, "{role}");
        let asked = format!("auth can-i create migrationpolicies --kubeconfig {}", kubeconfig.display());
        assert!(String::from_utf8(fleet.run(&asked).stdout).unwrap().contains("no"), "{role}");
    }
}

#[test]
fn a_migration_whose_time_is_up_arrives_at_the_expense_of_the_guest_where_its_policy_allows_it() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.policy("bandwidthPerMigration: 16Mi\ndeadlineSeconds: 4\nallowWorkloadDisruption: true");
    fleet.machine("50M");
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
    let state = fleet.get("vmim")["items"][0]["status"]["migrationState"].clone();
    assert_eq!(state["mode"], "Paused", "{state:#}");
    fleet.wait("vm/busy", |seen| seen["status"]["printableStatus"] == "Running");
}

#[test]
fn memory_follows_a_machine_where_its_policy_allows_it() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.policy("bandwidthPerMigration: 16Mi\ndeadlineSeconds: 4\nallowPostCopy: true");
    fleet.machine("50M");
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
    let state = fleet.get("vmim")["items"][0]["status"]["migrationState"].clone();
    assert_eq!(state["mode"], "PostCopy", "{state:#}");
    fleet.wait_vmms((1, 1));
}

#[test]
fn a_migration_that_is_deleted_is_cancelled_and_goes() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.slow("4Mi");
    fleet.machine("50M");
    let before = fleet.get("vmi/busy")["status"]["vmm"].clone();
    fleet.migration("m");
    fleet.wait_phase("vmim/m", "Running");
    fleet.kubectl("delete vmim m");
    fleet.wait_vmms((1, 1));
    assert_eq!(fleet.get("vmi/busy")["status"]["vmm"], before);
}

#[test]
fn a_namespace_is_deleted_with_the_machine_that_moves_in_it() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.slow("4Mi");
    fleet.kubectl("create ns lab");
    fleet.kubectl("config set-context --current --namespace=lab");
    fleet.machine("50M");
    fleet.migration("m");
    fleet.wait_phase("vmim/m", "Running");
    fleet.kubectl("delete ns lab");
    fleet.wait_vmms((0, 0));
    assert!(!fleet.kubectl("get ns").contains("lab"));
}
