//! `whimbrel bench` as a user runs it, with a small guest. Skipped, loudly, where KVM, QEMU or huge pages are missing.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod programs;

use std::{fs, time::Duration};

use assert_cmd::Command;
use serde_json::Value;

const QEMU: &str = "qemu-system-x86_64";

#[test]
fn both_are_measured_and_everything_is_written_down() {
    let Some(vmm) = programs::vmm() else { return };
    if let Err(error) = std::process::Command::new(QEMU).arg("--version").output() {
        eprintln!("SKIPPED: THE BENCHMARK WAS NOT RUN. Cannot run {QEMU}: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let figures = folder.path().join("figures.json");
    let output = Command::cargo_bin("whimbrel")
        .unwrap()
        .env("TMPDIR", folder.path())
        .args(["bench", "-n", "1", "--memory", "128M", "--work", "8M", "--rate", "10M", "--channels", "1,2"])
        .args(["--head-start", "0,0.1"])
        .arg("--vmm")
        .arg(vmm)
        .arg("--json")
        .arg(&figures)
        .timeout(Duration::from_secs(180))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if stderr.contains("huge pages of 2 MiB, which cannot be had") {
        eprintln!("SKIPPED: THE BENCHMARK WAS NOT RUN. {stderr}");
        return;
    }
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    for expected in [
        "core",
        "1 channel, destination just started",
        "2 channels, destination up for 0.1 s",
        "total time",
        "STOP → RESUME",
        "A bare copy over 2 streams",
        "no faults",
    ] {
        assert!(stdout.contains(expected), "'{expected}' is missing in\n{stdout}");
    }
    let figures: Value = serde_json::from_slice(&fs::read(&figures).unwrap()).unwrap();
    let cases = figures["cases"].as_array().unwrap();
    let measured: Vec<_> = cases.iter().map(|case| case["run"]["case"].clone()).collect();
    let case = |channels: u8, seconds: f64| serde_json::json!({ "channels": channels, "head_start_seconds": seconds, "tls": "off" });
    assert_eq!(measured, [case(1, 0.0), case(1, 0.1), case(2, 0.0), case(2, 0.1)]);
    for (case, contender) in cases.iter().flat_map(|case| ["whimbrel", "qemu"].map(|name| (case, name))) {
        let sample = &case["run"][contender][0];
        assert!(sample["transferred"].as_u64().unwrap() > 100 << 20, "{contender}: {sample}");
        assert!(sample["source_cpu"].as_f64().unwrap() > 0.0, "{contender}: {sample}");
        assert!(sample["stop_to_resume_ms"].as_f64().unwrap() > 0.0, "{contender}: {sample}");
    }
    // Its clocks go on while it stands still, so the guest must have noticed.
    let ours = &cases[0]["run"]["whimbrel"][0];
    let stood_still = ours["stop_to_resume_ms"].as_f64().unwrap();
    assert!(ours["gap_ms"].as_f64().unwrap() >= stood_still * 0.9, "{ours}");
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "only the figures are left");
}

#[test]
fn what_is_compared_with_must_be_there() {
    let Some(vmm) = programs::vmm() else { return };
    let output = Command::cargo_bin("whimbrel")
        .unwrap()
        .args(["bench", "--qemu", "/nonexistent/qemu", "--vmm"])
        .arg(vmm)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("Cannot run /nonexistent/qemu"), "{stderr}");
}
