//! `whimbrel compare` as a user runs it, with small guests. Skipped, loudly, where there is no KVM.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod programs;

use std::{
    fs,
    path::Path,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use assert_cmd::{Command, cargo::cargo_bin};
use serde_json::Value;

/// One scenario once, with the smallest guest, on a link that every host has.
const SMALL: [&str; 8] = ["compare", "--scenarios", "S3", "-n", "1", "--scale", "1/40,1/50", "--vmm"];

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("whimbrel").unwrap();
    command.env("TMPDIR", folder).args(arguments).timeout(Duration::from_secs(180)).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn ours_alone_is_measured_where_there_is_no_qemu_and_shown_again() {
    let Some(vmm) = programs::vmm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, html, picture) = (file("a.json"), file("a.html"), file("a.svg"));
    let vmm = vmm.to_str().unwrap();
    let files = ["--qemu", "/nonexistent/qemu", "--json", &json, "--html", &html, "--picture", &picture];
    let output = run(folder.path(), &[&SMALL[..], &[vmm], &files].concat());
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{complained}");
    for expected in ["/nonexistent/qemu", "total time, s", "video stuck", "chose: ", "Published figures"] {
        assert!(said.contains(expected), "'{expected}' is missing in\n{said}");
    }
    let figures: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let runs = figures["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 4, "{said}");
    // Only root has a network between hosts.
    let has_users = !said.contains("Users have no network");
    for run in runs {
        assert_eq!(run["outcome"], "completed", "{said}");
        let count = |name: &str| run["trace"][name].as_array().unwrap().len();
        assert!(count("wire") > 100 && count("work") > 10, "{said}");
        let watched = [("pings_10ms", 100), ("frames_25", 30), ("frames_60", 80), ("stream", 100)];
        assert!(!has_users || watched.iter().all(|(name, least)| count(name) > *least), "{said}");
    }
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && !page.contains("<script"), "no page");
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg"));
    let again = run(folder.path(), &["compare", "--from", &json, "--against", &json]);
    assert_eq!(again.status.code(), Some(0));
    assert!(text(&again.stdout).contains("Nothing has changed"), "{}", text(&again.stdout));
}

#[test]
fn what_was_started_ends_with_the_signal_and_a_second_one_is_refused_meanwhile() {
    let Some(vmm) = programs::vmm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let vmm = vmm.to_str().unwrap();
    let mut first = std::process::Command::new(cargo_bin("whimbrel"))
        .env("TMPDIR", folder.path())
        .args(SMALL)
        .arg(vmm)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut first, || machines(folder.path()) > 0);
    let second = run(folder.path(), &[&SMALL[..], &[vmm]].concat());
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second.stderr).contains("Another comparison"), "{}", text(&second.stderr));
    let id = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!(machines(folder.path()), 0, "a machine is left");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["whimbrel-compare.lock"]);
}

#[test]
fn what_cannot_be_is_said_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.json");
    let refused = |arguments: &[&str], code: i32, expected: &str| {
        let output = run(folder.path(), arguments);
        let complained = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complained}");
        assert!(complained.contains(expected), "{arguments:?}: {complained}");
    };
    let path = wrong.to_str().unwrap();
    refused(&["compare", "--from", path], 2, "Cannot read");
    for (content, expected) in
        [("{}", "is no comparison"), ("{\"version\": 9}", "make it anew"), ("\u{0}", "is no comparison")]
    {
        fs::write(&wrong, content).unwrap();
        refused(&["compare", "--against", path], 2, expected);
    }
    refused(&["compare", "--scale", "0"], 2, "such as 1/16");
    refused(&["compare", "--scenarios", "S4"], 2, "not S1, S2 or S3");
    let Some(vmm) = programs::vmm() else { return };
    let vmm = vmm.to_str().unwrap();
    refused(&["compare", "--scale", "1/1000,1/1000", "--vmm", vmm], 2, "try a larger --scale");
    refused(&["compare", "--scale", "1,1", "--vmm", vmm], 2, "try a ");
}

/// Processes that have a file of this folder's in their command line, but for those of this test.
fn machines(folder: &Path) -> usize {
    let folder = folder.to_str().unwrap().as_bytes();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(folder.len()).any(|part| part == folder)).count()
}

fn wait_for(child: &mut Child, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60),
            "it does not begin"
        );
        std::thread::yield_now();
    }
}
