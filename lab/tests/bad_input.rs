//! What a machine lacks is told at once, with what to do about it. The lab runs here with programs that fail as wanted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// Nobody waits for minutes to be told.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Modules that hosts and guests load.
const MODULES: [&str; 25] = [
    "kvm-amd",
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "tun",
    "bridge",
    "veth",
    "vhost_net",
    "sch_netem",
    "sch_tbf",
    "tls",
    "loop",
    "virtio_mmio",
    "virtio_rng",
    "virtio_balloon",
    "virtio_input",
    "evdev",
    "button",
    "ext4",
    "crc32c_generic",
    "failover",
    "virtio",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];

/// A machine with everything that the lab needs, except for what is there to be seen: its programs are scripts.
struct Machine {
    place: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { place: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        machine.program("apt-cache", "echo 'Version: 9'; echo 'Depends: linux-image-9-amd64 (= 9)'");
        machine.program("apt-get", "echo 'E: Could not resolve the archive' >&2; exit 100");
        machine.program("setpriv", "shift 2; exec \"$@\"");
        machine.program("nice", "shift 2; exec \"$@\"");
        machine.program("qemu-system-x86_64", "echo 'the emulator is broken' >&2; exit 1");
        machine.program("objcopy", "/bin/cp \"$2\" \"$3\"");
        for name in ["ldd", "dpkg-deb", "xz", "mke2fs", "e2fsck"] {
            machine.program(name, "");
        }
        machine
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path(&format!("bin/{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Packages that are there already, and programs of this project that are built already.
    fn has_packages(&self) {
        let kernel = "cache/whimbrel/lab/linux-image-9-amd64_9";
        let files =
            ["cache/whimbrel/lab/busybox-static_9/bin/busybox".into(), format!("{kernel}/boot/vmlinuz-9")];
        let modules = MODULES.map(|name| format!("{kernel}/lib/modules/9/{name}.ko"));
        let built =
            ["whimbrel", "whimbrel-vmm", "whimbrel-lab-agent"].map(|name| format!("target/debug/{name}"));
        for file in files.iter().chain(&modules).chain(&built) {
            fs::write(self.path(file), "contents").unwrap();
        }
    }

    /// A path of this machine, whose folder is there.
    fn path(&self, name: &str) -> PathBuf {
        let path = self.place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// What the lab says when it cannot work.
    fn complaint(&self, change: impl FnOnce(&mut Command)) -> String {
        let mut lab = Command::new(env!("CARGO_BIN_EXE_whimbrel-lab"));
        lab.args(["run", "idle"])
            .env("PATH", self.path("bin"))
            .env("CARGO", "/bin/true")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("CARGO_TARGET_DIR", self.path("target"));
        change(&mut lab);
        let start = Instant::now();
        let output = lab.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(start.elapsed() < AT_ONCE, "{said}");
        said
    }
}

#[test]
fn a_missing_program_is_told_with_its_package() {
    let machine = Machine::new();
    fs::remove_file(machine.path("bin/qemu-system-x86_64")).unwrap();
    let said = machine.complaint(|_| ());
    assert!(
        said.contains("'qemu-system-x86_64' is missing: run 'apt-get install qemu-system-x86'"),
        "{said}"
    );
}

#[test]
fn a_package_that_cannot_be_downloaded_is_told_with_what_apt_said() {
    let said = Machine::new().complaint(|_| ());
    assert!(said.contains("'busybox-static' cannot be downloaded: run 'apt-get update'"), "{said}");
    assert!(said.contains("Could not resolve the archive"), "{said}");
}

#[test]
fn a_package_that_apt_does_not_know_is_told() {
    let machine = Machine::new();
    machine.program("apt-cache", "");
    let said = machine.complaint(|_| ());
    assert!(said.contains("'linux-image-amd64' cannot be downloaded: run 'apt-get update'"), "{said}");
}

#[test]
fn a_kernel_without_a_module_is_told_before_anything_boots() {
    let machine = Machine::new();
    machine.has_packages();
    fs::remove_file(machine.path("cache/whimbrel/lab/linux-image-9-amd64_9/lib/modules/9/kvm-amd.ko"))
        .unwrap();
    let said = machine.complaint(|_| ());
    assert!(said.contains("has no module kvm_amd.ko: the lab needs a Debian 12 kernel"), "{said}");
}

#[test]
fn a_full_disk_is_told_before_anything_is_built() {
    // Nothing is free in /proc.
    let said = Machine::new().complaint(|lab| {
        lab.env("CARGO_TARGET_DIR", "/proc/full");
    });
    assert!(said.contains("'/proc/full/lab' has 0 MiB free") && said.contains("make room"), "{said}");
}

#[test]
fn a_host_that_ends_is_told_with_its_last_words() {
    let machine = Machine::new();
    machine.has_packages();
    let said = machine.complaint(|_| ());
    assert!(said.contains("Host 'a' ended before its agent was there"), "{said}");
    assert!(said.contains("the emulator is broken"), "{said}");
}

#[test]
fn a_second_lab_in_the_same_folder_is_told_to_wait() {
    let machine = Machine::new();
    let folder = machine.path("target/lab/scenarios/x");
    let lock = File::open(folder.parent().unwrap()).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let said = machine.complaint(|_| ());
    assert!(said.contains("Another lab uses") && said.contains("wait for its end"), "{said}");
}
