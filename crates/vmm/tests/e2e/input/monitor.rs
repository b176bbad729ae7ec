//! Rude clients of the monitor do not reach the machine.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
};

use monitor::types::RunState;
use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE, Spec, Story, Vmm};

/// Sends bytes on a connection of its own, and returns the first line that comes back after the greeting.
fn answer(vmm: &Vmm, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(vmm.monitor_path()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("QMP"));
    // A server that has heard enough may close before it was told all.
    let _ = stream.write_all(bytes);
    lines.next().and_then(Result::ok).unwrap_or_default()
}

#[test]
fn broken_input_is_answered_and_the_machine_runs_on() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let story = Story::of(&vmm);
    story.filled();
    let long = [&b"{\"execute\": \""[..], &vec![b'x'; 100 << 20], b"\"}\n"].concat();
    let deep = b"[".repeat(1 << 20);
    let inputs: [&[u8]; 7] = [
        b"zork\n",
        b"{\"execute\": \"quit\"\n}}}\n",
        b"\xff\xfe\xfd\n",
        b"{\"execute\": 1}\n",
        b"{\"execute\": \"quit\"}\n",
        &deep,
        &long,
    ];
    for input in inputs {
        let answer = answer(&vmm, input);
        assert!(answer.contains("\"error\""), "{:?}: {answer}", &input[..input.len().min(40)]);
    }
    assert_eq!(vmm.run_state(), RunState::Running);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn commands_that_make_no_sense_are_refused_and_the_machine_runs_on() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let story = Story::of(&vmm);
    story.filled();
    let wrong = [
        ("migrate-continue", json!({ "state": "pre-switchover" }), "not in expected state"),
        ("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }), "does not wait for a migration"),
        ("migrate", json!({ "uri": "zork:1" }), "migration protocol"),
        ("migrate", json!({}), "uri"),
        ("balloon", json!({ "value": 0 }), "size"),
        ("migrate-set-parameters", json!({ "multifd-channels": 65 }), "multifd-channels"),
        ("migrate-set-parameters", json!({ "downtime-limit": -1 }), "downtime-limit"),
        (
            "migrate-set-capabilities",
            json!({ "capabilities": [{ "capability": "x-colo", "state": true }] }),
            "x-colo",
        ),
        ("qmp_capabilities", json!({}), "already"),
        ("zork", Value::Null, "zork"),
    ];
    for (command, arguments, expected) in wrong {
        let why = vmm.refused(command, arguments.clone());
        assert!(why.contains(expected), "{command} {arguments}: {why}");
    }
    assert_eq!(vmm.run_state(), RunState::Running);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_destination_that_is_not_there_fails_the_migration_only() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let mut story = Story::of(&vmm);
    story.filled();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("tcp:{}", listener.local_addr().unwrap())
    };
    for (uri, expected) in [
        (closed.as_str(), "refused"),
        ("unix:/nonexistent/socket", "/nonexistent/socket"),
        ("tcp:192.0.2.1:4444", "--insecure"),
        ("tcp:0.0.0.0:4444", "--insecure"),
    ] {
        // Some of it is known at once, some only when it is tried.
        let why = match vmm.client().execute("migrate", json!({ "uri": uri })) {
            Err(error) => {
                format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))
            }
            Ok(_) => String::new(),
        };
        let why = if why.is_empty() { vmm.migration_fails() } else { why };
        assert!(why.contains(expected), "{uri}: {why}");
    }
    assert_eq!(vmm.run_state(), RunState::Running);
    let destination = lab.vacancy(&Spec::calm());
    vmm.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}
