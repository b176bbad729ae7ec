//! The client against QEMU's own monitor, and our names against QEMU's. Skipped, loudly, where QEMU is not installed.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use support::{Bench, DEADLINE, eventually};
use tempfile::TempDir;
use whimbrel_monitor::{
    Client, ClientError,
    types::{MigrationStatus, RunState},
};

const QEMU: &str = "qemu-system-x86_64";

/// A QEMU without a guest; ended when this is dropped.
struct Qemu {
    process: Child,
    path: PathBuf,
    _folder: TempDir,
}

impl Qemu {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let qmp = format!("unix:{},server=on,wait=off", path.display());
        let arguments = ["-M", "none", "-display", "none", "-nodefaults", "-qmp", &qmp];
        match Command::new(QEMU).args(arguments).stdin(Stdio::null()).spawn() {
            Ok(process) => Some(Self { process, path, _folder: folder }),
            Err(error) => {
                eprintln!("SKIPPED: {QEMU} does not start ({error}), so nothing was compared with it");
                None
            }
        }
    }

    fn client(&self) -> Client {
        let mut client = None;
        eventually("QEMU answers", || {
            client = Client::connect(&self.path, DEADLINE).ok();
            client.is_some()
        });
        client.unwrap()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_client_speaks_to_qemu() {
    let Some(qemu) = Qemu::start() else { return };
    let mut client = qemu.client();
    assert!(client.version().qemu.major >= 5);
    assert_eq!(client.query_status().unwrap().status, RunState::Running);
    client.execute("stop", Value::Null).unwrap();
    assert_eq!(client.events().next(DEADLINE).unwrap().event, "STOP");
    assert_eq!(client.human("info status").unwrap(), "VM status: paused\n");
    assert_eq!(client.query_migrate().unwrap().status, None);
    client.execute("migrate", json!({ "uri": "tcp:127.0.0.1:1" })).unwrap();
    eventually("the migration fails", || {
        client.query_migrate().unwrap().status == Some(MigrationStatus::Failed)
    });
    assert!(client.query_migrate().unwrap().error_desc.unwrap().contains("127.0.0.1:1"));
    client.execute("quit", Value::Null).unwrap();
    eventually("QEMU ends", || {
        matches!(client.execute("query-status", Value::Null), Err(ClientError::Closed))
    });
}

#[test]
fn every_command_is_one_of_qemus_or_says_that_it_is_not() {
    let Some(qemu) = Qemu::start() else { return };
    let names = |mut client: Client| -> BTreeSet<String> {
        let commands = client.execute("query-commands", Value::Null).unwrap();
        commands
            .as_array()
            .unwrap()
            .iter()
            .map(|command| command["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (ours, qemus) = (names(Bench::new().client()), names(qemu.client()));
    let others = ours.difference(&qemus).filter(|name| !name.contains("whimbrel"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The same requests to both, and the same refusals. Where QEMU's words are about its inside, ours differ on purpose.
#[test]
fn what_is_no_request_is_refused_in_qemus_words() {
    let Some(qemu) = Qemu::start() else { return };
    let bench = Bench::new();
    let (mut ours, mut qemus) = (bench.client(), qemu.client());
    for request in [
        r#"{}"#,
        r#"[1, 2]"#,
        r#"{"execute": 5}"#,
        r#"{"execute": "zork", "id": [1]}"#,
        r#"{"execute": "stop", "foo": 1, "id": "x"}"#,
        r#"{"execute": "stop", "arguments": 3}"#,
        r#"{"execute": "qmp_capabilities"}"#,
        r#"{"execute": "query-status", "arguments": {"foo": 1}}"#,
        r#"{"execute": "balloon"}"#,
        r#"{"execute": "balloon", "arguments": {"value": "x"}}"#,
        r#"{"execute": "migrate"}"#,
        r#"{"execute": "migrate-continue", "arguments": {"state": "zork"}}"#,
        r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "events"}]}}"#,
        r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "zork", "state": true}]}}"#,
        r#"{"execute": "send-key", "arguments": {"keys": [{"type": "qcode"}]}}"#,
        r#"{"execute": "send-key", "arguments": {"keys": [{"type": "zork"}]}}"#,
    ] {
        assert_eq!(
            ours.raw(request.as_bytes()).unwrap(),
            qemus.raw(request.as_bytes()).unwrap(),
            "{request}"
        );
    }
}
