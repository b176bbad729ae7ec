//! What the program cannot say, on standard error or standard output, costs nothing else.

use std::{
    fs::File,
    process::{Command, Output, Stdio},
};

use monitor::types::RunState;
use serde_json::json;

use crate::harness::{Lab, Spec, Stderr, Story};

/// A machine that moves, fails to move and ends, with logs that go nowhere on both sides.
fn moves_with(stderr: Stderr) {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm().stderr(stderr).flag("--log", "debug");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.migrate("tcp:127.0.0.1:1");
    let reason = source.migration_fails();
    assert!(reason.contains("refused"), "{reason}");
    assert_eq!(source.run_state(), RunState::Running);
    let uri = destination.listen();
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    let next = lab.vacancy(&spec);
    destination.moves_to(&next, &next.listen());
    story.goes_on_at(&next);
    next.command("system_reset", json!({}));
    Story::of(&next).says("whimbrel boot");
    for vmm in [source, destination, next] {
        vmm.command("quit", json!({}));
        assert!(vmm.end().success());
    }
}

#[test]
fn a_machine_moves_though_the_readers_of_the_logs_are_gone() {
    moves_with(Stderr::Gone);
}

#[test]
fn a_machine_moves_though_there_is_no_room_for_the_logs() {
    moves_with(Stderr::Full);
}

#[test]
fn a_machine_moves_though_nobody_reads_the_logs() {
    moves_with(Stderr::Stuck);
}

/// Runs the program with that as standard output.
fn prints_to(stdout: Stdio, flag: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel-vmm"));
    command.args(["--kernel", "x", flag]).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn what_is_printed_for_a_reader_that_has_gone_is_no_error_and_what_finds_no_room_is() {
    for flag in ["--help", "--version", "--print-config"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = prints_to(writer.into(), flag);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{flag}");

        let output = prints_to(File::options().write(true).open("/dev/full").unwrap().into(), flag);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{flag}: {said}");
        assert!(said.contains("No space left on device") && !said.contains("panicked"), "{flag}: {said}");
    }
}
