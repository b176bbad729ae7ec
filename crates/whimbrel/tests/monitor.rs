//! `whimbrel monitor` as a user runs it, against a monitor whose machine exists in memory only.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

// The machine of the monitor's own tests calls the crate by its package's name.
extern crate monitor as whimbrel_monitor;

#[path = "../../monitor/tests/machine/mod.rs"]
#[expect(dead_code, reason = "the monitor's own tests look at more of the machine")]
mod machine;

use std::{path::PathBuf, sync::Arc, time::Duration};

use assert_cmd::Command;
use machine::Machine;
use monitor::{
    Events, Server,
    types::{MigrationStatus, RunState},
};
use tempfile::TempDir;

struct Bench {
    machine: Machine,
    server: Option<Server>,
    folder: TempDir,
}

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let events = Events::new();
        let machine = Machine::new(events.clone());
        let server = Server::bind(&folder.path().join("qmp"), Arc::new(machine.clone()), events).unwrap();
        Self { machine, server: Some(server), folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }

    fn run(&self, arguments: &[&str], typed: &str) -> Output {
        let output = Command::cargo_bin("whimbrel")
            .unwrap()
            .env("XDG_STATE_HOME", self.folder.path())
            .arg("monitor")
            .arg(self.socket())
            .args(arguments)
            .write_stdin(typed)
            .timeout(Duration::from_secs(30))
            .output()
            .unwrap();
        Output {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn one(&self, arguments: &[&str]) -> Output {
        self.run(arguments, "")
    }
}

#[test]
fn one_command_prints_its_result() {
    let bench = Bench::new();
    let cases: [(&[&str], &str); 5] = [
        (&["info", "status"], "VM status: running\n"),
        (&["info name"], "toy\n"),
        (&["query-status"], "{\n  \"running\": true,\n  \"status\": \"running\"\n}\n"),
        (&["--json", "query-status"], "{\"return\":{\"running\":true,\"status\":\"running\"}}\n"),
        (&[r#"{"execute": "query-name", "id": 7}"#], "{\n  \"name\": \"toy\"\n}\n"),
    ];
    for (arguments, expected) in cases {
        let output = bench.one(arguments);
        assert_eq!((output.code, output.stdout.as_str()), (0, expected), "{arguments:?}: {}", output.stderr);
    }
}

#[test]
fn one_command_does_what_it_says_and_is_silent_when_there_is_nothing_to_say() {
    let bench = Bench::new();
    for arguments in [
        &["stop"][..],
        &["migrate_set_parameter", "downtime-limit", "70"],
        &["migrate-set-parameters", "multifd-channels=8", "max-bandwidth=1000000"],
        &["send-key", r#"keys=[{"type": "qcode", "data": "ret"}]"#, "hold-time=1"],
        &["migrate", "-d", "unix:/x"],
    ] {
        let output = bench.one(arguments);
        assert_eq!((output.code, output.stdout.as_str()), (0, ""), "{arguments:?}: {}", output.stderr);
    }
    let state = bench.machine.state();
    assert_eq!(state.status, RunState::Paused);
    let p = &state.parameters;
    assert_eq!((p.downtime_limit, p.multifd_channels, p.max_bandwidth), (70, 8, 1_000_000));
    assert_eq!(state.keys, [28]);
    assert_ne!(state.migration.status, Some(MigrationStatus::None));
}

#[test]
fn a_migration_is_waited_for_and_the_exit_status_tells_whether_the_machine_moved() {
    let bench = Bench::new();
    let failed = bench.one(&["migrate", "tcp:127.0.0.1:1"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""));
    assert!(failed.stderr.contains("The migration failed: Failed to connect"), "{}", failed.stderr);
    let moved = bench.one(&["migrate", "unix:/x"]);
    assert_eq!(moved.code, 0, "{}", moved.stderr);
    assert!(moved.stdout.starts_with("Migration completed in"), "{}", moved.stdout);
    assert_eq!(bench.machine.state().migration.status, Some(MigrationStatus::Completed));
}

#[test]
fn who_stops_waiting_for_a_migration_leaves_it_running_and_is_told() {
    let bench = Bench::new();
    assert_eq!(bench.one(&["migrate_set_capability", "pause-before-switchover", "on"]).code, 0);
    let waiting = std::process::Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
        .arg("monitor")
        .arg(bench.socket())
        .args(["migrate", "unix:/x"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let waits = || bench.machine.state().migration.status == Some(MigrationStatus::PreSwitchover);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !waits() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("The migration goes on"));
    assert!(waits());
}

#[test]
fn ctrl_c_ends_the_tool_when_nothing_is_waited_for_any_more() {
    use std::{
        io::{BufRead as _, Write as _},
        os::unix::process::ExitStatusExt as _,
    };

    let bench = Bench::new();
    let mut tool = std::process::Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
        .arg("monitor")
        .arg(bench.socket())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin.as_mut().unwrap().write_all(b"migrate unix:/x\n").unwrap();
    let said = std::io::BufReader::new(tool.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.starts_with("Migration completed")));
    let pid = rustix::process::Pid::from_child(&tool);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(tool.wait().unwrap().signal(), Some(2));
}

#[test]
fn at_the_prompt_a_migration_that_waits_for_a_command_gives_the_prompt_back() {
    let bench = Bench::new();
    let typed = "migrate_set_capability pause-before-switchover on\nmigrate unix:/x\nmigrate_continue pre-switchover\n";
    let output = bench.run(&[], typed);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains("migrate_continue pre-switchover"), "{}", output.stdout);
}

#[test]
fn a_command_that_fails_says_so_on_the_error_output_and_in_the_exit_status() {
    let bench = Bench::new();
    let cases: [(&[&str], &str); 6] = [
        (&["zork"], "unknown command: 'zork'\n"),
        (&["migrate"], "migrate: an argument is missing\nTry \"help migrate\" for more information\n"),
        (&["balloon", "value=x"], "Error: Invalid parameter type for 'value', expected: integer\n"),
        (&["migrate_set_parameter", "zork", "1"], "Error: invalid parameter value: zork\n"),
        (&["info \"status"], "Error: A quote is left open: close it, or put a backslash before it\n"),
        (&["{\"execute\":"], "Error: "),
    ];
    for (arguments, expected) in cases {
        let output = bench.run(&[&["--timeout", "2"], arguments].concat(), "");
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(output.stderr.contains(expected), "{arguments:?}: {}", output.stderr);
    }
    let output = bench.one(&["--json", "migrate-continue", "state=active"]);
    assert_eq!(output.code, 1);
    assert!(output.stdout.starts_with(r#"{"error":{"class":"GenericError","#), "{}", output.stdout);
}

#[test]
fn a_machine_that_is_not_there_is_an_error_that_names_the_socket() {
    let mut bench = Bench::new();
    bench.server.take().unwrap().shutdown();
    let output = bench.one(&["info", "status"]);
    assert_eq!(output.code, 1);
    let path = bench.socket().display().to_string();
    assert!(
        output.stderr.contains(&path) && output.stderr.contains("is the machine running?"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_file_of_commands_is_done_line_by_line() {
    let bench = Bench::new();
    let output = bench.run(&[], "info status\nstop\ninfo status\n\nhelp stop\n");
    assert_eq!(output.code, 0, "{}", output.stderr);
    let (running, paused) =
        (output.stdout.find("VM status: running"), output.stdout.find("VM status: paused"));
    assert!(running.unwrap() < paused.unwrap());
    assert!(output.stdout.contains("] STOP\n"), "events are shown: {}", output.stdout);
    let output = bench.run(&[], "zork\ninfo status\n");
    assert_eq!(output.code, 1, "one of the lines failed");
    assert!(output.stdout.contains("VM status: paused"), "the others were done");
    assert_eq!(bench.run(&[], "cont\nexit\nzork\n").code, 0, "nothing is done after exit");
}

#[test]
fn quit_from_a_file_ends_the_machine_without_a_question() {
    let bench = Bench::new();
    let output = bench.run(&[], "quit\n");
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(bench.machine.state().quitting);
}
