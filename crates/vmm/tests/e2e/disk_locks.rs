//! Two machines never write one image, whoever they are.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use monitor::{Client, types::MigrationStatus};
use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE, PAUSE_BEFORE_SWITCHOVER, Spec, Story, run_to_end, skipped, until};

fn spec(image: &Path) -> Spec {
    Spec::new("work=4M rate=4M disk=200").disk(image)
}

/// That a machine with this image cannot be started now.
fn refused(lab: &Lab, image: &Path) {
    let flags = lab.flags(&spec(image));
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--serial", "none"]);
    let output = run_to_end(&flags);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = format!("Disk image '{}' is in use by another virtual machine", image.display());
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn the_lock_of_a_disk_goes_where_the_machine_goes() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("disk.img", 20);
    let (source, destination) = (lab.boot(&spec(&image)), lab.vacancy(&spec(&image)));
    let mut story = Story::of(&source);
    story.filled();
    refused(&lab, &image);
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PreSwitchover);
    refused(&lab, &image);
    source.command("migrate-continue", json!({ "state": "pre-switchover" }));
    source.migration_is(MigrationStatus::Completed);
    refused(&lab, &image);
    // The process that gave it away has nothing to do with it any more.
    source.kill();
    refused(&lab, &image);
    story.goes_on_at(&destination);
    story.goes_on(3);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
    destination.kill();
    let next = lab.boot(&spec(&image));
    Story::of(&next).filled();
}

#[test]
fn a_machine_whose_migration_failed_has_its_disk() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("disk.img", 20);
    let (source, destination) = (lab.boot(&spec(&image)), lab.vacancy(&spec(&image)));
    let mut story = Story::of(&source);
    story.filled();
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    let uri = destination.listen();
    source.migrate(&uri);
    source.migration_is(MigrationStatus::PreSwitchover);
    destination.signal(rustix::process::Signal::STOP);
    source.command("migrate-continue", json!({ "state": "pre-switchover" }));
    source.migration_is(MigrationStatus::Device);
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);
    refused(&lab, &image);
    story.goes_on(3);
    destination.signal(rustix::process::Signal::CONT);
    until("the destination has given up", || destination.query_migrate().whimbrel?.reason);
    source.command("migrate-set-capabilities", crate::harness::capability(PAUSE_BEFORE_SWITCHOVER, false));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    assert_eq!(story.assert_intact().count("disk_errors"), Some(0));
}

#[test]
fn machines_may_share_a_disk_that_none_writes() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("disk.img", 20);
    let spec = Spec::calm().flag("--disk", &format!("path={},readonly=on", image.display()));
    let (_first, _second) = (lab.boot(&spec), lab.boot(&spec));
    refused(&lab, &image);
}

/// A QEMU that has the image open for writing, or why there is none.
struct Qemu {
    process: Child,
    client: Client,
}

impl Qemu {
    fn command(image: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "timeout", "60", "qemu-system-x86_64"]);
        command.args(["-M", "microvm", "-S", "-display", "none", "-nodefaults"]);
        command.args(["-device", "virtio-blk-device,drive=disk", "-drive"]);
        command.arg(format!("if=none,id=disk,format=raw,file={}", image.display()));
        command.stdin(Stdio::null());
        command
    }

    fn start(lab: &Lab, image: &Path) -> Self {
        let socket = lab.path("qemu.qmp");
        let mut command = Self::command(image);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        let process = command.spawn().unwrap();
        let client = until("QEMU answers", || Client::connect(&socket, PATIENCE).ok());
        Self { process, client }
    }

    fn is_installed() -> bool {
        let installed = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
        if !installed {
            skipped("there is no qemu-system-x86_64");
        }
        installed
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn qemu_is_refused_a_disk_of_ours() {
    let Some(lab) = Lab::new() else { return };
    if !Qemu::is_installed() {
        return;
    }
    let image = lab.disk("disk.img", 20);
    let (source, destination) = (lab.boot(&spec(&image)), lab.vacancy(&spec(&image)));
    let tried = |expected: &str| {
        let output = Qemu::command(&image).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{said}");
    };
    tried("lock");
    source.moves_to(&destination, &destination.listen());
    tried("lock");
}

#[test]
fn a_disk_that_qemu_writes_is_refused_to_us() {
    let Some(lab) = Lab::new() else { return };
    if !Qemu::is_installed() {
        return;
    }
    let image = lab.disk("disk.img", 20);
    let mut qemu = Qemu::start(&lab, &image);
    refused(&lab, &image);
    qemu.client.execute("quit", Value::Null).unwrap();
    qemu.process.wait().unwrap();
    let ours = lab.boot(&spec(&image));
    // The monitor answers before the machine runs.
    until("the machine runs", || {
        ours.command("query-status", Value::Null)["running"].as_bool().filter(|runs| *runs)
    });
}
