//! `whimbrel compare` as a user runs it, with small guests. Skipped, loudly, where there is no KVM.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod programs;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::Path,
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use assert_cmd::{Command, cargo::cargo_bin};
use rustix::process::Signal;
use serde_json::Value;

/// The scenario that has encrypted moves too, once, with the smallest guest, on a link that every host has.
const SMALL: [&str; 8] = ["compare", "--scenarios", "S2", "-n", "1", "--scale", "1/40,1/50", "--vmm"];

/// Ours, in their order.
const MODES: [&str; 5] = ["postcopy-preempt", "multifd", "generic", "default", "multifd-tls"];

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
    let modes: Vec<_> = runs.iter().map(|run| run["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, MODES, "{said}");
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
    let markdown = file("a.md");
    let again =
        run(folder.path(), &["compare", "--from", &json, "--against", &json, "--markdown", &markdown]);
    // There are no ratios without a peer: whoever asks what has become worse must not hear that nothing has.
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stdout).contains("Nothing could be compared"), "{}", text(&again.stdout));
    let tables = fs::read_to_string(&markdown).unwrap();
    let parts = ["Whimbrel, 1 times each", "S2: ", "| total time, s", "- S2, ", "Published figures"];
    assert!(parts.iter().all(|part| tables.contains(part)), "{tables}");
}

#[test]
fn who_may_not_make_hosts_gets_a_proxy_and_that_is_said() {
    let Some(vmm) = programs::vmm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("a.json");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin,-net_admin"]).arg(cargo_bin("whimbrel"));
    command.args(SMALL).arg(vmm).args(["--qemu", "/nonexistent/qemu", "--small-pages", "--json"]).arg(&json);
    let output = command.env("TMPDIR", folder.path()).timeout(Duration::from_secs(180)).output().unwrap();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{complained}");
    for expected in ["a paced proxy", "Users have no network to the machine", "4 KiB pages"] {
        assert!(said.contains(expected), "'{expected}' is missing in\n{said}");
    }
    let figures: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    for run in figures["runs"].as_array().unwrap() {
        let count = |name: &str| run["trace"][name].as_array().unwrap().len();
        assert_eq!((run["outcome"].as_str(), count("pings_10ms")), (Some("completed"), 0), "{said}");
        assert!(count("wire") > 100 && count("work") > 10, "{said}");
    }
}

#[test]
fn what_was_started_ends_with_the_signal_and_a_second_one_is_refused_meanwhile() {
    let Some(vmm) = programs::vmm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let vmm = vmm.to_str().unwrap();
    // Other tests that change the pool of huge pages wait for this one.
    let turn = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(std::env::temp_dir().join("whimbrel-huge-pages.lock"));
    let turn = turn.unwrap();
    rustix::fs::flock(&turn, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (pages, cards) = (huge_pages(), cards());
    let lock = folder.path().join("whimbrel-compare.lock");
    let is_locked = || lock.exists();
    let moments: [(Signal, &dyn Fn() -> bool); 3] = [
        (Signal::TERM, &is_locked),
        (Signal::INT, &|| machines(folder.path()) > 0),
        (Signal::HUP, &|| machines(folder.path()) > 1),
    ];
    for (signal, moment) in moments {
        let mut first = std::process::Command::new(cargo_bin("whimbrel"))
            .env("TMPDIR", folder.path())
            .args(SMALL)
            .arg(vmm)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(&mut first, moment);
        let second = run(folder.path(), &[&SMALL[..], &[vmm]].concat());
        assert_eq!(second.status.code(), Some(2));
        assert!(text(&second.stderr).contains("Another comparison"), "{}", text(&second.stderr));
        let began = descendants(first.id());
        rustix::process::kill_process(rustix::process::Pid::from_child(&first), signal).unwrap();
        let output = first.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal:?}: {}", text(&output.stderr));
        assert_eq!(machines(folder.path()), 0, "{signal:?}: a machine is left");
        // The namespaces of the hosts and their users are there as long as these are.
        let left: Vec<_> = began.into_iter().filter(is_alive).collect();
        assert!(left.is_empty(), "{signal:?}: processes are left: {left:?}");
        assert_eq!((huge_pages(), self::cards()), (pages, cards.clone()), "{signal:?}");
        let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["whimbrel-compare.lock"], "{signal:?}");
        fs::remove_file(&lock).unwrap();
    }
}

/// Pages in the host's pool.
fn huge_pages() -> u64 {
    fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap().trim().parse().unwrap()
}

/// Network cards of this host.
fn cards() -> BTreeSet<OsString> {
    fs::read_dir("/sys/class/net").unwrap().map(|card| card.unwrap().file_name()).collect()
}

/// A process: its id, and when it began, by the kernel's ticks.
type Process = (u32, u64);

/// All processes that were started by one and have not ended, directly or not.
fn descendants(process: u32) -> Vec<Process> {
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all: Vec<(u32, u32, u64)> =
        all.filter_map(|id| look(id).map(|(parent, began)| (id, parent, began))).collect();
    let mut found = Vec::new();
    let mut parents = vec![process];
    while let Some(parent) = parents.pop() {
        for (id, _, began) in all.iter().filter(|(_, of, _)| *of == parent) {
            found.push((*id, *began));
            parents.push(*id);
        }
    }
    found
}

fn is_alive(&(id, began): &Process) -> bool {
    look(id).is_some_and(|(_, at)| at == began)
}

/// A process's parent, and when it began (proc_pid_stat(5)).
fn look(id: u32) -> Option<(u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ').peekable();
    // Over, and not yet reaped by whoever has it now.
    if fields.peek() == Some(&"Z") {
        return None;
    }
    Some((fields.nth(1)?.parse().ok()?, fields.nth(17)?.parse().ok()?))
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
