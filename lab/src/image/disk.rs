use std::{
    fs::{self, File},
    io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use super::ROOT_MIB;
use crate::{
    LabError, Programs,
    packages::Packages,
    programs::{find, run},
};

/// The first program on the guest's root file system.
const INIT: &str = include_str!("root-init.sh");

/// What of busybox the guest's programs need as files.
const APPLETS: [&str; 32] = [
    "cat", "cut", "date", "dd", "dmesg", "echo", "grep", "head", "hostname", "ip", "kill", "ls", "mkdir",
    "netstat", "mount", "nproc", "pidof", "ping", "poweroff", "ps", "reboot", "rm", "sh", "sleep", "sync",
    "wc", "tail", "taskset", "tee", "timeout", "uname", "umount",
];

/// Writes a root file system for a guest into the beginning of `disk`, without being root. It is made in the folder `work`. What is to `boot` from it are a
/// kernel and its initial file system.
pub(super) fn write_root(
    disk: &Path,
    work: &Path,
    packages: &Packages,
    programs: &Programs,
    boot: Option<(&Path, &Path)>,
) -> Result<(), LabError> {
    let (root, image) = (work.join("root"), work.join("image"));
    fill(&root, packages, programs).map_err(LabError::file("write", &root))?;
    if let Some((kernel, initial)) = boot {
        add_boot(&root.join("boot"), kernel, initial).map_err(LabError::file("write", &root))?;
    }
    let mke2fs = find("mke2fs").unwrap_or_else(|| "mke2fs".into());
    // Lazy initialisation would have the guest write its inode tables for minutes.
    run(Command::new(mke2fs)
        .args(["-q", "-t", "ext4", "-E", "lazy_itable_init=0,root_owner=0:0", "-d"])
        .args([&root, &image])
        .arg(format!("{ROOT_MIB}M")))?;
    let copied = File::open(&image).and_then(|mut from| {
        let mut to = File::options().write(true).open(disk)?;
        io::copy(&mut from, &mut to)
    });
    copied.map(|_| ()).map_err(LabError::file("write", disk))
}

fn fill(root: &Path, packages: &Packages, programs: &Programs) -> io::Result<()> {
    for folder in ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "root"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(&packages.busybox, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::copy(&programs.agent, root.join("bin/whimbrel-lab-agent"))?;
    for library in &programs.libraries {
        let place = root.join(library.strip_prefix("/").unwrap_or(library));
        fs::create_dir_all(place.parent().unwrap_or(root))?;
        fs::copy(library, place)?;
    }
    fs::write(root.join("boots"), "1\n")?;
    let init = root.join("sbin/init");
    fs::write(&init, INIT)?;
    fs::set_permissions(init, fs::Permissions::from_mode(0o755))
}

/// Both are named as a distribution names them, after the release of the kernel.
fn add_boot(folder: &Path, kernel: &Path, initial: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let name = kernel.file_name().unwrap_or_default().to_string_lossy();
    fs::copy(kernel, folder.join(&*name))?;
    fs::copy(initial, folder.join(name.replacen("vmlinuz", "initrd.img", 1))).map(drop)
}
