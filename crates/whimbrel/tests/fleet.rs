//! A fleet on this host as a user has it: `whimbrel up`, kubectl, machines on /dev/kvm. Skipped, loudly, without KVM or kubectl.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod programs;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Whatever is waited for takes a second or two; on a host that is busy with other tests it takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// A fleet, and what it takes to drive it. Its machines end with it.
struct Fleet {
    folder: TempDir,
    program: Option<Child>,
}

impl Fleet {
    /// A fleet that is up; `None`, loudly, where there can be none.
    fn start() -> Option<Self> {
        programs::vmm()?;
        if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
            eprintln!("SKIPPED: NO FLEET WAS STARTED. There is no kubectl");
            return None;
        }
        let mut fleet = Self { folder: tempfile::tempdir().unwrap(), program: None };
        fleet.up();
        Some(fleet)
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn up(&mut self) {
        let mut program = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
            .args(["up", "--listen", "127.0.0.1:0", "--keep", "--dir"])
            .arg(self.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.starts_with("The fleet is up: nodes node-a and node-b."), "{first}");
        // What it says further on has a reader, so that it does not fail.
        thread::spawn(move || lines.for_each(drop));
        self.program = Some(program);
    }

    /// Kills control plane and agents at once, without a chance to do anything.
    fn kill(&mut self) {
        let mut program = self.program.take().unwrap();
        program.kill().unwrap();
        program.wait().unwrap();
    }

    fn run(&self, line: &str) -> Output {
        let kubeconfig = self.dir().join("kubeconfig");
        Command::new("kubectl").env("KUBECONFIG", kubeconfig).args(line.split_whitespace()).output().unwrap()
    }

    fn kubectl(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "kubectl {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn get(&self, what: &str) -> Value {
        let output = self.run(&format!("get {what} -o json"));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn create(&self, text: &str) {
        let file = self.dir().join("manifest.yaml");
        fs::write(&file, text).unwrap();
        self.kubectl(&format!("create -f {}", file.display()));
    }

    fn migration(&self, name: &str) {
        self.create(&format!(
            "apiVersion: whimbrel.dev/v1\nkind: VirtualMachineInstanceMigration\nmetadata: {{name: {name}}}\n\
             spec: {{vmiName: busy}}\n"
        ));
    }

    /// Waits until it holds, and returns what was last seen.
    fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(what);
            if holds(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} is {seen:#}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_phase(&self, what: &str, phase: &str) -> Value {
        self.wait(what, |seen| seen["status"]["phase"] == phase)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir().join("whimbrel.log")).unwrap_or_default()
    }

    /// A small machine that dirties some bytes each second.
    fn machine(&self, rate: &str) {
        let example = include_str!("../../../examples/busy.yaml");
        self.create(&example.replace("512Mi", "128Mi").replace("64M rate=50M", &format!("8M rate={rate}")));
        self.wait_phase("vmi/busy", "Running");
    }

    /// A policy that makes a move last; for ever, where more is dirtied than it lets through.
    fn slow(&self, bandwidth: &str) {
        self.create(&format!(
            "apiVersion: whimbrel.dev/v1\nkind: MigrationPolicy\nmetadata: {{name: slow}}\nspec:\n  \
             bandwidthPerMigration: {bandwidth}\n  selectors: {{virtualMachineInstanceSelector: {{app: busy}}}}\n"
        ));
    }

    /// VMMs that run, and folders of VMMs.
    fn vmms(&self) -> (usize, usize) {
        let is_ours = |path: &Path| path.starts_with(self.dir());
        let running = node::running().keys().filter(|path| is_ours(path)).count();
        let folders =
            ["node-a", "node-b"].map(|name| node::vmm_folders(&self.dir().join(name)).unwrap().len());
        (running, folders.iter().sum())
    }

    fn wait_vmms(&self, wanted: (usize, usize)) {
        let deadline = Instant::now() + PATIENCE;
        while self.vmms() != wanted {
            assert!(Instant::now() < deadline, "{:?}, not {wanted:?}\n{}", self.vmms(), self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            // It may have ended by itself.
            let _ = program.kill();
            let _ = program.wait();
        }
        for (_, process) in
            node::running().into_iter().filter(|(path, _)| path.starts_with(self.folder.path()))
        {
            let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn a_machine_starts_moves_and_goes_and_leaves_nothing_but_the_record() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.machine("50M");
    let before = fleet.get("vmi/busy");
    let moved = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
        .args(["migrate", "busy", "--kubeconfig"])
        .arg(fleet.dir().join("kubeconfig"))
        .output()
        .unwrap();
    let said = String::from_utf8(moved.stdout).unwrap();
    assert!(moved.status.success() && said.contains("busy runs on node-"), "{said}\n{}", fleet.log());
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
    for (_, process) in node::running().into_iter().filter(|(path, _)| path.starts_with(fleet.dir())) {
        let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    }
    fleet.wait_phase("vmi/busy", "Failed");
    fleet.wait("vmi/busy", |seen| seen["metadata"]["uid"].is_string() && seen["metadata"]["uid"] != first);
    fleet.wait_phase("vmi/busy", "Running");
    fleet.wait_vmms((1, 1));
}
