//! Storage that fails under a machine.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use monitor::types::{MigrationStatus, RunState};
use serde_json::{Value, json};

use crate::harness::{Freezer, Lab, PATIENCE, Spec, Story, Vmm, skipped, until};

const NONE: Value = Value::Null;

/// A file system of few MiB, with an image of more.
struct Small {
    directory: PathBuf,
    image: PathBuf,
}

impl Small {
    /// None where this process may not mount one.
    fn new(lab: &Lab) -> Option<Self> {
        let directory = lab.path("small");
        std::fs::create_dir(&directory).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4M", "small"]).arg(&directory).status();
        if !mounted.is_ok_and(|status| status.success()) {
            skipped("a file system cannot be mounted");
            return None;
        }
        let image = directory.join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(20 << 20).unwrap();
        Some(Self { directory, image })
    }

    fn grow(&self) {
        let mut remount = Command::new("mount");
        remount.args(["-o", "remount,size=64M"]).arg(&self.directory);
        assert!(remount.status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
    }
}

/// A guest that writes its disk as fast as it can.
fn spec(image: &Path, options: &str) -> Spec {
    let disk = format!("path={}{options}", image.display());
    Spec::new("work=4M rate=4M disk=5000").flag("--disk", &disk).flag("--rng", "off")
}

fn stops_for_storage(vmm: &Vmm) {
    until("the machine stops for its disk", || (vmm.run_state() == RunState::IoError).then_some(()));
    assert_eq!(vmm.command("query-status", NONE), json!({ "running": false, "status": "io-error" }));
}

#[test]
fn a_full_file_system_stops_the_machine_until_there_is_space() {
    let Some(lab) = Lab::new() else { return };
    let Some(small) = Small::new(&lab) else { return };
    let vmm = lab.boot(&spec(&small.image, ""));
    let events = vmm.events();
    let story = Story::of(&vmm);
    for _ in 0..3 {
        stops_for_storage(&vmm);
        let event = events.wait_for("BLOCK_IO_ERROR", PATIENCE).expect("an event tells of the disk");
        let told = event.data.unwrap();
        assert_eq!((&told["device"], &told["action"]), (&json!("disk0"), &json!("stop")), "{told}");
        assert_eq!((&told["operation"], &told["nospace"]), (&json!("write"), &json!(true)), "{told}");
        // It is tried again, and there is no more space than before.
        vmm.command("cont", NONE);
    }
    stops_for_storage(&vmm);
    small.grow();
    vmm.command("cont", NONE);
    story.filled();
    story.goes_on(3);
    assert_eq!(vmm.run_state(), RunState::Running);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0), "the guest has heard of nothing");
}

#[test]
fn a_machine_that_waits_for_storage_moves_and_waits_there() {
    let Some(lab) = Lab::new() else { return };
    let Some(small) = Small::new(&lab) else { return };
    let spec = spec(&small.image, "");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    stops_for_storage(&source);

    // A migration that comes to nothing leaves it as it was.
    source.migrate("tcp:127.0.0.1:1");
    source.migration_fails();
    stops_for_storage(&source);

    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::Completed);
    assert_eq!(source.run_state(), RunState::Postmigrate);
    stops_for_storage(&destination);
    destination.command("cont", NONE);
    stops_for_storage(&destination);
    small.grow();
    destination.command("cont", NONE);
    story.goes_on_at(&destination);
    story.goes_on(3);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
}

#[test]
fn a_machine_that_waits_for_storage_starts_anew_as_one_that_does_not() {
    let Some(lab) = Lab::new() else { return };
    let Some(small) = Small::new(&lab) else { return };
    let vmm = lab.boot(&spec(&small.image, ""));
    stops_for_storage(&vmm);
    vmm.command("system_reset", NONE);
    assert_eq!(vmm.run_state(), RunState::Paused);
    vmm.command("cont", NONE);
    stops_for_storage(&vmm);
}

#[test]
fn errors_that_are_to_be_reported_are_the_guests_affair() {
    let Some(lab) = Lab::new() else { return };
    let Some(small) = Small::new(&lab) else { return };
    let vmm = lab.boot(&spec(&small.image, ",werror=report"));
    let events = vmm.events();
    let event = events.wait_for("BLOCK_IO_ERROR", PATIENCE).expect("an event tells of the disk");
    assert_eq!(event.data.unwrap()["action"], "report");
    assert_eq!(vmm.run_state(), RunState::Running);
    Story::of(&vmm).says("whimbrel disk-error");
}

#[test]
fn an_image_of_another_format_is_refused_with_what_to_do() {
    let Some(lab) = Lab::new() else { return };
    let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
    qcow2.resize(1 << 20, 0);
    let image = lab.file("disk.qcow2", &qcow2);
    let try_it = |options: &str, incoming: &[&str]| {
        let flags = lab.flags(&spec(&image, options));
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        flags.extend(["--serial", "none", "--paused"]);
        flags.extend(incoming);
        crate::harness::run_to_end(&flags)
    };
    for incoming in [&[][..], &["--incoming", "defer"]] {
        let output = try_it("", incoming);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("begins like a qcow2 image") && said.contains("format=raw"), "{said}");
    }
    let vmm = lab.boot(&spec(&image, ",format=raw"));
    until("it runs", || (vmm.run_state() == RunState::Running).then_some(()));
}

/// A block device that is a file.
struct Loop(PathBuf);

impl Loop {
    /// None where this process may not make one.
    fn new(image: &Path, flags: &[&str]) -> Option<Self> {
        let made = Command::new("losetup").args(flags).args(["-f", "--show"]).arg(image).output();
        let made = made.ok().filter(|made| made.status.success());
        if made.is_none() {
            skipped("a file cannot be made a block device");
        }
        Some(Self(String::from_utf8_lossy(&made?.stdout).trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_device_that_becomes_too_short_stops_the_machine_and_it_is_said_why() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("device.img", 32);
    let Some(device) = Loop::new(&image, &[]) else { return };
    let vmm = lab.boot(&spec(&device.0, ",rerror=stop"));
    Story::of(&vmm).filled();
    let resize = |mib: u64| {
        std::fs::File::options().write(true).open(&image).unwrap().set_len(mib << 20).unwrap();
        assert!(Command::new("losetup").arg("-c").arg(&device.0).status().unwrap().success());
    };
    let events = vmm.events();
    // Between the two steps of it the machine would find the file shorter than the device.
    vmm.command("stop", NONE);
    resize(1);
    vmm.command("cont", NONE);
    stops_for_storage(&vmm);
    let told = events.wait_for("BLOCK_IO_ERROR", PATIENCE).expect("an event tells of the disk").data.unwrap();
    assert_eq!(told["nospace"], json!(false), "{told}");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("the image has 1048576 bytes now"), "{reason}");
    resize(32);
    vmm.command("cont", NONE);
    let story = Story::of(&vmm);
    story.goes_on(3);
    assert_eq!(vmm.run_state(), RunState::Running);
}

#[test]
fn a_device_that_nobody_may_write_is_told_of_before_a_guest_tries() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("device.img", 32);
    let Some(device) = Loop::new(&image, &["-r"]) else { return };
    let flags = lab.flags(&Spec::calm().disk(&device.0));
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--serial", "none"]);
    let output = crate::harness::run_to_end(&flags);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is read-only: say readonly=on"), "{said}");
    let spec = Spec::calm().flag("--disk", &format!("path={},readonly=on", device.0.display()));
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(2);
}

#[test]
fn a_migration_fails_by_name_while_storage_hangs_and_the_machine_runs_on() {
    let Some(lab) = Lab::new() else { return };
    let Some(freezer) = Freezer::new(&lab) else { return };
    let spec = spec(&freezer.image, "");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let (uri, events) = (destination.listen(), source.events());
    let frozen = freezer.freeze();
    source.migrate(&uri);
    let reason = source.migration_fails();
    assert!(reason.contains("disk0") && reason.contains(&freezer.image.display().to_string()), "{reason}");
    assert_eq!(source.run_state(), RunState::Running);
    let before = story.goes_on(2).count("disk_ops").unwrap();
    drop(frozen);
    // Before that its thread has still been at one request for too long.
    story.wait_for("its disk is used again", |report| report.count("disk_ops").unwrap() > before + 8);
    while let Some(event) = events.next(Duration::ZERO) {
        assert_ne!(event.event, "STOP", "the machine was not stopped for it");
    }
    until("the destination is ready again", || destination.query_migrate().whimbrel?.reason);
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(2);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
}

#[test]
fn whoever_asks_or_cancels_while_storage_hangs_does_not_wait_for_it() {
    let Some(lab) = Lab::new() else { return };
    let Some(freezer) = Freezer::new(&lab) else { return };
    let spec = spec(&freezer.image, "");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    let frozen = freezer.freeze();
    source.migrate(&uri);
    source.migration_is(MigrationStatus::Active);
    for question in ["query-status", "query-migrate", "query-cpus-fast"] {
        source.another_client().execute(question, NONE).unwrap();
    }
    assert_eq!(source.run_state(), RunState::Running);
    source.command("migrate_cancel", NONE);
    // Had it waited for the disk, the attempt would have failed.
    source.migration_is(MigrationStatus::Cancelled);
    assert_eq!(source.run_state(), RunState::Running);
    story.goes_on(2);
    drop(frozen);
    until("the destination is ready again", || destination.query_migrate().whimbrel?.reason);
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(2);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
}

/// Whatever becomes of a test, the thread that looks at this ends.
struct Clears<'a>(&'a AtomicBool);

impl Drop for Clears<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// How long slow storage takes; less than what a migration waits for.
const SLOW: Duration = Duration::from_secs(3);

#[test]
fn a_machine_is_not_stopped_for_storage_that_is_slow_and_moves_when_it_is_not() {
    let Some(lab) = Lab::new() else { return };
    let Some(freezer) = Freezer::new(&lab) else { return };
    let spec =
        Spec::new("work=4M rate=4M disk=200").flag("--disk", &format!("path={}", freezer.image.display()));
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let (uri, events) = (destination.listen(), source.events());
    // What is written is on the disk after seconds, again and again: a look that finds less than the limit is rare.
    source.set(json!({ "downtime-limit": 20 }));
    let is_slow = AtomicBool::new(true);
    thread::scope(|scope| {
        let fast_in_the_end = Clears(&is_slow);
        let (first, freezer, is_slow) = (freezer.freeze(), &freezer, &is_slow);
        scope.spawn(move || {
            let mut slow = first;
            loop {
                thread::sleep(SLOW);
                drop(slow);
                if !is_slow.load(Ordering::Relaxed) {
                    return;
                }
                slow = freezer.freeze();
            }
        });
        source.migrate(&uri);
        source.round_is(4);
        until("info migrate says that it is the disks", || {
            source.client().human("info migrate").unwrap().contains("flush the disks").then_some(())
        });
        assert_eq!(source.run_state(), RunState::Running);
        while let Some(event) = events.next(Duration::ZERO) {
            assert_ne!(event.event, "STOP", "the machine was not stopped for it");
        }
        drop(fast_in_the_end);
    });
    source.set(json!({ "downtime-limit": 2000 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(2);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
}
