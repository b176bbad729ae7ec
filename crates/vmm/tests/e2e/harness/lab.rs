use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use super::{Vmm, skipped};

/// A directory for one test: the guest's image, sockets, logs, disks.
pub(crate) struct Lab {
    directory: Arc<TempDir>,
    kernel: PathBuf,
    machines: Cell<u32>,
}

/// What a machine is. Both sides of a migration are started with the same.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Size of guest memory.
    pub(crate) memory_mib: u64,
    /// vCPUs; the guest uses them all.
    pub(crate) cpus: u8,
    /// The guest's command line.
    pub(crate) guest: String,
    /// Other flags, one word each.
    pub(crate) flags: Vec<String>,
    /// The kernel, if it is another than the guest's image of the lab.
    pub(crate) kernel: Kernel,
    /// Where the serial port leads.
    pub(crate) serial: Serial,
    /// Where the log goes.
    pub(crate) stderr: Stderr,
    /// What the process is started with, in front of the program.
    pub(crate) prefix: Vec<String>,
}

/// What a machine is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The guest's image of the lab.
    Workload,
    /// Another file.
    File(PathBuf),
    /// None: a place for a machine needs none to start.
    None,
}

/// Where a log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stderr {
    /// To a file, which is shown when a test fails.
    File,
    /// To a pipe whose reader is gone.
    Gone,
    /// To a pipe that is full and that nobody reads.
    Stuck,
    /// To /dev/full.
    Full,
}

/// Where a serial port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Serial {
    /// To a file, and nothing comes from there.
    File,
    /// To this file.
    FileAt(PathBuf),
    /// Output to a file, input from a pipe in which tests type.
    Typed,
    /// To a socket.
    Socket(PathBuf),
}

impl Lab {
    /// A place to run machines, or none and a loud word where KVM cannot be used.
    pub(crate) fn new() -> Option<Self> {
        if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
            skipped(&format!("/dev/kvm cannot be used ({error})"));
            return None;
        }
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let kernel = guests::write_workload(directory.path()).unwrap();
        Some(Self { directory, kernel, machines: Cell::new(0) })
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path of the guest's image.
    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// Makes a disk image of that many MiB and returns its path.
    pub(crate) fn disk(&self, name: &str, mib: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
        path
    }

    /// Starts a machine that boots.
    pub(crate) fn boot(&self, spec: &Spec) -> Vmm {
        Vmm::start(&self.directory, &self.name(), &self.flags(spec), spec)
    }

    /// Starts a place for a machine, which listens nowhere yet.
    pub(crate) fn vacancy(&self, spec: &Spec) -> Vmm {
        let mut flags = self.flags(spec);
        flags.extend(["--incoming".into(), "defer".into()]);
        Vmm::start(&self.directory, &self.name(), &flags, spec)
    }

    /// The flags of a machine, but for those that differ between two processes.
    pub(crate) fn flags(&self, spec: &Spec) -> Vec<String> {
        let mut flags: Vec<String> =
            vec!["--memory".into(), format!("{}M", spec.memory_mib), "--cpus".into(), spec.cpus.to_string()];
        let kernel = match &spec.kernel {
            Kernel::Workload => Some(&self.kernel),
            Kernel::File(path) => Some(path),
            Kernel::None => None,
        };
        if let Some(kernel) = kernel {
            flags.extend(["--kernel".into(), kernel.display().to_string()]);
            let command_line = format!("cpus={} report=100 {}", spec.cpus, spec.guest);
            flags.extend(["--cmdline".into(), command_line]);
        }
        flags.extend(spec.flags.iter().cloned());
        flags
    }

    /// Machines are called a, b, c …
    fn name(&self) -> String {
        let index = self.machines.replace(self.machines.get() + 1);
        char::from_u32('a' as u32 + index % 26).map_or_else(String::new, |letter| letter.to_string())
    }
}

impl Spec {
    /// One CPU, 96 MiB, and a guest that works as its command line says.
    pub(crate) fn new(guest: &str) -> Self {
        Self {
            memory_mib: 96,
            cpus: 1,
            guest: guest.into(),
            flags: Vec::new(),
            kernel: Kernel::Workload,
            serial: Serial::File,
            stderr: Stderr::File,
            prefix: Vec::new(),
        }
    }

    /// A guest that dirties a little and checks a little, for tests that look at something else.
    pub(crate) fn calm() -> Self {
        Self::new("work=4M rate=2M verify=10")
    }

    pub(crate) fn memory_mib(self, memory_mib: u64) -> Self {
        Self { memory_mib, ..self }
    }

    pub(crate) fn cpus(self, cpus: u8) -> Self {
        Self { cpus, ..self }
    }

    pub(crate) fn flag(self, flag: &str, value: &str) -> Self {
        self.with(&[flag, value])
    }

    pub(crate) fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn disk(self, image: &Path) -> Self {
        self.flag("--disk", &format!("path={}", image.display()))
    }

    pub(crate) fn kernel(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    pub(crate) fn stderr(self, stderr: Stderr) -> Self {
        Self { stderr, ..self }
    }

    pub(crate) fn typed(self) -> Self {
        Self { serial: Serial::Typed, ..self }
    }

    pub(crate) fn serial_file(self, path: &Path) -> Self {
        Self { serial: Serial::FileAt(path.to_owned()), ..self }
    }

    pub(crate) fn serial_socket(self, path: &Path) -> Self {
        Self { serial: Serial::Socket(path.to_owned()), ..self }
    }

    pub(crate) fn prefix(self, prefix: &[String]) -> Self {
        Self { prefix: prefix.to_vec(), ..self }
    }
}
