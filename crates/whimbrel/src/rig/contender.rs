use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    process::Command,
};

use comparison::Contender;
use config::{CpuCount, MemorySize};
use serde::Serialize;

use super::Files;

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backing {
    /// Huge pages of 2 MiB.
    Hugetlb,
    /// A memfd, in pages of 4 KiB.
    Memfd,
}

/// Their programs.
#[derive(Debug)]
pub(crate) struct Contenders {
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
pub(crate) struct ContenderError {
    program: PathBuf,
    source: std::io::Error,
}

/// Which end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
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

impl Contenders {
    pub(crate) fn new(vmm: PathBuf, qemu: &Path) -> Result<Self, ContenderError> {
        let failed = |source| ContenderError { program: qemu.to_owned(), source };
        let output = Command::new(qemu).arg("--version").output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        if !output.status.success() || !first.starts_with("QEMU") {
            return Err(failed(io::Error::other(format!("it is no QEMU: --version says '{first}'"))));
        }
        // "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
        let number = first.split_whitespace().nth(3).unwrap_or("of unknown version");
        Ok(Self { vmm, qemu: qemu.to_owned(), qemu_version: format!("QEMU {number}") })
    }

    /// Whimbrel's alone.
    pub(crate) fn alone(vmm: PathBuf) -> Self {
        Self { vmm, qemu: PathBuf::new(), qemu_version: String::new() }
    }

    pub(crate) fn qemu_version(&self) -> &str {
        &self.qemu_version
    }
}

/// A machine as both have it, as far as they can.
#[derive(Clone, Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) memory: MemorySize,
    pub(crate) cpus: CpuCount,
    pub(crate) backing: Backing,
    /// The workload guest's image.
    pub(crate) kernel: &'a Path,
    pub(crate) command_line: &'a str,
    /// A tap, and the hardware address of the card that is on it.
    pub(crate) card: Option<(&'a str, &'a str)>,
    /// Migrations leave the host of the process unencrypted, since nobody else is on the link.
    pub(crate) insecure: bool,
}

impl Contenders {
    /// The command of one end of a move.
    pub(crate) fn command(
        &self,
        contender: Contender,
        end: End,
        guest: &Guest<'_>,
        files: &Files,
    ) -> Command {
        let mut command = match contender {
            Contender::Whimbrel => self.whimbrel(guest, files),
            Contender::Qemu => self.qemu(guest, files),
        };
        if end == End::Destination {
            let flag = if contender == Contender::Qemu { "-incoming" } else { "--incoming" };
            command.args([flag, "defer"]);
        }
        command
    }

    fn whimbrel(&self, guest: &Guest<'_>, files: &Files) -> Command {
        let mut command = Command::new(&self.vmm);
        let backing = match guest.backing {
            Backing::Hugetlb => "hugetlb",
            Backing::Memfd => "memfd",
        };
        command.args(["--memory", &guest.memory.to_string(), "--memory-backing", backing]);
        command.args(["--cpus", &guest.cpus.to_string()]);
        command.arg("--serial").arg(joined(["file:".as_ref(), files.serial.as_os_str()]));
        command.arg("--monitor").arg(joined(["unix:".as_ref(), files.socket.as_os_str()]));
        if guest.insecure {
            command.arg("--insecure");
        }
        if let Some((tap, mac)) = guest.card {
            command.args(["--net", &format!("tap={tap},mac={mac}")]);
        }
        // On both sides: the machine reboots from them where it is.
        command.arg("--kernel").arg(guest.kernel).args(["--cmdline", guest.command_line]);
        command
    }

    /// A microvm without what the guest does not use. Software KVM refuses the MSR behind `arch-capabilities`.
    fn qemu(&self, guest: &Guest<'_>, files: &Files) -> Command {
        let memory = guest.memory.mib().to_string();
        let mut command = Command::new(&self.qemu);
        command.args(["-M", "microvm,pit=off,pic=off,rtc=off,memory-backend=ram", "-m", &memory]);
        let huge = match guest.backing {
            Backing::Hugetlb => ",hugetlb=on,hugetlbsize=2M",
            Backing::Memfd => ",share=on",
        };
        command.args(["-object", &format!("memory-backend-memfd,id=ram,size={memory}M{huge}")]);
        let cpus = guest.cpus.to_string();
        command.args(["-accel", "kvm", "-cpu", "host,-arch-capabilities", "-smp", &cpus]);
        // Threads with names of their own, so that a profile can tell them apart.
        command.args(["-name", "bench,debug-threads=on"]);
        command.args(["-global", "virtio-mmio.force-legacy=off", "-nodefaults", "-display", "none"]);
        command.arg("-serial").arg(joined(["file:".as_ref(), files.serial.as_os_str()]));
        let socket = files.socket.as_os_str();
        command.arg("-qmp").arg(joined(["unix:".as_ref(), socket, ",server=on,wait=off".as_ref()]));
        if let Some((tap, mac)) = guest.card {
            let backend = format!("tap,id=net0,ifname={tap},script=no,downscript=no");
            command.args(["-netdev", &backend]);
            command.args(["-device", &format!("virtio-net-device,netdev=net0,mac={mac}")]);
        }
        command.arg("-kernel").arg(guest.kernel).args(["-append", guest.command_line]);
        command
    }
}

fn joined<const N: usize>(parts: [&std::ffi::OsStr; N]) -> OsString {
    parts.into_iter().collect()
}
