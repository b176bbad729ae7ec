//! `whimbrel soak` and `whimbrel proxy` as a user runs them. Those that need KVM are skipped, loudly, where there is none.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod programs;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::Stdio,
    time::Duration,
};

use assert_cmd::Command;
use programs::vmm;
use serde_json::Value;

/// Attempts of less than a second each, on a host that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(240);

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("whimbrel").unwrap();
    let output = command.args(arguments).timeout(PATIENCE).output().unwrap();
    Output {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn faulted_migrations_leave_one_whole_guest_and_are_counted() {
    if vmm().is_none() {
        return;
    }
    let json = tempfile::NamedTempFile::new().unwrap();
    let path = json.path().to_str().unwrap();
    let output =
        run(&["soak", "--attempts", "8", "--pairs", "2", "--seed", "11", "--slow", "0", "--json", path]);
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json.path()).unwrap()).unwrap();
    assert_eq!((&report["attempts"], &report["holds"]), (&8.into(), &true.into()), "{report}");
    let outcomes = report["outcomes"].as_object().unwrap().values();
    assert_eq!(outcomes.map(|count| count.as_u64().unwrap()).sum::<u64>(), 8);
    assert!(!report["coverage"].as_array().unwrap().is_empty());
    assert!(output.stdout.contains("Guest errors: 0. Double runs: 0."), "{}", output.stdout);
}

#[test]
fn an_attempt_can_be_made_again_with_all_that_passes() {
    if vmm().is_none() {
        return;
    }
    let again = ["soak", "--repeat", "1f00c0ffee000003", "--fault", "kill=destination@control:before:ready"];
    let output = run(&[&again[..], &["--tls", "off"]].concat());
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    for expected in [
        "1f00c0ffee000003 kill=destination@control:before:ready",
        "control   -> complete",
        "!! kill=destination@control:before:ready (at ready)",
    ] {
        assert!(output.stdout.contains(expected), "'{expected}' is not in\n{}", output.stdout);
    }
    let output = run(&[&again[..], &["--tls", "on"]].concat());
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    for expected in [
        ", encrypted",
        "control   -> switchover",
        "control   -> encrypted, switchover",
        "!! kill=destination@control:before:ready (at ready)",
        "1 attempts (1 encrypted)",
    ] {
        assert!(output.stdout.contains(expected), "'{expected}' is not in\n{}", output.stdout);
    }
    assert!(!output.stdout.contains("-> hello"), "{}", output.stdout);
}

#[test]
fn a_bit_that_flips_on_an_encrypted_connection_ends_it_without_a_digest() {
    if vmm().is_none() {
        return;
    }
    for place in ["channels:to-destination:rounds:300000", "control:to-destination:switchover:700"] {
        let fault = format!("flip=3@{place}");
        let mut arguments = vec!["soak", "--pairs", "1", "--attempts", "3", "--seed", "1"];
        arguments.extend(["--digest", "off", "--tls", "on", "--postcopy", "off"]);
        arguments.extend(["--verbose", "--fault", &fault]);
        let output = run(&arguments);
        assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
        assert!(output.stdout.contains("3 attempts (3 encrypted), 3 rolled back,"), "{}", output.stdout);
        assert!(output.stdout.contains("3 good migrations after faults"), "{}", output.stdout);
    }
}

#[test]
fn a_machine_whose_memory_follows_it_survives_what_leaves_both_processes_alive() {
    if vmm().is_none() {
        return;
    }
    for fault in [
        "reset@control:after:ready",
        "cut-all@urgent:after:request#2",
        "reset-all@channels:in:pushed#3+100000",
        "cut@control:before:whole",
        "cut@control:before:bye",
        "kill=source@channels:after:pushed#3",
        "kill=destination@channels:after:pushed#3",
    ] {
        let mut arguments = vec!["soak", "--pairs", "1", "--attempts", "2", "--seed", "2"];
        arguments.extend(["--tls", "off", "--postcopy", "on", "--fault", fault]);
        let output = run(&arguments);
        assert_eq!(output.code, 0, "{fault}: {}\n{}", output.stdout, output.stderr);
        let is_lost = output.stdout.contains(" lost,");
        assert!(!is_lost || fault.starts_with("kill"), "{fault}: {}", output.stdout);
    }
}

#[test]
fn a_guest_that_is_not_whole_is_found() {
    if vmm().is_none() {
        return;
    }
    // Without the digest nothing but the guest notices. It mends what it rewrites, and a frame may be shorter: with a flip in
    // each of several MiB, some are left for it to find.
    let fault = |nth| ["--fault".to_owned(), format!("flip=3@channels:in:pages#{nth}+300000")];
    let flips: Vec<_> = (1..=8).flat_map(fault).collect();
    let mut arguments = vec!["soak", "--pairs", "1", "--attempts", "3", "--seed", "1", "--digest", "off"];
    arguments.extend(flips.iter().map(String::as_str));
    let output = run(&arguments);
    assert_eq!(output.code, 1, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("\n  Guest: "), "{}", output.stdout);
}

#[test]
fn what_is_no_fault_is_refused_before_anything_starts() {
    for command in [&["soak"][..], &["proxy", "unix:/tmp/a", "unix:/tmp/b"]] {
        let output = run(&[command, &["--fault", "cut@control:before:dinner"]].concat());
        assert_eq!(output.code, 2);
        assert!(output.stderr.contains("names a frame that does not exist"), "{}", output.stderr);
    }
}

#[test]
fn a_proxy_needs_to_be_told_whom_to_kill_and_stays_on_this_host() {
    for (arguments, expected) in [
        (
            vec!["unix:/tmp/a", "unix:/tmp/b", "--fault", "kill=source@control:before:go"],
            "name it with --source",
        ),
        (vec!["tcp:127.0.0.1:0", "tcp:192.0.2.7:4444"], "allow it with --insecure"),
    ] {
        let output = run(&[&["proxy"], &arguments[..]].concat());
        assert_eq!(output.code, 1);
        assert!(output.stderr.contains(expected), "{}", output.stderr);
    }
}

#[test]
fn a_proxy_carries_and_says_what_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let listener = UnixListener::bind(&there).unwrap();
    let mut proxy = std::process::Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
        .arg("proxy")
        .args([&here, &there].map(|path| format!("unix:{}", path.display())))
        .args(["--fault", "cut@any:to-destination:byte:5"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(proxy.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, format!("Listening at unix:{}\n", here.display()));
    let mut source = UnixStream::connect(&here).unwrap();
    source.write_all(b"no migration").unwrap();
    source.shutdown(std::net::Shutdown::Write).unwrap();
    let mut arrived = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut arrived).unwrap();
    assert_eq!(arrived, b"no mi");
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("!! cut@any:to-destination:byte:5"), "{line}");
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}
