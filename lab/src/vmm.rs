//! One `whimbrel-vmm` in a host, driven over its monitor.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use monitor::{
    Client, ClientError,
    types::{MigrationInfo, MigrationStatus, RunState},
};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::{Host, Lab, LabError, Pace, Remote, Spawned};

/// How long a monitor may take to be there, and to answer. The emulated processor is slow.
const MONITOR: Duration = Duration::from_secs(20);
/// How long a guest's boot may take.
const GUEST_BOOT: Duration = Duration::from_secs(90);
/// How long a migration may take.
const MIGRATION: Duration = Duration::from_secs(120);
/// A kernel's own limits in wall time, stretched: a CPU that gets no time is a matter of this machine, unless it is for long
/// (Linux, Documentation/admin-guide/kernel-parameters.txt).
pub(crate) const WATCHDOGS: &str = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120";
/// The port at which destinations listen.
const PORT: u16 = 4444;

/// What a machine is. Both sides of a migration are started with the same.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it boots.
    pub kernel: Kernel,
    /// vCPUs.
    pub cpus: u8,
    /// Memory.
    pub memory_mib: u32,
    /// More for the kernel's command line.
    pub cmdline: String,
    /// More flags of `whimbrel-vmm`, one word each.
    pub flags: Vec<String>,
    /// How it is protected where it moves.
    pub protection: Protection,
}

/// How migrations are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Not at all: nobody but the lab is on the network.
    InClear,
    /// By the certificates that are in [`Spec::CERTIFICATES`] in both hosts, whose names are those of the hosts.
    Certified,
}

/// What a machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's kernel as it is shipped, a bzImage.
    Vmlinuz,
    /// The same as an ELF file, entered by PVH.
    Vmlinux,
    /// This project's workload guest.
    Workload,
}

/// One process of `whimbrel-vmm` in a host. It ends when this is dropped.
#[derive(Debug)]
pub struct Vmm<'lab> {
    host: &'lab Host,
    pace: &'lab Pace,
    process: Spawned,
    client: Mutex<Client>,
    name: String,
    socket: PathBuf,
    evidence: PathBuf,
}

/// What is known of a process that runs when nobody waits for it any more: what its threads wait for and how much time they take,
/// and, by KVM's own counters and trace points, what its guest does.
const EVIDENCE: &str = r#"
    exec 2>&1
    tr '\0' ' ' < /proc/$pid/cmdline; echo
    threads() { for t in /proc/$pid/task/*; do echo "$(cat $t/comm): $(cat $t/wchan) $(cut -d' ' -f3,14,15 $t/stat)"; done; }
    threads
    [ -d /sys/kernel/debug/tracing ] || mount -t debugfs debugfs /sys/kernel/debug
    cd /sys/kernel/debug
    echo 1 > tracing/events/kvm/enable; sleep 0.3; echo 0 > tracing/events/kvm/enable
    threads
    for t in /proc/$pid/task/*; do echo "$(cat $t/comm):"; cat $t/stack; done
    grep -r . kvm/*-*/vcpu* kvm/*-*/* 2>/dev/null
    tail -n 400 tracing/trace
    echo > tracing/trace
    dmesg | tail -n 20
"#;

impl Spec {
    /// Where hosts have their certificates.
    pub const CERTIFICATES: &'static str = "/etc/whimbrel/tls";

    /// A Linux guest with its root on the shared disk, a network card and all other devices.
    #[must_use]
    pub fn linux(cpus: u8) -> Self {
        Self { kernel: Kernel::Vmlinuz, memory_mib: 192, ..Self::workload(cpus, "") }
    }

    /// The workload guest, which works as `cmdline` says.
    #[must_use]
    pub fn workload(cpus: u8, cmdline: &str) -> Self {
        Self {
            kernel: Kernel::Workload,
            cpus,
            memory_mib: 96,
            cmdline: cmdline.into(),
            flags: Vec::new(),
            protection: Protection::InClear,
        }
    }

    /// The address of the guest on the network between the hosts.
    #[must_use]
    pub fn address() -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, 50)
    }

    fn arguments(&self) -> Vec<String> {
        let (kernel, cmdline) = match self.kernel {
            Kernel::Vmlinuz => ("/boot/vmlinuz", self.linux_cmdline()),
            Kernel::Vmlinux => ("/boot/vmlinux", self.linux_cmdline()),
            Kernel::Workload => {
                ("/boot/whimbrel-workload.elf", format!("cpus={} report=200 {}", self.cpus, self.cmdline))
            }
        };
        let mut arguments: Vec<String> =
            ["--kernel", kernel, "--cmdline", &cmdline, "--name", "guest"].map(str::to_owned).into();
        arguments.extend([
            "--memory".into(),
            format!("{}M", self.memory_mib),
            "--cpus".into(),
            self.cpus.to_string(),
        ]);
        if self.kernel != Kernel::Workload {
            arguments.extend(
                ["--initrd", "/boot/guest.cpio", "--net", "tap=tap0", "--keyboard", "on"].map(str::to_owned),
            );
            // Not through the page cache of the host, which the other host does not see.
            for disk in ["/dev/vda", "/dev/vdb"] {
                arguments.extend(["--disk".into(), format!("path={disk},direct=on")]);
            }
        }
        arguments.extend(self.protection.flags().iter().map(ToString::to_string));
        arguments.extend(self.flags.iter().cloned());
        arguments
    }

    /// Without XSAVE: QEMU 7.2 lets a guest's XSETBV through to the emulated host although KVM intercepts it. KVM would put XCR0
    /// back on the next entry, and the guest lose registers whenever it switches between threads.
    pub(crate) fn linux_cmdline(&self) -> String {
        format!(
            "console=ttyS0 quiet panic=-1 mitigations=off noxsave {WATCHDOGS} lab.root=/dev/vda lab.address={} {}",
            Self::address(),
            self.cmdline
        )
    }
}

impl Protection {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::InClear => &["--insecure"],
            Self::Certified => &["--tls", Spec::CERTIFICATES, "--tls-authz", "dns:a;dns:b"],
        }
    }
}

impl<'lab> Vmm<'lab> {
    /// Starts a machine that boots.
    ///
    /// # Errors
    /// It does not start.
    pub fn boot(lab: &'lab Lab, host: &'lab Host, spec: &Spec) -> Result<Self, LabError> {
        Self::start(lab, host, spec, &[])
    }

    /// Starts a place for a machine, which listens nowhere yet.
    ///
    /// # Errors
    /// It does not start.
    pub fn vacancy(lab: &'lab Lab, host: &'lab Host, spec: &Spec) -> Result<Self, LabError> {
        Self::start(lab, host, spec, &["--incoming", "defer"])
    }

    fn start(lab: &'lab Lab, host: &'lab Host, spec: &Spec, more: &[&str]) -> Result<Self, LabError> {
        let number = lab.next_number();
        let name = format!("{}-vmm{number}", host.name());
        if spec.kernel == Kernel::Vmlinux {
            host.remote().put(&lab.images().vmlinux()?, "/boot/vmlinux", 0o644)?;
        }
        host.remote().run(
            "[ -e /sys/class/net/tap0 ] || { tunctl -t tap0 && brctl addif br0 tap0 && ip link set tap0 up; } >/dev/null",
        )?;
        let monitor = format!("/run/{name}.qmp");
        let mut arguments = vec!["whimbrel-vmm".to_owned()];
        arguments.extend(spec.arguments());
        arguments.extend(["--serial", "stdio", "--monitor", &format!("unix:{monitor}")].map(str::to_owned));
        arguments.extend(more.iter().map(ToString::to_string));
        let words: Vec<_> = arguments.iter().map(String::as_str).collect();
        let process = host.remote().spawn_logged(&words, &lab.logs().join(&name))?;
        let socket = host.remote().forward(lab.socket(&format!("{name}.qmp")), &monitor)?;
        let pace = lab.pace();
        let client = pace.until(&format!("the monitor of {name} answers"), MONITOR, || {
            if !process.is_running() {
                return Err(LabError::Wrong(format!("{name} ended: {}", process.output().err)));
            }
            Ok(Client::connect(&socket, pace.stretch(MONITOR)).ok())
        })?;
        let evidence = lab.logs().join(format!("{name}.evidence"));
        Ok(Self { host, pace, process, client: Mutex::new(client), name, socket, evidence })
    }

    /// The host it is in.
    #[must_use]
    pub fn host(&self) -> &'lab Host {
        self.host
    }

    /// The process; what the guest writes on its serial port is its output.
    #[must_use]
    pub fn process(&self) -> &Spawned {
        &self.process
    }

    /// The monitor.
    pub fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock()
    }

    /// Another connection to the monitor.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn another_client(&self) -> Result<Client, LabError> {
        Client::connect(&self.socket, self.pace.stretch(MONITOR)).map_err(|source| self.monitor(source))
    }

    /// Does a command of the monitor.
    ///
    /// # Errors
    /// It is refused.
    pub fn command(&self, command: &str, arguments: Value) -> Result<Value, LabError> {
        self.client().execute(command, arguments).map_err(|source| self.monitor(source))
    }

    /// Whether the guest runs.
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn run_state(&self) -> Result<RunState, LabError> {
        Ok(self.client().query_status().map_err(|source| self.monitor(source))?.status)
    }

    /// What is known of the migration.
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn migration(&self) -> Result<MigrationInfo, LabError> {
        self.client().query_migrate().map_err(|source| self.monitor(source))
    }

    /// Listens for a migration, and returns the address to migrate to.
    ///
    /// # Errors
    /// It is refused.
    pub fn listen(&self) -> Result<String, LabError> {
        let uri = self.uri();
        self.command("migrate-incoming", json!({ "uri": uri }))?;
        Ok(uri)
    }

    /// Where it listens.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("tcp:{}:{PORT}", self.host.address())
    }

    /// Begins to migrate.
    ///
    /// # Errors
    /// It is refused.
    pub fn migrate(&self, uri: &str) -> Result<(), LabError> {
        self.command("migrate", json!({ "uri": uri })).map(|_| ())
    }

    /// Waits until the migration has this status, for longer as long as it goes on. It is an error if it ends otherwise.
    ///
    /// # Errors
    /// It did not get there.
    pub fn migration_is(&self, wanted: MigrationStatus) -> Result<MigrationInfo, LabError> {
        let mut last = MigrationInfo::default();
        let what = format!("the migration from {} is {wanted}", self.name);
        let reached = self.pace.while_it_moves(&what, MIGRATION, || {
            let info = self.migration()?;
            last = info.clone();
            match info.status {
                Some(status) if status == wanted => Ok(Ok(info)),
                Some(status) if status.is_final() => {
                    let why = info.error_desc.or_else(|| info.whimbrel.and_then(|more| more.reason));
                    Err(LabError::Wrong(format!(
                        "The migration from {} ended as {status}: {why:?}",
                        self.name
                    )))
                }
                _ => Ok(Err(info.ram.map_or(0, |ram| ram.transferred))),
            }
        });
        reached.map_err(|error| match error {
            LabError::Late { what, limit } => LabError::Late { what: format!("{what}, but {last:?}"), limit },
            error => error,
        })
    }

    /// Moves the machine to `destination`, and waits until it runs there.
    ///
    /// # Errors
    /// It did not move, or it is not known to run where it should.
    pub fn moves_to(&self, destination: &Self) -> Result<MigrationInfo, LabError> {
        self.migrate(&destination.listen()?)?;
        let info = self.migration_is(MigrationStatus::Completed)?;
        for (vmm, wanted) in [(self, RunState::Postmigrate), (destination, RunState::Running)] {
            let found = vmm.run_state()?;
            if found != wanted {
                return Err(LabError::Wrong(format!(
                    "{} is {found:?} after the move instead of {wanted:?}",
                    vmm.name
                )));
            }
        }
        Ok(info)
    }

    /// The agent in the guest, reached through `host`.
    #[must_use]
    pub fn guest_through(host: &Host) -> Remote {
        host.remote().through("guest", SocketAddr::from((Spec::address(), 7)))
    }

    /// Waits until the guest's agent answers, and returns it, reached through `host`.
    ///
    /// # Errors
    /// The guest ended, or is not up in time.
    pub fn guest(&self, host: &Host) -> Result<Remote, LabError> {
        let guest = Self::guest_through(host);
        let up = self.pace.while_it_moves("the guest's agent answers", GUEST_BOOT, || {
            if !self.process.is_running() {
                return Err(self.dead("ended before its guest was up"));
            }
            let said = self.process.output().out.len() as u64;
            Ok(guest.run("true").map_err(|_| said))
        });
        up.map_err(|error| match error {
            LabError::Late { .. } => self.dead("has a guest that does not come up"),
            error => error,
        })?;
        Ok(guest)
    }

    fn dead(&self, what: &str) -> LabError {
        let output = self.process.output();
        let shown = |text: &str| crate::programs::last_lines(text, 30);
        LabError::Wrong(format!(
            "{} {what}. Its serial port:\n{}\nIts log:\n{}",
            self.name,
            shown(&output.out),
            shown(&output.err)
        ))
    }

    fn monitor(&self, source: ClientError) -> LabError {
        LabError::Monitor { place: self.name.clone(), source }
    }

    fn keep_evidence(&self) {
        let find = format!(
            "for p in /proc/[0-9]*; do [ $(cat $p/comm) = whimbrel-vmm ] && grep -q {}.qmp $p/cmdline && pid=${{p#/proc/}}; done\n",
            self.name
        );
        let said = match self.host.remote().run(&format!("{find}{EVIDENCE}")) {
            Ok(said) => said,
            Err(error) => error.to_string(),
        };
        // Without it the scenario has failed all the same.
        let _ = fs::write(&self.evidence, said);
    }
}

impl Drop for Vmm<'_> {
    fn drop(&mut self) {
        // Scenarios end with a guest that has powered off. One that still runs was given up, and is killed now.
        let is_over = |state| matches!(state, RunState::Shutdown | RunState::Postmigrate);
        if self.host.is_on() && self.process.is_running() && !self.run_state().is_ok_and(is_over) {
            self.keep_evidence();
        }
    }
}
