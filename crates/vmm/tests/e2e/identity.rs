//! No machine ends up in the place of another: who it is, and which disks it has, is compared before a page moves.

use std::{
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use monitor::types::{NameInfo, RunState, UuidInfo};
use serde_json::Value;

use crate::harness::{Lab, Network, Spec, Story, Vmm, skipped};

const UUIDS: [&str; 2] = ["6c1a4b5e-7f0e-4a3c-9b57-3d2f9a1c0e11", "0d2f9a1c-7f0e-4a3c-9b57-3d2f9a1c0e12"];
const MACS: [&str; 2] = ["02:00:00:00:77:02", "02:00:00:00:77:03"];

/// A disk with something on it.
fn image(lab: &Lab, name: &str, content: u8) -> PathBuf {
    let path = lab.disk(name, 20);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for mib in 0..20 {
        file.write_all_at(&[content; 4096], mib << 20).unwrap();
    }
    path
}

fn with_disk(spec: &Spec, image: &Path, options: &str) -> Spec {
    spec.clone().flag("--disk", &format!("path={}{options}", image.display()))
}

/// That the machine of one spec is not taken in as that of the other, and why. It runs on, was never stopped, and no page of
/// it was sent.
fn refused(lab: &Lab, source: &Spec, destination: &Spec) -> String {
    let (source, destination) = (lab.boot(source), lab.vacancy(destination));
    let story = Story::of(&source);
    story.filled();
    let events = source.events();
    source.migrate(&destination.listen());
    let why = source.migration_fails();
    assert_eq!(source.run_state(), RunState::Running);
    while let Some(event) = events.next(Duration::ZERO) {
        assert_ne!(event.event, "STOP", "{why}");
    }
    let arrived = destination.query_migrate().whimbrel.unwrap().arrived;
    assert_eq!(arrived.map_or(0, |arrived| arrived.pages + arrived.zero_pages), 0);
    assert_eq!(destination.run_state(), RunState::Inmigrate);
    story.goes_on(2);
    story.assert_intact();
    why
}

#[track_caller]
fn says_once(why: &str, parts: &[&str]) {
    for part in parts {
        assert_eq!(why.matches(part).count(), 1, "'{part}' in: {why}");
    }
}

/// Two specs that differ in one flag.
fn pair(flag: &str, values: [&str; 2]) -> [Spec; 2] {
    values.map(|value| Spec::calm().flag(flag, value))
}

#[test]
fn a_machine_with_another_uuid_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let [here, there] = pair("--uuid", UUIDS);
    let why = refused(&lab, &here, &there);
    says_once(&why, &[UUIDS[0], UUIDS[1], "--may-differ uuid"]);
    let why = refused(&lab, &here, &Spec::calm());
    says_once(&why, &[UUIDS[0], "started for none", "--may-differ uuid"]);
}

#[test]
fn a_machine_with_another_name_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let [here, there] = pair("--name", ["db-1", "db-2"]);
    let why = refused(&lab, &here, &there);
    says_once(&why, &["called 'db-1'", "started for 'db-2'", "--may-differ name"]);
}

#[test]
fn another_image_of_the_same_size_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=4M rate=4M disk=200");
    let (own, other, empty) = (image(&lab, "own.img", 1), image(&lab, "other.img", 2), lab.disk("empty", 20));
    for image in [&other, &empty] {
        let why = refused(&lab, &with_disk(&spec, &own, ""), &with_disk(&spec, image, ""));
        says_once(&why, &["image of disk 'disk0'", "--may-differ image"]);
    }
    // Nor a copy, on one host: only one of the two would be written from then on.
    let (idle, copy) = (Spec::calm(), lab.path("copy.img"));
    std::fs::copy(&other, &copy).unwrap();
    let why = refused(&lab, &with_disk(&idle, &other, ""), &with_disk(&idle, &copy, ""));
    says_once(&why, &["image of disk 'disk0' is another file"]);
}

#[test]
fn a_copy_of_an_image_that_nobody_writes_is_as_good() {
    let Some(lab) = Lab::new() else { return };
    let (own, copy, other) = (image(&lab, "own", 1), image(&lab, "copy", 1), image(&lab, "other", 2));
    let spec = |image: &Path| with_disk(&Spec::calm(), image, ",readonly=on");
    let why = refused(&lab, &spec(&own), &spec(&other));
    says_once(&why, &["image of disk 'disk0' has other contents"]);
    let (source, destination) = (lab.boot(&spec(&own)), lab.vacancy(&spec(&copy)));
    source.moves_to(&destination, &destination.listen());
}

#[test]
fn a_disk_that_has_grown_is_refused_before_the_machine_is_stopped() {
    let Some(lab) = Lab::new() else { return };
    let (image, grown) = (image(&lab, "disk.img", 1), image(&lab, "grown.img", 1));
    let file = std::fs::File::options().write(true).open(&grown).unwrap();
    file.set_len(24 << 20).unwrap();
    let spec = |image: &Path| with_disk(&Spec::calm(), image, "");
    let why = refused(&lab, &spec(&image), &spec(&grown));
    says_once(&why, &["40960 sectors on the source and 49152 here"]);
    assert!(!why.contains("--may-differ"), "what does not work cannot be permitted: {why}");

    // The same file, grown while the machine runs.
    let source = lab.boot(&spec(&image));
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.set_len(24 << 20).unwrap();
    let destination = lab.vacancy(&spec(&image));
    source.migrate(&destination.listen());
    says_once(&source.migration_fails(), &["40960 sectors on the source and 49152 here"]);
}

#[test]
fn a_disk_with_another_serial_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let image = image(&lab, "disk.img", 1);
    let spec = |serial: &str| with_disk(&Spec::calm(), &image, &format!(",serial={serial}"));
    let permissive = spec("two").flag("--may-differ", "name,uuid,mac,image");
    for destination in [spec("two"), permissive] {
        let why = refused(&lab, &spec("one"), &destination);
        says_once(&why, &["'one' on the source and 'two' here"]);
        assert!(!why.contains("--may-differ"), "what does not work cannot be permitted: {why}");
    }
}

#[test]
fn a_machine_with_another_mac_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let Some(network) = Network::new(&["one", "two"]) else { return };
    let why = refused(&lab, &on(&network, "one", MACS[0]), &on(&network, "two", MACS[1]));
    says_once(&why, &[MACS[0], MACS[1], "'net0'", "--may-differ mac"]);
}

fn on(network: &Network, tap: &str, mac: &str) -> Spec {
    let spec = Spec::new("work=4M rate=2M verify=10 ip=10.77.0.2").prefix(&network.prefix());
    spec.flag("--net", &format!("tap={tap},mac={mac}"))
}

#[test]
fn every_difference_is_said_once() {
    let Some(lab) = Lab::new() else { return };
    let Some(network) = Network::new(&["one", "two"]) else { return };
    let images = [image(&lab, "a", 1), image(&lab, "b", 2), image(&lab, "c", 3)];
    let grown = lab.disk("grown.img", 30);
    let source = on(&network, "one", MACS[0]).with(&["--name", "db-1", "--uuid", UUIDS[0]]);
    let source = with_disk(&with_disk(&source, &images[0], ",serial=x"), &images[1], "");
    let destination = on(&network, "two", MACS[1]).with(&["--name", "db-2", "--uuid", UUIDS[1]]);
    let destination = destination.memory_mib(128).flag("--keyboard", "on");
    let destination = with_disk(&with_disk(&destination, &grown, ",serial=y"), &images[2], ",readonly=on");
    let why = refused(&lab, &source, &destination);
    let parts = [
        "Memory differs",
        "keyboard0",
        "serial of disk 'disk0'",
        "Disk 'disk0' has 40960 sectors",
        "Disk 'disk1' is read-only here",
        "image of disk 'disk1' has other contents",
        "called 'db-1'",
        UUIDS[0],
        MACS[0],
    ];
    says_once(&why, &parts);
    assert_eq!(["disk0", "disk1"].map(|id| why.matches(id).count()), [2, 2], "{why}");
}

#[test]
fn what_is_permitted_to_differ_is_taken_in_and_logged() {
    let Some(lab) = Lab::new() else { return };
    let (own, other) = (image(&lab, "own.img", 1), image(&lab, "other.img", 2));
    let named = |name: &str, uuid: &str, image: &Path| {
        with_disk(&Spec::calm().with(&["--name", name, "--uuid", uuid]), image, "")
    };
    let there = || named("db-2", UUIDS[1], &other);
    let why = refused(&lab, &named("db-1", UUIDS[0], &own), &there().flag("--may-differ", "name,image"));
    says_once(&why, &["--may-differ uuid"]);
    assert!(!why.contains("db-2") && !why.contains("disk0"), "that is permitted: {why}");

    let source = lab.boot(&named("db-1", UUIDS[0], &own));
    let destination = lab.vacancy(&there().flag("--may-differ", "name,uuid,image"));
    let mut story = Story::of(&source);
    story.filled();
    assert_eq!(identity(&destination), ("db-2".into(), UUIDS[1].into()));
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(2);
    let log = destination.log();
    for part in ["'db-1'", "--may-differ uuid", "image of disk 'disk0'", "destroys what is there"] {
        assert!(log.contains(part), "'{part}' in: {log}");
    }
    // It was renamed, and is the same machine.
    assert_eq!(identity(&destination), ("db-2".into(), UUIDS[0].into()));
    let next = lab.vacancy(&named("db-2", UUIDS[0], &other));
    destination.moves_to(&next, &next.listen());
    story.goes_on_at(&next);
    story.goes_on(2);
    story.assert_intact();
}

/// Its name and UUID, as its monitor says.
fn identity(vmm: &Vmm) -> (String, String) {
    let mut client = vmm.client();
    let name: NameInfo = client.query("query-name", Value::Null).unwrap();
    let uuid: UuidInfo = client.query("query-uuid", Value::Null).unwrap();
    (name.name.unwrap(), uuid.uuid)
}

#[test]
fn a_machine_has_its_own_mac_after_a_reboot_where_it_went() {
    let Some(lab) = Lab::new() else { return };
    let Some(network) = Network::new(&["one", "two"]) else { return };
    let source = lab.boot(&on(&network, "one", MACS[0]));
    let destination = lab.vacancy(&on(&network, "two", MACS[1]).flag("--may-differ", "mac"));
    Story::of(&source).filled();
    source.moves_to(&destination, &destination.listen());
    assert!(destination.log().contains("It keeps its own address"), "{}", destination.log());
    destination.command("system_reset", Value::Null);
    let after = Story::of(&destination);
    after.filled();
    after.says(&format!("whimbrel net mac={}", MACS[0]));
    // And is known by it.
    drop(source);
    let back = lab.vacancy(&on(&network, "one", MACS[0]));
    destination.moves_to(&back, &back.listen());
}

#[test]
fn a_guest_that_writes_all_the_time_is_never_refused() {
    let Some(lab) = Lab::new() else { return };
    // The guest uses the first 16 MiB: all of the image.
    let (busy, small) = (lab.disk("busy.img", 16), lab.disk("small.img", 1));
    let spec = with_disk(&with_disk(&writer(), &busy, ",serial=busy"), &small, ",direct=on");
    goes_to_and_fro(&lab, &[spec.clone(), spec]);
}

fn writer() -> Spec {
    Spec::new("work=4M rate=4M disk=20000")
}

/// Moves a machine that writes its disk all the time between two places.
fn goes_to_and_fro(lab: &Lab, places: &[Spec; 2]) {
    let mut here = lab.boot(&places[0]);
    let mut story = Story::of(&here);
    story.filled();
    for hop in 1..=6 {
        let before = story.goes_on(1).count("disk_ops").unwrap();
        let there = lab.vacancy(&places[hop % 2]);
        here.moves_to(&there, &there.listen());
        story.goes_on_at(&there);
        story.wait_for("its disk is used", |report| report.count("disk_ops").unwrap() > before + 50);
        here = there;
    }
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
}

/// A block device on an image. Two of them on one image are as two hosts with one disk: neither sees the other's locks, and
/// each has a page cache.
struct Loop(PathBuf);

impl Loop {
    /// A device, or none and a loud word without the right to make one.
    fn new(image: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(image).output();
        match made {
            Ok(made) if made.status.success() => {
                Some(Self(String::from_utf8_lossy(&made.stdout).trim_end().into()))
            }
            _ => {
                skipped("no loop device can be made");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn where_locks_do_not_reach_another_image_is_refused_and_a_busy_one_is_not() {
    let Some(lab) = Lab::new() else { return };
    let (own, other) = (image(&lab, "own.img", 1), image(&lab, "other.img", 2));
    let devices = [&own, &own, &other].map(|image| Loop::new(image));
    let [Some(one), Some(two), Some(other)] = &devices else { return };
    let on = |device: &Loop| with_disk(&writer(), &device.0, ",direct=on");
    says_once(&refused(&lab, &on(one), &on(other)), &["image of disk 'disk0' has other contents"]);
    goes_to_and_fro(&lab, &[on(one), on(two)]);
}
