//! Migrations on a network of their own. Every address that begins with 127 is one of this host.

use serde_json::Value;

use super::{
    Fleet,
    join::{Service, node},
};

const NETWORK: &str = "127.0.9.0/24";
const SETTINGS: &str = "apiVersion: whimbrel.dev/v1\nkind: Fleet\nmetadata: {name: fleet}\n\
                        spec: {configuration: {migrations: {network: 127.0.9.0/24}}}\n";

/// A node's word on whether it is on the network, and the address at which machines come to it.
fn word(node: &Value) -> (String, Option<String>) {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|one| one["type"] == "MigrationNetworkUnavailable");
    let annotations = &node["metadata"]["annotations"];
    let heard = annotations["whimbrel.dev/migration-network"] == NETWORK;
    let status = found.and_then(|one| one["status"].as_str().map(str::to_owned)).filter(|_| heard);
    let address = annotations["whimbrel.dev/migration-address"].as_str();
    (status.unwrap_or_default(), address.map(str::to_owned))
}

/// Where a migration went.
fn address_of(migration: &Value) -> &str {
    migration["status"]["migrationState"]["targetNodeAddress"].as_str().unwrap_or_default()
}

#[test]
fn machines_move_on_the_network_of_migrations_and_wait_while_a_node_is_not_on_it() {
    let Some(fleet) = Fleet::prepare() else { return };
    let dir = fleet.dir().display().to_string();
    let _plane = Service::start(&["controlplane", "--dir", &dir, "--listen", "127.0.0.1:0"]);
    let ticket = fleet.dir().join("ticket").display().to_string();
    let join = |name: &str, address: &str| {
        node(fleet.dir(), name, &["--name", name, "--address", address, "--join", &ticket])
    };
    let (_one, two) = (join("node-a", "127.0.9.1"), join("node-b", "127.0.0.1"));
    fleet.wait("nodes", |seen| seen["items"].as_array().is_some_and(|nodes| nodes.len() == 2));
    fleet.kubectl("cordon node-b");
    fleet.machine("50M");
    fleet.kubectl("uncordon node-b");
    fleet.create(SETTINGS);
    let wrong = r#"patch fleet fleet --type=merge -p {"spec":{"configuration":{"migrations":{"network":"127.0.9.1/24"}}}}"#;
    let refused = fleet.run(wrong);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("migrations.network") && said.contains("say 127.0.9.0/24"), "{said}");
    // One node is on it by the address that it has anyway, the other one is not.
    fleet.wait("node/node-a", |seen| word(seen) == ("False".to_owned(), Some("127.0.9.1".to_owned())));
    fleet.wait("node/node-b", |seen| word(seen) == ("True".to_owned(), None));
    let (said, is_done) = fleet.whimbrel("plan busy");
    let why = format!("it has no address in the network of migrations {NETWORK}");
    assert!(!is_done && said.contains(&why), "{said}");
    fleet.migration("m");
    let waits = |seen: &Value| {
        let conditions = seen["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let why = |one: &Value| one["message"].as_str().is_some_and(|message| message.contains(&why));
        conditions.iter().any(|one| one["type"] == "Scheduled" && one["status"] == "False" && why(one))
    };
    fleet.wait("vmim/m", waits);
    // What is said at the host counts for more than the settings.
    drop(two);
    let _two = node(fleet.dir(), "node-b", &["--migration-address", "127.0.10.2"]);
    let moved = fleet.wait_phase("vmim/m", "Succeeded");
    assert!(address_of(&moved).starts_with("tcp:127.0.10.2:"), "{moved:#}");
    fleet.wait_vmms((1, 1));
    fleet.migration("back");
    let moved = fleet.wait_phase("vmim/back", "Succeeded");
    assert!(address_of(&moved).starts_with("tcp:127.0.9.1:"), "{moved:#}");
    // Without a network machines come to nodes as before.
    fleet.kubectl("delete fleet fleet");
    fleet.wait("node/node-a", |seen| {
        seen["metadata"]["annotations"]["whimbrel.dev/migration-network"].is_null()
    });
}
