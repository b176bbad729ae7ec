//! Nodes are emptied while machines run.

use serde_json::Value;

use super::Fleet;

fn node_of(fleet: &Fleet) -> String {
    fleet.get("vmi/busy")["status"]["nodeName"].as_str().unwrap().to_owned()
}

fn is_cordoned(fleet: &Fleet, node: &str) -> bool {
    fleet.get(&format!("node/{node}"))["spec"]["unschedulable"] == true
}

fn only_drain(fleet: &Fleet) -> Value {
    fleet.get("nodedrains")["items"][0].clone()
}

#[test]
fn a_node_is_planned_emptied_and_taken_into_use_again() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let (here, there) = (node_of(&fleet), if node_of(&fleet) == "node-a" { "node-b" } else { "node-a" });
    let (said, is_done) = fleet.whimbrel(&format!("drain {here} --dry-run --deadline 10m"));
    assert!(
        is_done && said.contains("default/busy") && said.contains("1 of 1 machines move, 1 at a time"),
        "{said}"
    );
    assert!(!is_cordoned(&fleet, &here));
    let question = "apiVersion: whimbrel.dev/v1\nkind: NodeDrainPlan\nmetadata: {name: q}\nspec: {nodes: [FIRST, SECOND]}\n";
    let question = fleet.file("question.yaml", &question.replace("FIRST", &here).replace("SECOND", there));
    let answer: Value =
        serde_json::from_str(&fleet.kubectl(&format!("create -f {question} -o json"))).unwrap();
    assert_eq!(answer["status"]["steps"][0]["targetNode"], there, "{answer:#}");
    assert_eq!(answer["status"]["nodes"][1]["waits"], true, "{answer:#}");
    let (said, is_done) = fleet.whimbrel(&format!("drain {here}"));
    assert!(is_done && said.contains("All nodes were emptied; 1 machines moved."), "{said}\n{}", fleet.log());
    assert!(is_cordoned(&fleet, &here) && node_of(&fleet) == there);
    let drain = only_drain(&fleet);
    assert_eq!((&drain["status"]["phase"], &drain["status"]["moved"]), (&"Succeeded".into(), &1.into()));
    let migrations = format!("vmim -l whimbrel.dev/drain={}", drain["metadata"]["name"].as_str().unwrap());
    assert_eq!(fleet.get(&migrations)["items"].as_array().unwrap().len(), 1);
    fleet.wait_vmms((1, 1));
    let (said, is_done) = fleet.whimbrel(&format!("uncordon {here}"));
    assert!(is_done && said == format!("{here} is in use again\n"), "{said}");
    assert!(!is_cordoned(&fleet, &here));
}

#[test]
fn a_drain_goes_on_where_it_was_when_the_fleet_is_killed_in_its_middle() {
    let Some(mut fleet) = Fleet::start() else { return };
    fleet.slow("16Mi");
    fleet.machine("0");
    let here = node_of(&fleet);
    let (said, is_done) = fleet.whimbrel(&format!("drain {here} --detach"));
    assert!(is_done, "{said}");
    fleet.wait("vmim", |seen| seen["items"][0]["status"]["phase"] == "Running");
    let (said, is_done) = fleet.whimbrel(&format!("uncordon {here}"));
    assert!(!is_done && said.contains("is being emptied by drain-"), "{said}");
    fleet.kill();
    fleet.up();
    let drain = fleet.wait("nodedrains", |seen| seen["items"][0]["status"]["phase"] == "Succeeded");
    assert_eq!(drain["items"][0]["status"]["moved"], 1);
    assert_eq!(fleet.get("vmim")["items"].as_array().unwrap().len(), 1, "it was asked for once");
    assert_ne!(node_of(&fleet), here);
    fleet.wait_vmms((1, 1));
}

#[test]
fn a_drain_comes_to_its_end_though_the_fleet_is_killed_after_every_write() {
    let Some(mut fleet) = Fleet::start() else { return };
    fleet.machine("0");
    let here = node_of(&fleet);
    let drain = fleet.file(
        "drain.yaml",
        &format!(
            "apiVersion: whimbrel.dev/v1\nkind: NodeDrain\nmetadata: {{name: d}}\nspec: {{nodes: [{here}]}}\n"
        ),
    );
    let starts = fleet.while_aborting(|fleet| {
        fleet.insist(&format!("create -f {drain}"), || {
            fleet.get("nodedrain/d")["metadata"]["name"].is_string()
        });
        fleet.wait_phase("nodedrain/d", "Succeeded");
    });
    assert!(starts > 8, "it was killed {starts} times");
    assert_eq!(fleet.get("nodedrain/d")["status"]["moved"], 1);
    assert_eq!(fleet.get("vmim")["items"].as_array().unwrap().len(), 1, "it was asked for once");
    assert!(is_cordoned(&fleet, &here) && node_of(&fleet) != here);
    fleet.wait_vmms((1, 1));
}

#[test]
fn a_drain_is_stopped_resumed_and_given_up_and_kubectl_is_told_what_to_use() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let here = node_of(&fleet);
    let output = fleet.run(&format!("drain {here}"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("`whimbrel drain NODE`"), "{said}");
    assert!(is_cordoned(&fleet, &here));
    assert!(fleet.kubectl(&format!("describe node {here}")).contains("Allocatable:"));
    fleet.kubectl(&format!("uncordon {here}"));
    let drain = format!(
        "apiVersion: whimbrel.dev/v1\nkind: NodeDrain\nmetadata: {{name: d}}\nspec: {{nodes: [{here}], paused: true}}\n"
    );
    fleet.create(&drain);
    fleet.wait_phase("nodedrain/d", "Paused");
    let again =
        fleet.run(&format!("create -f {}", fleet.file("again.yaml", &drain.replace("name: d", "name: e"))));
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("this node is drained already, by d"), "{said}");
    let (said, is_done) = fleet.whimbrel(&format!("drain {here} --cancel"));
    assert!(is_done && said.contains("d is given up"), "{said}");
    fleet.wait_phase("nodedrain/d", "Cancelled");
    assert!(!is_cordoned(&fleet, &here));
    assert_eq!(node_of(&fleet), here);
    fleet.kubectl("delete nodedrain d");
    fleet.create(&drain);
    let (said, is_done) = fleet.whimbrel(&format!("drain {here} --resume"));
    assert!(is_done && said.contains("d goes on"), "{said}");
    fleet.wait_phase("nodedrain/d", "Succeeded");
    assert_ne!(node_of(&fleet), here);
}
