use std::path::Path;

use address::Address;
use uuid::Uuid;

use crate::{
    Backing, CommandLine, ConfigError, Cpu, CpuCount, DirectoryPath, DirtyLogKind, Disk, DiskSerial,
    FilePath, Identity, Incoming, LogFormat, LogLevel, MacAddress, MemorySize, MonitorSocket, Net,
    NetBackend, RawConfig, RawDisk, RawNet, Seccomp, SerialPort, UserfaultDevice, VmName, path::same_path,
};

/// Most disks that a machine has.
pub const MAX_DISKS: usize = 8;
/// Most network cards that a machine has.
pub const MAX_NETS: usize = 4;

/// A machine description that is complete and consistent. There is no other way to one than [`Config::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    name: VmName,
    uuid: Option<Uuid>,
    memory: MemorySize,
    memory_backing: Backing,
    cpus: CpuCount,
    cpu: Cpu,
    dirty_log: DirtyLogKind,
    boot: Option<Boot>,
    disks: Vec<Disk>,
    nets: Vec<Net>,
    rng: bool,
    balloon: bool,
    keyboard: bool,
    serial: SerialPort,
    monitor: Option<MonitorSocket>,
    incoming: Option<Incoming>,
    may_differ: Vec<Identity>,
    userfaultfd: Option<UserfaultDevice>,
    tls: Option<DirectoryPath>,
    tls_hostname: Option<String>,
    tls_authz: Option<String>,
    insecure: bool,
    paused: bool,
    seccomp: Seccomp,
    report_dir: Option<DirectoryPath>,
    log: LogLevel,
    log_format: LogFormat,
}

/// What to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    kernel: FilePath,
    initrd: Option<FilePath>,
    cmdline: CommandLine,
}

impl Config {
    /// Fills in the defaults and checks what no single value can show.
    ///
    /// # Errors
    /// Too many devices, two devices that cannot be told apart or share what cannot be shared, nothing to boot, a migration
    /// port that is open to other hosts without `tls` or `insecure`, one that is encrypted and lets nobody in, or a difference
    /// permitted to a machine that does not come.
    pub fn new(raw: RawConfig) -> Result<Self, ConfigError> {
        let name = raw.name.unwrap_or_else(VmName::unnamed);
        let config = Self {
            boot: boot(raw.kernel, raw.initrd, raw.cmdline)?,
            disks: disks(raw.disks)?,
            nets: nets(raw.nets, &name)?,
            name,
            uuid: raw.uuid,
            memory: raw.memory.unwrap_or(MemorySize::DEFAULT),
            memory_backing: raw.memory_backing.unwrap_or(Backing::Anonymous),
            cpus: raw.cpus.unwrap_or(CpuCount::ONE),
            cpu: raw.cpu.unwrap_or(Cpu::HOST),
            dirty_log: raw.dirty_log.unwrap_or_default(),
            rng: raw.rng.unwrap_or(true),
            balloon: raw.balloon.unwrap_or(true),
            keyboard: raw.keyboard.unwrap_or(false),
            serial: raw.serial.unwrap_or(SerialPort::Stdio),
            monitor: raw.monitor,
            incoming: raw.incoming,
            may_differ: raw.may_differ.unwrap_or_default(),
            userfaultfd: raw.userfaultfd,
            tls: raw.tls,
            tls_hostname: raw.tls_hostname,
            tls_authz: raw.tls_authz,
            insecure: raw.insecure.unwrap_or(false),
            paused: raw.paused.unwrap_or(false),
            seccomp: raw.seccomp.unwrap_or(Seccomp::On),
            report_dir: raw.report_dir,
            log: raw.log.unwrap_or(LogLevel::Info),
            log_format: raw.log_format.unwrap_or(LogFormat::Text),
        };
        if config.boot.is_none() && config.incoming.is_none() {
            return Err(ConfigError::MissingKernel);
        }
        if config.incoming.is_none() && !config.may_differ.is_empty() {
            return Err(ConfigError::WithoutIncoming { field: "may-differ" });
        }
        if config.incoming.is_none() && config.userfaultfd.is_some() {
            return Err(ConfigError::WithoutIncoming { field: "userfaultfd" });
        }
        config.check_protection()?;
        config.check_sockets()?;
        Ok(config)
    }

    /// That a port for migrations is protected, and that someone may use it.
    fn check_protection(&self) -> Result<(), ConfigError> {
        match (&self.incoming, &self.tls) {
            (Some(Incoming::At(address)), None) if !self.insecure && !address.is_loopback() => {
                Err(ConfigError::Insecure { address: address.clone() })
            }
            (Some(Incoming::At(_)), Some(_)) if self.tls_authz.is_none() => Err(ConfigError::NobodyMayCome),
            _ => Ok(()),
        }
    }

    /// The description as YAML, with every default written out. Reading it gives the same description again.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        // Fails only where serialisation of a field fails, and none of ours can.
        serde_saphyr::to_string(&RawConfig::from(self)).unwrap_or_default()
    }

    fn check_sockets(&self) -> Result<(), ConfigError> {
        let monitor = self.monitor.as_ref().map(|monitor| ("monitor", monitor.path().as_path()));
        let serial = match &self.serial {
            SerialPort::Unix { socket, .. } => Some(("serial", socket.as_path())),
            _ => None,
        };
        let incoming = match &self.incoming {
            Some(Incoming::At(Address::Unix(path))) => Some(("incoming", path.as_path())),
            _ => None,
        };
        let sockets: Vec<(&'static str, &Path)> = [monitor, serial, incoming].into_iter().flatten().collect();
        match same(&sockets, |a, b| same_path(a.1, b.1)) {
            Some((a, b)) => Err(ConfigError::SameSocket {
                first: sockets[a].0,
                second: sockets[b].0,
                path: sockets[a].1.to_owned(),
            }),
            None => Ok(()),
        }
    }
}

fn boot(
    kernel: Option<FilePath>,
    initrd: Option<FilePath>,
    cmdline: Option<CommandLine>,
) -> Result<Option<Boot>, ConfigError> {
    match kernel {
        Some(kernel) => Ok(Some(Boot { kernel, initrd, cmdline: cmdline.unwrap_or_default() })),
        None if initrd.is_some() => Err(ConfigError::WithoutKernel { field: "initrd" }),
        None if cmdline.is_some() => Err(ConfigError::WithoutKernel { field: "cmdline" }),
        None => Ok(None),
    }
}

fn disks(raw: Vec<RawDisk>) -> Result<Vec<Disk>, ConfigError> {
    if raw.len() > MAX_DISKS {
        return Err(ConfigError::TooMany { what: "disks", count: raw.len(), limit: MAX_DISKS });
    }
    let disk = |(index, raw): (usize, RawDisk)| Disk {
        path: raw.path,
        readonly: raw.readonly,
        direct: raw.direct,
        serial: raw.serial.unwrap_or_else(|| DiskSerial::numbered(index)),
        werror: raw.werror,
        rerror: raw.rerror,
        lock: raw.lock,
        format: raw.format,
    };
    let disks: Vec<Disk> = raw.into_iter().enumerate().map(disk).collect();
    if let Some((first, second)) = same(&disks, |a, b| same_path(a.path.as_path(), b.path.as_path())) {
        return Err(ConfigError::SameDisk { first, second, path: disks[first].path.clone() });
    }
    if let Some((first, second)) = same(&disks, |a, b| a.serial == b.serial) {
        let serial = disks[first].serial.to_string();
        return Err(ConfigError::SameDiskSerial { first, second, serial });
    }
    Ok(disks)
}

fn nets(raw: Vec<RawNet>, name: &VmName) -> Result<Vec<Net>, ConfigError> {
    if raw.len() > MAX_NETS {
        return Err(ConfigError::TooMany { what: "nets", count: raw.len(), limit: MAX_NETS });
    }
    let net = |(index, raw): (usize, RawNet)| {
        let backend = match (raw.tap, raw.fd) {
            (Some(tap), None) => NetBackend::Tap(tap),
            (None, Some(fd)) => NetBackend::Fd(fd),
            _ => return Err(ConfigError::NetBackend { index }),
        };
        Ok(Net { backend, mac: raw.mac.unwrap_or_else(|| MacAddress::derived(name, index)) })
    };
    let nets = raw.into_iter().enumerate().map(net).collect::<Result<Vec<_>, _>>()?;
    if let Some((first, second)) = same(&nets, |a, b| a.backend == b.backend) {
        return Err(ConfigError::SameNetBackend { first, second, backend: nets[first].backend.clone() });
    }
    if let Some((first, second)) = same(&nets, |a, b| a.mac == b.mac) {
        return Err(ConfigError::SameMac { first, second, mac: nets[first].mac });
    }
    Ok(nets)
}

/// The indices of the first two items that are the same.
fn same<T>(items: &[T], same: impl Fn(&T, &T) -> bool) -> Option<(usize, usize)> {
    (0..items.len())
        .flat_map(|second| (0..second).map(move |first| (first, second)))
        .find(|&(first, second)| same(&items[first], &items[second]))
}

impl From<&Config> for RawConfig {
    fn from(config: &Config) -> Self {
        let disk = |disk: &Disk| RawDisk {
            path: disk.path.clone(),
            readonly: disk.readonly,
            direct: disk.direct,
            serial: Some(disk.serial.clone()),
            werror: disk.werror,
            rerror: disk.rerror,
            lock: disk.lock,
            format: disk.format,
        };
        let net = |net: &Net| {
            let (tap, fd) = match &net.backend {
                NetBackend::Tap(name) => (Some(name.clone()), None),
                NetBackend::Fd(fd) => (None, Some(*fd)),
            };
            RawNet { tap, fd, mac: Some(net.mac) }
        };
        Self {
            name: Some(config.name.clone()),
            uuid: config.uuid,
            memory: Some(config.memory),
            memory_backing: Some(config.memory_backing),
            cpus: Some(config.cpus),
            cpu: Some(config.cpu.clone()),
            dirty_log: Some(config.dirty_log),
            kernel: config.boot.as_ref().map(|boot| boot.kernel.clone()),
            initrd: config.boot.as_ref().and_then(|boot| boot.initrd.clone()),
            cmdline: config.boot.as_ref().map(|boot| boot.cmdline.clone()),
            disks: config.disks.iter().map(disk).collect(),
            nets: config.nets.iter().map(net).collect(),
            rng: Some(config.rng),
            balloon: Some(config.balloon),
            keyboard: Some(config.keyboard),
            serial: Some(config.serial.clone()),
            monitor: config.monitor.clone(),
            incoming: config.incoming.clone(),
            may_differ: Some(config.may_differ.clone()).filter(|permitted| !permitted.is_empty()),
            userfaultfd: config.userfaultfd,
            tls: config.tls.clone(),
            tls_hostname: config.tls_hostname.clone(),
            tls_authz: config.tls_authz.clone(),
            insecure: Some(config.insecure),
            paused: Some(config.paused),
            seccomp: Some(config.seccomp),
            report_dir: config.report_dir.clone(),
            log: Some(config.log),
            log_format: Some(config.log_format),
        }
    }
}

impl Boot {
    /// The kernel: ELF with a PVH note, or bzImage.
    #[must_use]
    pub fn kernel(&self) -> &FilePath {
        &self.kernel
    }

    /// The initial RAM disk.
    #[must_use]
    pub fn initrd(&self) -> Option<&FilePath> {
        self.initrd.as_ref()
    }

    /// The command line for the kernel, possibly empty.
    #[must_use]
    pub fn cmdline(&self) -> &CommandLine {
        &self.cmdline
    }
}

impl Config {
    /// Name of the VM.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// UUID of the VM, if it was given one.
    #[must_use]
    pub fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    /// Size of guest memory.
    #[must_use]
    pub fn memory(&self) -> MemorySize {
        self.memory
    }

    /// What guest memory is made of.
    #[must_use]
    pub fn memory_backing(&self) -> Backing {
        self.memory_backing
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn cpus(&self) -> CpuCount {
        self.cpus
    }

    /// What the guest sees of its processor.
    #[must_use]
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// How it is found out which pages the guest writes.
    #[must_use]
    pub fn dirty_log(&self) -> DirtyLogKind {
        self.dirty_log
    }

    /// What to boot. `None` only for a machine that is migrated in.
    #[must_use]
    pub fn boot(&self) -> Option<&Boot> {
        self.boot.as_ref()
    }

    /// The disks, at most [`MAX_DISKS`].
    #[must_use]
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// The network cards, at most [`MAX_NETS`].
    #[must_use]
    pub fn nets(&self) -> &[Net] {
        &self.nets
    }

    /// Whether there is a random number generator.
    #[must_use]
    pub fn rng(&self) -> bool {
        self.rng
    }

    /// Whether there is a memory balloon.
    #[must_use]
    pub fn balloon(&self) -> bool {
        self.balloon
    }

    /// Whether there is a keyboard.
    #[must_use]
    pub fn keyboard(&self) -> bool {
        self.keyboard
    }

    /// Where the serial port leads.
    #[must_use]
    pub fn serial(&self) -> &SerialPort {
        &self.serial
    }

    /// Where the monitor listens, if there is one.
    #[must_use]
    pub fn monitor(&self) -> Option<&MonitorSocket> {
        self.monitor.as_ref()
    }

    /// Where the machine is migrated in from. `None`: it boots.
    #[must_use]
    pub fn incoming(&self) -> Option<&Incoming> {
        self.incoming.as_ref()
    }

    /// In what a machine that is migrated in may differ from this one.
    #[must_use]
    pub fn may_differ(&self) -> &[Identity] {
        &self.may_differ
    }

    /// The device that makes userfaultfds, where it is not to be opened.
    #[must_use]
    pub fn userfaultfd(&self) -> Option<UserfaultDevice> {
        self.userfaultfd
    }

    /// The directory of certificates that migrations are encrypted with.
    #[must_use]
    pub fn tls(&self) -> Option<&DirectoryPath> {
        self.tls.as_ref()
    }

    /// The name that a destination's certificate must have.
    #[must_use]
    pub fn tls_hostname(&self) -> Option<&str> {
        self.tls_hostname.as_deref()
    }

    /// Which sources may come.
    #[must_use]
    pub fn tls_authz(&self) -> Option<&str> {
        self.tls_authz.as_deref()
    }

    /// Whether migration may go in clear over addresses that other hosts can reach.
    #[must_use]
    pub fn insecure(&self) -> bool {
        self.insecure
    }

    /// Whether the guest waits for `cont` before it runs.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// How the threads are confined.
    #[must_use]
    pub fn seccomp(&self) -> Seccomp {
        self.seccomp
    }

    /// Where migrations leave their reports, if they shall.
    #[must_use]
    pub fn report_dir(&self) -> Option<&DirectoryPath> {
        self.report_dir.as_ref()
    }

    /// How much is said on stderr.
    #[must_use]
    pub fn log(&self) -> LogLevel {
        self.log
    }

    /// How lines on stderr are written.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }
}
