//! A fleet of services: a control plane, and hosts that join.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use super::Fleet;

/// A program that runs until it is dropped, and the first line that it said.
pub(crate) struct Service {
    child: Child,
    said: String,
}

impl Service {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.next().map(Result::unwrap).unwrap_or_default();
        // What it says further on has a reader, so that it does not fail.
        thread::spawn(move || lines.for_each(drop));
        Self { child, said }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent of a node of that name.
pub(crate) fn node(directory: &Path, name: &str, more: &[&str]) -> Service {
    let folder = directory.join(name).display().to_string();
    Service::start(&[&["node", "--port", "0", "--dir", &folder], more].concat())
}

#[test]
fn hosts_join_with_a_ticket_and_machines_move_between_them() {
    let Some(fleet) = Fleet::prepare() else { return };
    let dir = fleet.dir().display().to_string();
    let plane = Service::start(&["controlplane", "--dir", &dir, "--listen", "127.0.0.1:0"]);
    assert!(plane.said.starts_with("The control plane is up at 127.0.0.1:"), "{}", plane.said);
    let ticket = fleet.dir().join("ticket").display().to_string();
    let join = |name| node(fleet.dir(), name, &["--name", name, "--address", "127.0.0.1", "--join", &ticket]);
    let (one, two) = (join("node-a"), join("node-b"));
    assert!(one.said.starts_with("Node node-a is up."), "{}", one.said);
    fleet.wait("nodes", |seen| seen["items"].as_array().is_some_and(|nodes| nodes.len() == 2));
    let again = fleet.dir().join("again").display().to_string();
    let taken = format!("node --dir {again} --name node-a --address 127.0.0.1 --join {ticket}");
    let (said, is_done) = fleet.whimbrel(&taken);
    assert!(!is_done && said.contains("there is a node node-a already"), "{said}");
    fleet.machine("50M");
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
    fleet.wait_vmms((1, 1));
    let namespace = "/apis/whimbrel.dev/v1/namespaces/default";
    let log = || fleet.run(&format!("get --raw {namespace}/virtualmachineinstances/busy/log"));
    assert!(String::from_utf8_lossy(&log().stdout).contains("whimbrel"), "{:?}", log());
    let record = fleet.get("vmim")["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let report =
        fleet.kubectl(&format!("get --raw {namespace}/virtualmachineinstancemigrations/{record}/report"));
    assert!(report.contains("\"outcome\": \"completed\""), "{report}");
    // An agent that is gone is said to be.
    drop((one, two));
    let said = String::from_utf8(log().stderr).unwrap();
    assert!(said.contains("the agent of node node-") && said.contains("refused"), "{said}");
    // The control plane goes as well, and comes back; the machine does not notice.
    drop(plane);
    std::fs::remove_file(&ticket).unwrap();
    assert_eq!(fleet.vmms().0, 1);
    let _plane = Service::start(&["controlplane", "--dir", &dir, "--listen", "127.0.0.1:0"]);
    assert_eq!(fleet.get("vmi/busy")["status"]["phase"], "Running");
    assert_eq!(fleet.get("nodes")["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_node_that_is_removed_comes_back_by_the_ticket_alone() {
    let Some(fleet) = Fleet::prepare() else { return };
    let dir = fleet.dir().display().to_string();
    let _plane = Service::start(&["controlplane", "--dir", &dir, "--listen", "127.0.0.1:0"]);
    let ticket = fleet.dir().join("ticket").display().to_string();
    let join = |folder: &str, name: &str| {
        node(fleet.dir(), folder, &["--name", name, "--address", "127.0.0.1", "--join", &ticket])
    };
    let (_one, two) = (join("node-a", "node-a"), join("node-b", "node-b"));
    fleet.wait("nodes", |seen| seen["items"].as_array().is_some_and(|nodes| nodes.len() == 2));
    fleet.kubectl("cordon node-b");
    fleet.machine("50M");
    let kept = fleet.run("delete node node-a");
    let said = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(!kept.status.success() && said.contains("default/busy"), "{said}");
    fleet.kubectl("delete node node-b");
    // Its agent goes on, and is nobody any more.
    let by_it = fleet.run(&format!("get nodes --kubeconfig {dir}/node-b/kubeconfig"));
    assert!(!by_it.status.success(), "{by_it:?}");
    drop(two);
    let back = node(fleet.dir(), "node-b", &[]);
    let list = fleet.dir().join("node-a/tls/ca-crl.pem");
    let deadline = std::time::Instant::now() + super::site::PATIENCE;
    while !list.exists() {
        assert!(std::time::Instant::now() < deadline, "the other node does not hear of it");
        thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(fleet.get("nodes")["items"].as_array().unwrap().len(), 1, "it is back");
    drop(back);
    let _again = join("node-c", "node-b");
    fleet.wait("nodes", |seen| seen["items"].as_array().is_some_and(|nodes| nodes.len() == 2));
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
}
