use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use faults::Address;
use monitor::{ClientError, types::SocketAddress};
use serde_json::{Value, json};

use super::{SoakError, evidence::Runs};
use crate::rig::{Files, HOST, Interrupt, Machine, MachineError};

/// Where the machines of one guest are made: they share its disk.
#[derive(Debug)]
pub(super) struct Yard {
    folder: PathBuf,
    logs: PathBuf,
    kernel: PathBuf,
    vmm: PathBuf,
    disk: PathBuf,
    /// Certificates.
    tls: PathBuf,
    /// Machines that were made.
    count: u32,
    keep: bool,
}

/// A process that has the guest, or a place for it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) machine: Machine,
    pub(super) runs: Runs,
    /// Where it listens, if it waits for the guest.
    pub(super) address: Option<Address>,
    /// Whether it lets in encrypted connections, and no others.
    pub(super) encrypted: bool,
    /// Bytes of memory that it had when nothing had come.
    pub(super) empty_bytes: u64,
}

/// How long a process may be frozen.
const THAW_PATIENCE: Duration = Duration::from_secs(60);
/// Guest memory in MiB. Most of it is never touched, so that a round takes milliseconds.
const MEMORY_MIB: u32 = 32;
/// Of it, what the guest fills, dirties and checks. It writes 16 bytes to its serial port with each turn of its loop, of which an
/// emulated one makes a thousand each second: with more reports than this they pile up, and tell of the past.
const GUEST: &str = "own=12M work=4M rate=40M order=random verify=50 disk=25 report=100";
/// The guest uses the first 16 MiB.
const DISK_BYTES: u64 = 17 << 20;

impl Yard {
    pub(super) fn new(
        folder: &Path,
        logs: Option<&Path>,
        kernel: &Path,
        vmm: &Path,
        tls: &Path,
        number: u8,
    ) -> io::Result<Self> {
        let folder = folder.join(number.to_string());
        fs::create_dir_all(&folder)?;
        let logs_here = logs.map_or_else(|| folder.clone(), |logs| logs.join(number.to_string()));
        if let Some(logs) = logs {
            fs::create_dir_all(logs)?;
            // What guests of an earlier soak have said must not be taken for what these say.
            fs::create_dir(&logs_here)?;
        }
        let disk = folder.join("disk.img");
        fs::File::create(&disk)?.set_len(DISK_BYTES)?;
        let keep = logs.is_some();
        let (kernel, vmm, tls) = (kernel.into(), vmm.into(), tls.into());
        Ok(Self { folder, logs: logs_here, kernel, vmm, disk, tls, count: 0, keep })
    }

    /// Starts a process in which a fresh guest boots.
    pub(super) fn boot(&mut self, interrupt: &Interrupt) -> Result<Place, MachineError> {
        let machine = self.start(&[], interrupt)?;
        Ok(Place { machine, runs: Runs::from_start(), address: None, encrypted: false, empty_bytes: 0 })
    }

    /// Starts a process that waits for the guest.
    pub(super) fn vacancy(
        &mut self,
        unix: bool,
        encrypted: bool,
        interrupt: &Interrupt,
    ) -> Result<Place, MachineError> {
        let mut machine = self.start(&["--incoming", "defer"].map(OsString::from), interrupt)?;
        machine.execute("migrate-set-parameters", self.security(encrypted))?;
        let uri = if unix {
            format!("unix:{}", self.folder.join(format!("{}.in", self.count)).display())
        } else {
            "tcp:127.0.0.1:0".to_owned()
        };
        machine.execute("migrate-incoming", json!({ "uri": uri }))?;
        let addresses = machine.query_migrate()?.socket_address.unwrap_or_default();
        let address = addresses.into_iter().find_map(|address| match address {
            SocketAddress::Inet { host, port } => Some(Address::Tcp { host, port: port.parse().ok()? }),
            SocketAddress::Unix { path } => Some(Address::Unix(path.into())),
            _ => None,
        });
        let empty_bytes = machine.resident_bytes();
        Ok(Place { machine, runs: Runs::default(), address, encrypted, empty_bytes })
    }

    /// The parameters of both sides that encrypt migrations, or leave them in clear.
    pub(super) fn security(&self, encrypted: bool) -> Value {
        let directory = if encrypted { self.tls.display().to_string() } else { String::new() };
        json!({ "tls-creds": directory, "tls-hostname": HOST, "tls-authz": format!("ip:{HOST}") })
    }

    /// A path for a proxy's socket.
    pub(super) fn proxy_socket(&self) -> PathBuf {
        self.folder.join("proxy.sock")
    }

    /// Tidies up after a process that has ended.
    pub(super) fn forget(&self, files: &Files) {
        if !self.keep {
            for file in [&files.log, &files.serial, &files.socket] {
                // It may never have been made.
                let _ = fs::remove_file(file);
            }
        }
    }

    fn start(&mut self, more: &[OsString], interrupt: &Interrupt) -> Result<Machine, MachineError> {
        self.count += 1;
        let name = format!("{}", self.count);
        let files = Files {
            log: self.logs.join(format!("{name}.log")),
            serial: self.logs.join(format!("{name}.serial")),
            socket: self.folder.join(format!("{name}.qmp")),
        };
        let mut command = Command::new(&self.vmm);
        command.arg("--kernel").arg(&self.kernel).args(["--cmdline", GUEST]);
        command.args(["--name", "soak", "--cpus", "1", "--memory", &format!("{MEMORY_MIB}M")]);
        command.arg("--serial").arg(prefixed("file:", &files.serial));
        command.arg("--monitor").arg(prefixed("unix:", &files.socket));
        command.arg("--disk").arg(prefixed("path=", &self.disk));
        command.args(more);
        Machine::start(&name, command, files, interrupt)
    }
}

impl Place {
    /// Whether its process has ended, as a side of a migration that may have been killed.
    pub(super) fn is_dead(&mut self) -> bool {
        self.machine.has_ended()
    }

    /// An answer of its monitor; `None` if the process has ended. One that is frozen answers when it goes on.
    pub(super) fn ask<T>(
        &mut self,
        question: impl Fn(&mut Machine) -> Result<T, MachineError>,
    ) -> Result<Option<T>, SoakError> {
        let deadline = Instant::now() + THAW_PATIENCE;
        while !self.is_dead() {
            match question(&mut self.machine) {
                Ok(answer) => return Ok(Some(answer)),
                Err(MachineError::Died { .. }) => break,
                Err(MachineError::Monitor { source: ClientError::Timeout { .. }, .. })
                    if Instant::now() < deadline => {}
                Err(_) if self.is_dead() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}
