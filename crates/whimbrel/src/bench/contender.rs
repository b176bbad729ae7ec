use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Serialize;

use super::Bench;
use crate::rig::Files;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    Whimbrel,
    Qemu,
}

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Backing {
    /// Huge pages of 2 MiB.
    Hugetlb,
    /// A memfd, in pages of 4 KiB.
    Memfd,
}

/// Their programs.
#[derive(Debug)]
pub(super) struct Contenders {
    vmm: PathBuf,
    qemu: PathBuf,
    qemu_version: String,
}

/// QEMU is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "Cannot run {}, which is compared with: install it (Debian: qemu-system-x86), or say where it is with --qemu",
    program.display()
)]
pub(super) struct ContenderError {
    program: PathBuf,
    source: std::io::Error,
}

/// Which end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hugetlb => "2 MiB pages",
            Self::Memfd => "4 KiB pages",
        })
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Whimbrel => "Whimbrel",
            Self::Qemu => "QEMU",
        })
    }
}

impl Contenders {
    pub(super) fn new(vmm: PathBuf, qemu: &Path) -> Result<Self, ContenderError> {
        let failed = |source| ContenderError { program: qemu.to_owned(), source };
        let output = Command::new(qemu).arg("--version").output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        // "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
        let number = first.split_whitespace().nth(3).unwrap_or("of unknown version");
        Ok(Self { vmm, qemu: qemu.to_owned(), qemu_version: format!("QEMU {number}") })
    }

    pub(super) fn qemu_version(&self) -> &str {
        &self.qemu_version
    }
}

impl Bench {
    /// The command of one end of a move: the same machine for both contenders, as far as they have one.
    pub(super) fn command(&self, contender: Contender, end: End, files: &Files) -> Command {
        let mut command = match contender {
            Contender::Whimbrel => self.whimbrel(files),
            Contender::Qemu => self.qemu(files),
        };
        if end == End::Destination {
            let flag = if contender == Contender::Qemu { "-incoming" } else { "--incoming" };
            command.args([flag, "defer"]);
        }
        match &self.link {
            Some(link) => link.at(end, &command),
            None => command,
        }
    }

    fn whimbrel(&self, files: &Files) -> Command {
        let arguments = &self.arguments;
        let mut command = Command::new(&self.contenders.vmm);
        let backing = match self.backing {
            Backing::Hugetlb => "hugetlb",
            Backing::Memfd => "memfd",
        };
        command.args(["--memory", &arguments.memory.to_string(), "--memory-backing", backing]);
        command.args(["--cpus", &arguments.cpus.to_string()]);
        command.arg("--serial").arg(joined(["file:".as_ref(), files.serial.as_os_str()]));
        command.arg("--monitor").arg(joined(["unix:".as_ref(), files.socket.as_os_str()]));
        if self.link.is_some() {
            // Nobody else is on it.
            command.arg("--insecure");
        }
        // On both sides: the machine reboots from them where it is.
        command.arg("--kernel").arg(&self.kernel).args(["--cmdline", &self.command_line()]);
        command
    }

    /// A microvm without what the guest does not use. Software KVM refuses the MSR behind `arch-capabilities`.
    fn qemu(&self, files: &Files) -> Command {
        let arguments = &self.arguments;
        let memory = arguments.memory.mib().to_string();
        let mut command = Command::new(&self.contenders.qemu);
        command.args(["-M", "microvm,pit=off,pic=off,rtc=off,memory-backend=ram", "-m", &memory]);
        let huge = match self.backing {
            Backing::Hugetlb => ",hugetlb=on,hugetlbsize=2M",
            Backing::Memfd => ",share=on",
        };
        command.args(["-object", &format!("memory-backend-memfd,id=ram,size={memory}M{huge}")]);
        command.args([
            "-accel",
            "kvm",
            "-cpu",
            "host,-arch-capabilities",
            "-smp",
            &arguments.cpus.to_string(),
        ]);
        // Threads with names of their own, so that a profile can tell them apart.
        command.args(["-name", "bench,debug-threads=on"]);
        command.args(["-global", "virtio-mmio.force-legacy=off", "-nodefaults", "-display", "none"]);
        command.arg("-serial").arg(joined(["file:".as_ref(), files.serial.as_os_str()]));
        let socket = files.socket.as_os_str();
        command.arg("-qmp").arg(joined(["unix:".as_ref(), socket, ",server=on,wait=off".as_ref()]));
        command.arg("-kernel").arg(&self.kernel).args(["-append", &self.command_line()]);
        command
    }

    fn command_line(&self) -> String {
        let arguments = &self.arguments;
        if let Some(rate) = self.follows {
            let (fill, cpus) = (&arguments.fill, arguments.cpus);
            return format!("{rate} order=random fill={fill} cpus={cpus} report=100 waits=on");
        }
        format!(
            "work={} rate={} fill={} cpus={} report=250",
            arguments.work,
            arguments.rate.0,
            arguments.fill,
            // With --downtime the others are there to be stopped and saved, and sleep.
            if arguments.downtime { 1 } else { arguments.cpus.get() }
        )
    }
}

fn joined<const N: usize>(parts: [&std::ffi::OsStr; N]) -> OsString {
    parts.into_iter().collect()
}
