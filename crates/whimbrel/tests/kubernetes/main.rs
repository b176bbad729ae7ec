//! The fleet on Kubernetes: the same controllers and agents, an API server that is not ours, machines on /dev/kvm. Skipped, loudly, where
//! nobody has made the server (`make test-kubernetes`), or without KVM.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[path = "../programs/mod.rs"]
mod programs;

mod cluster;
mod conflicts;
mod console;
mod line;
mod site;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use programs::vmm;
use serde_json::{Value, json};
use site::Site;

#[test]
fn a_fleet_on_kubernetes_runs_moves_and_outlives_its_leader_and_its_server() {
    let Some(mut site) = Site::start() else { return };
    starts(&site);
    moves(&site);
    is_in_the_logs_of_all_by_one_id(&site);
    has_figures_of_who_leads(&site);
    console::shows_what_whoever_asks_may_see(&site);
    goes_on_under_another_leader(&mut site);
    goes_on_under_another_server(&mut site);
    goes_on_over_a_bad_line(&site);
    goes_on_although_every_write_conflicts(&mut site);
    a_node_is_emptied_while_its_leader_is_killed(&mut site);
    agents_find_their_machines(&mut site);
    what_an_older_release_has_stored_is_read(&site);
    what_nobody_checked_is_not_acted_on(&site);
    leaves_nothing(&site);
}

/// A small machine that dirties some bytes each second.
fn machine() -> String {
    let example = include_str!("../../../../examples/busy.yaml");
    example.replace("512Mi", "128Mi").replace("64M rate=50M", "8M rate=50M")
}

fn migration(name: &str) -> String {
    format!(
        "apiVersion: whimbrel.dev/v1\nkind: VirtualMachineInstanceMigration\nmetadata: {{name: {name}}}\n\
         spec: {{vmiName: busy}}\n"
    )
}

/// With it a migration of the machine gets nowhere for 20 seconds, and then comes to its end because the controllers say so.
const SLOW: &str = "apiVersion: whimbrel.dev/v1\nkind: MigrationPolicy\nmetadata: {name: slow}\nspec: {\n  \
    selectors: {virtualMachineInstanceSelector: {app: busy}},\n  \
    bandwidthPerMigration: 16Mi, deadlineSeconds: 20, allowWorkloadDisruption: true}\n";

fn starts(site: &Site) {
    site.cluster.create(&machine());
    site.cluster.wait_phase("vmi/busy", "Running");
    site.cluster.wait("vm/busy", |seen| seen["status"]["printableStatus"] == "Running");
    let table = site.cluster.kubectl("get vm,vmi");
    for heading in ["STATUS", "READY", "PHASE", "NODENAME"] {
        assert!(table.contains(heading), "{table}");
    }
}

fn moves(site: &Site) {
    let before = site.cluster.get("vmi/busy");
    let (said, is_done) = site.whimbrel("migrate busy");
    assert!(is_done && said.contains("busy runs on node-"), "{said}\n{}", site.cluster.logs());
    let after =
        site.cluster.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before["status"]["nodeName"]);
    assert_eq!((&after["metadata"]["uid"], &after["spec"]), (&before["metadata"]["uid"], &before["spec"]));
    let record = site.cluster.get("vmim")["items"][0].clone();
    let state = &record["status"]["migrationState"];
    assert_eq!(record["status"]["phase"], "Succeeded");
    assert!(state["result"]["downtime"]["totalMs"].is_u64(), "{state:#}");
    site.wait_vmms((1, 1));
    // A machine is refused the node that it is on, and a plan says why: that needs no server of ours.
    let there = after["status"]["nodeName"].as_str().unwrap();
    let (said, is_done) = site.whimbrel(&format!("plan busy --to {there}"));
    assert!(!is_done && said.contains("the machine runs there"), "{said}");
}

/// A migration is under way when the leader is killed; the other one takes over and closes it.
fn goes_on_under_another_leader(site: &mut Site) {
    site.cluster.create(SLOW);
    site.cluster.create(&migration("leader"));
    site.cluster.wait_phase("vmim/leader", "Running");
    let killed = site.kill_leader();
    let record = site.cluster.wait_phase("vmim/leader", "Succeeded");
    assert_eq!(record["status"]["migrationState"]["migrationPolicyName"], "slow");
    assert_ne!(site.leader(), killed);
    // What the one that was killed had counted is there, and what came to its end under the other.
    site.wait_figure("whimbrel_migrations_total{outcome=\"Succeeded\",reason=\"\"} 2");
    site.start_controllers(&killed);
    // Who is asked to end gives the lease back, so that nobody waits for it to run out.
    let ended = site.end_leader();
    site.cluster.wait("lease/whimbrel-controllers --namespace whimbrel", |seen| {
        seen["spec"]["holderIdentity"].as_str().is_some_and(|holder| holder.starts_with(&killed))
    });
    site.start_controllers(&ended);
    site.wait_vmms((1, 1));
}

/// The server is killed while memory moves. Agents and controllers wait for it, and what has happened meanwhile is told.
fn goes_on_under_another_server(site: &mut Site) {
    let before = site.cluster.get("vmi/busy");
    site.cluster.create(&migration("server"));
    site.cluster.wait_phase("vmim/server", "Running");
    site.cluster.kill_server();
    assert_eq!(site.vmms().0, 2);
    site.cluster.start_server();
    site.cluster.wait_phase("vmim/server", "Succeeded");
    let after =
        site.cluster.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before["status"]["nodeName"]);
    assert_eq!(after["status"]["phase"], "Running");
    site.wait_vmms((1, 1));
    site.cluster.kubectl("delete migrationpolicy slow");
}

/// Every connection to the server is cut after a second, watches too, and what it sends is late; somebody writes the same objects all the
/// time, so that most writes are overtaken.
fn goes_on_over_a_bad_line(site: &Site) {
    site.cluster.line.harm(true);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                // Some are overtaken themselves.
                site.cluster.run(&format!("annotate vmi,vmim --all --overwrite example.org/number={number}"));
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let before = site.cluster.get("vmi/busy")["status"]["nodeName"].clone();
            site.cluster.create(&migration("line"));
            site.cluster.wait_phase("vmim/line", "Succeeded");
            site.cluster.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before);
        }));
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
    site.cluster.line.harm(false);
    site.wait_vmms((1, 1));
}

/// Everybody calls a migration by its UID.
fn is_in_the_logs_of_all_by_one_id(site: &Site) {
    let record = site.cluster.get("vmim")["items"][0].clone();
    let uid = record["metadata"]["uid"].as_str().unwrap();
    let logs = site.logs();
    let of = |part: &str| -> Vec<Value> {
        let lines = logs.iter().filter(|(path, _)| path.contains(part)).flat_map(|(_, text)| text.lines());
        lines.filter(|line| line.contains(uid)).filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let says = |lines: &[Value], what: &str| {
        lines.iter().any(|line| {
            line["message"].as_str().is_some_and(|said| said.contains(what))
                && line["span"]["name"] == "migration"
                && line["span"]["id"] == uid
        })
    };
    let source = record["status"]["migrationState"]["sourceNode"].as_str().unwrap();
    let target = record["status"]["migrationState"]["targetNode"].as_str().unwrap();
    for (part, what) in [
        ("controllers-".to_owned(), "Runs on node"),
        (format!("{source}.log"), "The engine has begun"),
        (format!("{target}.log"), "A VMM was started"),
        // The source's VMM and its log have gone by now.
        (format!("{target}.d/vmms"), "A source offers a machine"),
        (format!("{target}.d/vmms"), "The incoming migration is over"),
    ] {
        let lines = of(&part);
        assert!(
            says(&lines, what),
            "{what} is not said of {uid} in {part}: {lines:#?}\n{}",
            site.cluster.logs()
        );
    }
    let state = &record["status"]["migrationState"];
    assert_eq!(state["result"]["session"], uid, "{state:#}");
}

fn has_figures_of_who_leads(site: &Site) {
    site.wait_figure("whimbrel_migrations_total{outcome=\"Succeeded\",reason=\"\"} 1");
    let (leader, all) = (site.leader(), site.figures());
    for (name, text) in all {
        let leads = u8::from(name == leader);
        assert!(text.contains(&format!("\nwhimbrel_controllers_leading {leads}\n")), "{name}: {text}");
        assert_eq!(text.contains("whimbrel_node_ready{node=\"node-a\"} 1"), name == leader, "{name}: {text}");
    }
}

/// Every write is refused, then done and refused all the same, and only then done and said to be.
fn goes_on_although_every_write_conflicts(site: &mut Site) {
    let ways = site.conflict();
    let before = site.cluster.get("vmi/busy")["status"]["nodeName"].clone();
    site.cluster.create(&migration("conflicts"));
    site.cluster.wait_phase("vmim/conflicts", "Succeeded");
    site.cluster.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before);
    site.wait_vmms((1, 1));
    for (way, _) in &ways {
        assert!(way.refused() > 5, "{} writes were refused", way.refused());
    }
    site.straighten();
}

/// One drain empties the node where the machine is, with the leader killed while it moves.
fn a_node_is_emptied_while_its_leader_is_killed(site: &mut Site) {
    site.cluster.create(SLOW);
    let here = site.cluster.get("vmi/busy")["status"]["nodeName"].as_str().unwrap().to_owned();
    let (said, is_done) = site.whimbrel(&format!("drain {here} --dry-run"));
    assert!(is_done && said.contains("1 of 1 machines move"), "{said}");
    let (said, is_done) = site.whimbrel(&format!("drain {here} --detach"));
    assert!(is_done, "{said}");
    site.cluster
        .wait("vmim --selector whimbrel.dev/drain", |seen| seen["items"][0]["status"]["phase"] == "Running");
    site.wait_figure(&format!("whimbrel_node_schedulable{{node=\"{here}\"}} 0"));
    let killed = site.kill_leader();
    let seen = site.cluster.wait("nodedrains", |seen| seen["items"][0]["status"]["phase"] == "Succeeded");
    assert_eq!(seen["items"][0]["status"]["moved"], 1, "{seen:#}");
    let made = site.cluster.get("vmim --selector whimbrel.dev/drain");
    assert_eq!(made["items"].as_array().map(Vec::len), Some(1), "it was asked for once: {made:#}");
    assert_eq!(site.cluster.get(&format!("node/{here}"))["spec"]["unschedulable"], true);
    site.start_controllers(&killed);
    // One that cannot be is stored by this server, and refused by who acts on it.
    site.cluster.create(
        "apiVersion: whimbrel.dev/v1\nkind: NodeDrain\nmetadata: {name: typo}\nspec: {nodes: [nowhere]}\n",
    );
    let seen = site.cluster.wait_phase("nodedrain/typo", "Failed");
    assert!(
        seen["status"]["conditions"][0]["message"].as_str().unwrap().contains("there is no such node"),
        "{seen:#}"
    );
    let (said, is_done) = site.whimbrel(&format!("uncordon {here}"));
    assert!(is_done, "{said}");
    site.cluster.kubectl("delete migrationpolicy slow");
    site.cluster.kubectl("delete nodedrains --all");
    site.wait_vmms((1, 1));
}

fn agents_find_their_machines(site: &mut Site) {
    let before = site.cluster.get("vmi/busy")["status"]["vmm"].clone();
    site.replace_agents();
    let (said, is_done) = site.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", site.cluster.logs());
    assert_ne!(site.cluster.get("vmi/busy")["status"]["vmm"], before);
    site.wait_vmms((1, 1));
}

/// Policies that were stored in a version which the definitions say no more: one that is understood holds, and one that is not hides no other.
fn what_an_older_release_has_stored_is_read(site: &Site) {
    let own = site.cluster.get("crd/migrationpolicies.whimbrel.dev");
    let definition = |stores_old: bool| {
        let mut definition = own.clone();
        definition["metadata"] = json!({ "name": own["metadata"]["name"] });
        definition["status"] = Value::Null;
        let versions = definition["spec"]["versions"].as_array_mut().unwrap();
        versions[0]["storage"] = (!stores_old).into();
        versions.push(json!({
            "name": "v1alpha1", "served": stores_old, "storage": stores_old,
            "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
        }));
        definition.to_string()
    };
    site.cluster.create(&definition(true));
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: whimbrel.dev/v1alpha1\nkind: MigrationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let old = "{selectors: {virtualMachineInstanceSelector: {app: busy}}, bandwidthPerMigration: 256Mi, colour: red}";
    // The server learns of a version in its own time.
    site.cluster.insist(&policy("old", old));
    site.cluster.insist(&policy("odd", "{selectors: [app], bandwidthPerMigration: {much: true}}"));
    site.cluster.create(&definition(false));
    site.cluster.wait("migrationpolicy/old", |seen| seen["apiVersion"] == "whimbrel.dev/v1");
    site.cluster.create(&migration("old"));
    let record = site.cluster.wait_phase("vmim/old", "Succeeded");
    assert_eq!(record["status"]["migrationState"]["migrationPolicyName"], "old", "{record:#}");
    site.wait_logged("An object is not understood");
    site.cluster.kubectl("delete migrationpolicy old odd");
    site.wait_vmms((1, 1));
}

/// The server knows schemas and no more. What it lets through says why nothing is done for it.
fn what_nobody_checked_is_not_acted_on(site: &Site) {
    let odd = machine().replace("name: busy", "name: odd").replace("128Mi", "129Mi");
    site.cluster.create(&odd);
    let seen = site.cluster.wait("vm/odd", |seen| seen["status"]["conditions"][0]["reason"] == "Invalid");
    let message = seen["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("domain.memory.guest"), "{message}");
    assert!(site.cluster.get("vmi/odd").is_null(), "it has an instance");
    site.cluster.kubectl("delete vm odd --wait=false");
    // What the schema says is the server's to refuse.
    let (said, is_done) = site.cluster.apply(&machine().replace("Always", "Sometimes"));
    assert!(!is_done && said.contains("runStrategy"), "{said}");
    // Of two migrations of one machine the first goes on, for longer than it takes a slow host to look at the second.
    site.cluster.create(&SLOW.replace("deadlineSeconds: 20", "deadlineSeconds: 300"));
    site.cluster.create(&migration("first"));
    site.cluster.wait_phase("vmim/first", "Running");
    site.cluster.create(&migration("second"));
    let second = site.cluster.wait_phase("vmim/second", "Failed");
    let why = second["status"]["migrationState"]["failureReason"].as_str().unwrap();
    assert!(why.contains("migrated already, by first"), "{why}");
    // To delete a migration that goes on is to cancel it, and it stays until it is over.
    site.cluster.kubectl("delete vmim first");
    site.wait_vmms((1, 1));
}

fn leaves_nothing(site: &Site) {
    site.cluster.kubectl("delete vm --all");
    site.wait_vmms((0, 0));
    site.cluster.wait("vmi", |seen| seen["items"].as_array().is_some_and(Vec::is_empty));
}
