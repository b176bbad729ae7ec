use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    CommandLine, ConfigError, Cpu, CpuCount, DirectoryPath, DirtyLogKind, FilePath, Incoming, MemorySize,
    MonitorSocket, RawDisk, RawNet, SerialPort, UserfaultDevice, VmName, options::switch,
};

/// A machine description as it was typed, in flags or in YAML. What is missing was not typed.
///
/// The keys of the YAML file are the long names of the flags, except that `--disk` and `--net` are the lists `disks` and
/// `nets`. The documentation of each field is the text of `--help`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawConfig {
    /// Name of the VM, in messages and in derived MAC addresses: 1 to 63 letters, digits, '-', '_', '.' [default: vm]
    ///
    /// VMs on one network need different names, or explicit MAC addresses. Example: --name db-1
    #[arg(long, help_heading = MACHINE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<VmName>,

    /// UUID of the VM, as management tools know it [default: none]
    ///
    /// Example: --uuid 6c1a4b5e-7f0e-4a3c-9b57-3d2f9a1c0e11
    #[arg(long, help_heading = MACHINE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,

    /// Size of guest memory: 2M to 8T in multiples of 2M; units K, M, G, T (powers of 1024) [default: 512M]
    ///
    /// Example: --memory 4G
    #[arg(long, short = 'm', value_name = "SIZE", help_heading = MACHINE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemorySize>,

    /// What guest memory is made of [default: anonymous]
    ///
    /// Pages of hugetlb come from the pool in /proc/sys/vm/nr_hugepages and are reserved at once. Example:
    /// --memory-backing hugetlb
    #[arg(long, value_name = "KIND", help_heading = MACHINE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_backing: Option<Backing>,

    /// Number of vCPUs: 1 to 64 [default: 1]
    ///
    /// Example: --cpus 4
    #[arg(long, value_name = "N", help_heading = MACHINE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuCount>,

    /// What the guest sees of its processor: host, or a model, with ,+FEATURE and ,-FEATURE behind it [default: host]
    ///
    /// With host it sees all that this host can show and move, and can move to hosts that have all of it. With a model it sees the same on
    /// every host: choose one that all hosts have where it may go (`whimbrel cpu-baseline` finds it from the output of --print-cpu).
    /// Models and features have QEMU's names; `--cpu help` lists them. Both sides of a migration are started with the same. Example:
    /// --cpu x86-64-v3,+aes
    #[arg(long, value_name = "MODEL", help_heading = MACHINE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,

    /// How it is found out which pages the guest writes: auto, bitmap, ring or ring=ENTRIES [default: auto]
    ///
    /// A bitmap has a bit for every page. A ring has an entry for every page that a vCPU wrote, and says which one it was: 1024 to 65536
    /// entries of 16 bytes for each vCPU, a power of two [default: 65536]. auto is the bitmap. docs/features.md says what each is
    /// for. Either side of a migration has its own. Example: --dirty-log ring
    #[arg(long, value_name = "KIND", help_heading = MACHINE)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_log: Option<DirtyLogKind>,

    /// Kernel to boot: an ELF file with a PVH note, or a bzImage. Required, except with --incoming
    ///
    /// Example: --kernel /boot/vmlinuz
    #[arg(long, value_name = "FILE", help_heading = BOOT)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<FilePath>,

    /// Initial RAM disk for the kernel [default: none]
    ///
    /// Example: --initrd /boot/initrd.img
    #[arg(long, value_name = "FILE", help_heading = BOOT)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<FilePath>,

    /// Command line for the kernel: one line of at most 2047 bytes [default: empty]
    ///
    /// Example: --cmdline "console=ttyS0 root=/dev/vda"
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = BOOT)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<CommandLine>,

    /// A disk; can be given up to 8 times: path=FILE[,readonly=on][,direct=on][,serial=TEXT][,werror=WHAT][,rerror=WHAT][,lock=HOW][,format=raw]
    ///
    /// FILE is a raw image or a block device. direct=on goes past the page cache of the host (O_DIRECT). The serial is 1
    /// to 20 letters, digits, '-', '_' or '.' [default: diskN, counted from 0]. Commas in FILE are written twice.
    /// werror and rerror say what becomes of writes and reads that fail: stop stops the machine (status io-error) until cont, which tries
    /// again; report tells the guest; enospc, for writes, stops where there is no space and reports the rest [default: werror=enospc,
    /// rerror=report]. lock=warn goes on, with a warning, where the storage has no locks; lock=off locks nothing, and two machines may
    /// write one image [default: on]. An image that begins like one of another format (qcow2, VMDK, …) is refused, and the guest cannot
    /// write such a beginning, unless format=raw says that it is raw all the same [default: probe].
    /// Example: --disk path=root.img,serial=root --disk path=data.img,readonly=on
    #[arg(long = "disk", value_name = "DISK", help_heading = DEVICES)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<RawDisk>,

    /// A network card; can be given up to 4 times: tap=NAME[,mac=ADDRESS] or fd=N[,mac=ADDRESS]
    ///
    /// NAME is a tap interface of the host, N an open tap that this process inherits (3 or more). The MAC address must not
    /// be multicast [default: locally administered, always the same for this --name and position]. Example: --net
    /// tap=tap0,mac=02:00:00:00:00:01
    #[arg(long = "net", value_name = "NET", help_heading = DEVICES)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<RawNet>,

    /// Random number generator: on or off [default: on]
    ///
    /// Example: --rng off
    #[arg(long, value_name = "SWITCH", value_parser = switch, help_heading = DEVICES)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<bool>,

    /// Memory balloon: on or off [default: on]
    ///
    /// Example: --balloon off
    #[arg(long, value_name = "SWITCH", value_parser = switch, help_heading = DEVICES)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<bool>,

    /// Keyboard: on or off [default: off]
    ///
    /// Example: --keyboard on
    #[arg(long, value_name = "SWITCH", value_parser = switch, help_heading = DEVICES)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyboard: Option<bool>,

    /// Where the serial port leads: stdio, none, file:PATH, unix:PATH or unix:PATH,logfile=FILE [default: stdio]
    ///
    /// With unix:PATH the VMM listens, and serves one client at a time; output goes to the log file too, whether there is one or not. Example: --serial file:console.log
    #[arg(long, value_name = "PLACE", help_heading = DEVICES)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<SerialPort>,

    /// Listen for QMP on a unix socket: unix:PATH [default: no monitor]
    ///
    /// QEMU's spelling unix:PATH,server=on,wait=off means the same. Commas in PATH are written twice. Example: --monitor
    /// unix:/run/db-1.sock
    #[arg(long, visible_alias = "qmp", value_name = "unix:PATH", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none", alias = "qmp")]
    pub monitor: Option<MonitorSocket>,

    /// Await a migration instead of booting: tcp:HOST:PORT, unix:PATH or defer [default: boot]
    ///
    /// The machine must be described as on the source, except for what --may-differ permits. HOST is an address or a name, IPv6 in brackets; PORT 0 to 65535,
    /// where 0 has the system choose. With defer, the monitor command migrate-incoming says where. Example: --incoming
    /// tcp:[::1]:4444
    #[arg(long, value_name = "WHERE", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming: Option<Incoming>,

    /// In what a machine that is migrated in may differ from this description [default: in nothing]
    ///
    /// A list of: name, uuid, mac, image. Without it a machine that is another one than described here is refused before
    /// anything moves. Permit a difference only if you know its reason: the machine was renamed, an image was moved. If it
    /// is an accident, image has the guest write on a disk that is not its own and destroy what is there; with uuid and name
    /// one machine can end up in the place of another; with mac the network here may not know the machine. The machine keeps
    /// its UUID and its MAC addresses, and has the name that is given here. Needs --incoming. Example: --may-differ name,mac
    #[arg(long, value_name = "WHAT", value_delimiter = ',', help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_differ: Option<Vec<Identity>>,

    /// For postcopy, have page faults heard by an inherited descriptor of /dev/userfaultfd: fd=N [default: open it]
    ///
    /// For a process that may not open the device itself: whoever starts it opens the device for reading and writing, and leaves the
    /// descriptor open, N being 3 or more. Needs --incoming. Example: --userfaultfd fd=9 9<>/dev/userfaultfd
    #[arg(long, value_name = "WHICH", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userfaultfd: Option<UserfaultDevice>,

    /// Encrypt migrations with the certificates in a directory [default: none; required beyond this host]
    ///
    /// Files as QEMU names them: ca-cert.pem, and server-cert.pem and server-key.pem to receive, client-cert.pem and
    /// client-key.pem to send. `whimbrel ca` makes them; docs/security.md has the rest. They are read anew for every migration.
    /// Example: --tls /etc/whimbrel/tls
    #[arg(long, value_name = "DIR", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<DirectoryPath>,

    /// The name that the destination's certificate must have [default: the host that is dialled]
    ///
    /// Example: --tls-hostname host-b.example.org
    #[arg(long, value_name = "NAME", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_hostname: Option<String>,

    /// Which sources may come, by names in their certificates [default: none]
    ///
    /// A list, separated by semicolons: dns:NAME, uri:URI (SPIFFE IDs too), ip:ADDRESS, a whole subject as CN=host-a,O=Example, or
    /// an asterisk for everyone with a certificate of the CA. An asterisk within a name stands for any characters. Example:
    /// --tls-authz 'dns:host-a.example.org;dns:host-b.example.org'
    #[arg(long, value_name = "WHO", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_authz: Option<String>,

    /// Allow migration in clear over addresses that other hosts can reach: on or off [default: off]
    ///
    /// Without --tls migration is not encrypted: whoever can read the network reads the guest's memory, and whoever can write it
    /// owns the guest. Without a value it means on.
    #[arg(long, value_name = "SWITCH", num_args = 0..=1, require_equals = true, default_missing_value = "on",
          value_parser = switch, help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,

    /// Do not run the guest until the monitor command cont: on or off [default: off]
    ///
    /// Without a value it means on; -S is the same.
    #[arg(long, short = 'S', value_name = "SWITCH", num_args = 0..=1, require_equals = true,
          default_missing_value = "on", value_parser = switch, help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,

    /// Confine each thread to the system calls that it needs [default: on]
    ///
    /// Example: --seccomp log
    #[arg(long, value_name = "MODE", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,

    /// Leave a report of every migration in this directory, which must exist [default: no files]
    ///
    /// One JSON file for each attempt, completed or not, called by its time, its session and the side. `whimbrel report FILE`
    /// shows it; the last one can also be had from the monitor. Example: --report-dir /var/lib/whimbrel/reports
    #[arg(long, value_name = "DIR", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_dir: Option<DirectoryPath>,

    /// How much to say on stderr [default: info]
    ///
    /// Example: --log debug
    #[arg(long, value_name = "LEVEL", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogLevel>,

    /// How lines on stderr are written [default: text]
    ///
    /// Example: --log-format json
    #[arg(long, value_name = "FORMAT", help_heading = PROCESS)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
}

const MACHINE: &str = "Machine";
const BOOT: &str = "Boot";
const DEVICES: &str = "Devices";
const PROCESS: &str = "Process";

/// What guest memory is made of on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Private anonymous memory
    Anonymous,
    /// A memfd: shared memory that has a descriptor
    Memfd,
    /// 2 MiB huge pages
    Hugetlb,
}

/// By what a machine is known, beyond what its guest needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// Its name
    Name,
    /// Its UUID
    Uuid,
    /// The MAC addresses of its network cards
    Mac,
    /// The images of its disks
    Image,
}

/// What happens on a system call that a thread has no need of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// The process is ended
    On,
    /// Nothing, there is no filter
    Off,
    /// It is logged by the kernel and carried out
    Log,
}

/// How much is said on stderr. Each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What went wrong
    Error,
    /// What may go wrong
    Warn,
    /// What happens to the VM
    Info,
    /// What the VMM does
    Debug,
    /// Every step
    Trace,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people
    Text,
    /// An object of JSON each
    Json,
}

impl RawConfig {
    /// Reads YAML. `origin` is what error messages call it, for example its path.
    ///
    /// # Errors
    /// The text is not YAML, has an unknown or repeated key, or a value that is not possible. The message has the line.
    pub fn from_yaml(yaml: &str, origin: &str) -> Result<Self, ConfigError> {
        // An excerpt would repeat the message below the line it shows; line and column are enough.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| ConfigError::Yaml { origin: origin.into(), detail: error.to_string() })
    }

    /// These values over those of `base`: a value that is missing here is taken from `base`; disks and network cards are
    /// added after those of `base`.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            name: self.name.or(base.name),
            uuid: self.uuid.or(base.uuid),
            memory: self.memory.or(base.memory),
            memory_backing: self.memory_backing.or(base.memory_backing),
            cpus: self.cpus.or(base.cpus),
            cpu: self.cpu.or(base.cpu),
            dirty_log: self.dirty_log.or(base.dirty_log),
            kernel: self.kernel.or(base.kernel),
            initrd: self.initrd.or(base.initrd),
            cmdline: self.cmdline.or(base.cmdline),
            disks: [base.disks, self.disks].concat(),
            nets: [base.nets, self.nets].concat(),
            rng: self.rng.or(base.rng),
            balloon: self.balloon.or(base.balloon),
            keyboard: self.keyboard.or(base.keyboard),
            serial: self.serial.or(base.serial),
            monitor: self.monitor.or(base.monitor),
            incoming: self.incoming.or(base.incoming),
            may_differ: self.may_differ.or(base.may_differ),
            userfaultfd: self.userfaultfd.or(base.userfaultfd),
            tls: self.tls.or(base.tls),
            tls_hostname: self.tls_hostname.or(base.tls_hostname),
            tls_authz: self.tls_authz.or(base.tls_authz),
            insecure: self.insecure.or(base.insecure),
            paused: self.paused.or(base.paused),
            seccomp: self.seccomp.or(base.seccomp),
            report_dir: self.report_dir.or(base.report_dir),
            log: self.log.or(base.log),
            log_format: self.log_format.or(base.log_format),
        }
    }
}
