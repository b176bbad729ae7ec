//! Every thread is held to the system calls that it needs. That those are enough is what all other tests are about: filters
//! are on by default.

use std::{collections::BTreeMap, fs};

use monitor::types::MigrationStatus;
use serde_json::json;

use crate::harness::{Lab, Spec, Story, Vmm, until};

/// Threads that build machines and start the others, and so have the filter of the process and no other: by their names.
/// The last opens a file for one of the others.
const BUILDERS: [&str; 3] = ["whimbrel-vmm", "launcher", "open"];

/// The threads of a process by name, each with its seccomp mode and its number of filters.
fn threads(vmm: &Vmm) -> BTreeMap<String, (u32, u32)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", vmm.pid())).unwrap();
    let thread = |task: fs::DirEntry| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.map(|value| value.trim().to_owned())
        };
        let number = |name| field(name).and_then(|value| value.parse().ok());
        Some((field("Name:")?, (number("Seccomp:")?, number("Seccomp_filters:")?)))
    };
    tasks.filter_map(|task| thread(task.unwrap())).collect()
}

/// Waits until these threads are there, and all that are there are confined.
fn assert_confined(vmm: &Vmm, expected: &[&str]) {
    until(&format!("{expected:?} are there in {}, and all are confined", vmm.name()), || {
        let found = threads(vmm);
        // A thread has its name and its filter first thing, but not before it is there.
        let confined = found.iter().all(|(name, &(mode, filters))| {
            mode == 2 && filters >= if BUILDERS.contains(&name.as_str()) { 1 } else { 2 }
        });
        (confined && expected.iter().all(|name| found.contains_key(*name))).then_some(())
    });
}

fn spec(lab: &Lab) -> Spec {
    let images = [lab.path("system.img"), lab.path("data.img")];
    let fresh = |image: &&std::path::PathBuf| !image.exists();
    for image in images.iter().filter(fresh) {
        fs::File::create(image).unwrap().set_len(4 << 20).unwrap();
    }
    Spec::calm().cpus(2).disk(&images[0]).disk(&images[1])
}

#[test]
fn every_thread_is_confined_before_during_and_after_a_migration() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&spec(&lab)), lab.vacancy(&spec(&lab)));
    let mut story = Story::of(&source);
    story.filled();
    let machine = ["vcpu0", "vcpu1", "io", "disk0", "disk1"];
    let process = ["whimbrel-vmm", "launcher", "events", "signals", "monitor", "monitor-client"];
    assert_confined(&source, &[machine.as_slice(), &process].concat());

    // Slow enough to be looked at.
    source.set(json!({ "max-bandwidth": 1_000_000, "multifd-channels": 2 }));
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::Active);
    assert_confined(&source, &["migration", "mig-control", "mig-send-0", "mig-send-1"]);
    let arriving = ["migration", "mig-control", "mig-accept", "mig-recv-0", "mig-recv-1", "vcpu0", "vcpu1"];
    assert_confined(&destination, &arriving);

    source.set(json!({ "max-bandwidth": 0 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(2);
    assert_confined(&destination, &[machine.as_slice(), &process].concat());
    story.assert_intact();
}

#[test]
fn a_destination_is_found_by_its_name() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let port = destination.listen().rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap();
    // Looking up a name takes the most of all that a thread does. This one may be anything: the host's files decide.
    source.moves_to(&destination, &format!("tcp:localhost:{port}"));
}

#[test]
fn a_name_that_does_not_exist_fails_the_attempt_and_nothing_else() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&Spec::calm());
    source.migrate("tcp:no-such-host.invalid:4444");
    let reason = source.migration_fails();
    assert!(reason.contains("no-such-host.invalid"), "{reason}");
    let story = Story::of(&source);
    story.goes_on(2);
}

#[test]
fn filters_can_be_told_to_log_only_or_left_out() {
    let Some(lab) = Lab::new() else { return };
    for (mode, expected) in [("log", 2), ("off", 0)] {
        let spec = Spec::calm().flag("--seccomp", mode);
        let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
        source.moves_to(&destination, &destination.listen());
        let found = threads(&destination);
        assert!(found.values().all(|(mode, _)| *mode == expected), "{mode}: {found:?}");
    }
}
