//! `whimbrel demo` as a user runs it. Those that need KVM are skipped, loudly, where there is none.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod programs;

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use assert_cmd::Command;
use programs::vmm;
use tempfile::TempDir;

/// A whole demo of a small machine takes seconds; on a host that is busy with other tests it takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

struct Output {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The demo with a folder of its own for temporary files, to see that nothing stays in it.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = Command::cargo_bin("whimbrel")
            .unwrap()
            .env("TMPDIR", self.folder.path())
            .arg("demo")
            .args(arguments)
            .timeout(PATIENCE)
            .output()
            .unwrap();
        Output {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        std::process::Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
            .env("TMPDIR", self.folder.path())
            .arg("demo")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The ids of processes whose command line names the folder: the machines' sockets are in it.
    fn machines(&self) -> Vec<u32> {
        let folder = self.folder.path().to_str().unwrap().as_bytes().to_vec();
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let id = entry.unwrap().file_name().to_str()?.parse().ok()?;
            let command_line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
            command_line.windows(folder.len()).any(|window| window == folder).then_some(id)
        });
        processes.collect()
    }

    fn assert_clean(&self) {
        assert_eq!(self.machines(), [0; 0], "machines run on");
        let left: Vec<_> = fs::read_dir(self.folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?} is left behind");
    }
}

const SMALL: [&str; 6] = ["--plain", "--memory", "128M", "--work", "32M", "--rate=50M"];

#[test]
fn a_busy_machine_moves_there_and_back_and_everything_holds() {
    let Some(vmm) = vmm() else { return };
    let bench = Bench::new();
    let logs = tempfile::tempdir().unwrap();
    let more = ["--vmm", vmm.to_str().unwrap(), "--keep-logs", logs.path().to_str().unwrap(), "--channels=3"];
    let output = bench.run(&[&SMALL[..], &more[..]].concat());
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    for expected in [
        "A busy machine moves A → B → A → B → A, the last 2 times by postcopy",
        "Move 1: A → B",
        "Move 2: B → A",
        "Move 3: A → B by postcopy",
        "it ran before its memory was there, and waited for pages",
        "round 1 ",
        "channels: 3",
        "Migration status: completed",
        "errors 0",
        "clocks never backwards",
        "It held: moved 4 times",
    ] {
        assert!(output.stdout.contains(expected), "'{expected}' is missing in\n{}", output.stdout);
    }
    assert!(!output.stdout.contains('\x1b'), "plain output has colours");
    bench.assert_clean();
    let kept: Vec<_> = ["1-A.log", "1-A.serial", "2-B.log", "2-B.serial", "3-A.log", "3-A.serial"]
        .map(|name| fs::metadata(logs.path().join(name)).unwrap().len())
        .to_vec();
    assert!(kept.iter().all(|length| *length > 0), "{kept:?}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let Some(vmm) = vmm() else { return };
    let bench = Bench::new();
    // It would go on for a long time: the bandwidth is less than the guest dirties.
    let more = ["--vmm", vmm.to_str().unwrap(), "--bandwidth=1M"];
    let demo = bench.spawn(&[&SMALL[..], &more[..]].concat());
    let deadline = Instant::now() + PATIENCE;
    while bench.machines().len() < 2 {
        assert!(Instant::now() < deadline, "two machines never ran");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8(output.stderr).unwrap().contains("Interrupted"));
    bench.assert_clean();
}

#[test]
fn a_machine_that_dies_is_reported_with_its_log() {
    if vmm().is_none() {
        return;
    }
    let bench = Bench::new();
    let output = bench.run(&[&SMALL[..], &["--vmm", "/bin/ls"]].concat());
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains("Machine A died (exit status: 2)"), "{}", output.stderr);
    assert!(output.stderr.contains("ls: unrecognized option"), "{}", output.stderr);
    bench.assert_clean();
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_starts() {
    let bench = Bench::new();
    let refused = |arguments: &[&str], reason: &str| {
        let output = bench.run(arguments);
        assert_eq!(output.code, 2, "{}", output.stderr);
        // Without KVM nothing is possible, and that is said first.
        let said = output.stderr.contains(reason) || output.stderr.contains("/dev/kvm");
        assert!(said, "{}", output.stderr);
    };
    refused(&["--vmm", "/nonexistent"], "There is no whimbrel-vmm at /nonexistent");
    refused(
        &["--vmm", "/bin/ls", "--memory", "64M", "--work", "64M"],
        "A working set of 64 MiB does not fit",
    );
    refused(&["--vmm", "/bin/ls", "--memory", "8T"], "Two machines with 8192 GiB need");
    refused(&["--rate", "fast"], "'fast' is no rate");
    refused(&["--hops", "0"], "0 is not in 1..=100");
    refused(&["--channels", "65"], "65 is not in 1..=64");
    refused(&["--fill", "holes"], "possible values: zero, sparse, text, random");
    bench.assert_clean();
}
