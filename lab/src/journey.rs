//! A Linux guest that moves from host to host, and what is checked of it in the end.

use std::{process::Command, time::Duration};

use monitor::types::MigrationInfo;

use crate::{
    Host, Lab, LabError, Pace, Remote, Spawned, Spec, Vmm,
    programs::{find, run},
};

/// How long a guest may take to power off.
const POWER_OFF: Duration = Duration::from_secs(30);

/// Words in the guest's kernel log that tell of trouble. That its watchdog needed long to read a clock ("read-back delay") is
/// none: it says how slow a host is, and of a clock that is wrong it says that it is unstable.
const TROUBLE: [&str; 13] = [
    "warning",
    "bug:",
    "oops",
    "panic",
    "unstable",
    "stalled",
    "stall on",
    "lockup",
    "i/o error",
    "hung_task",
    "blocked for more than",
    "call trace",
    "timed out",
];

/// A Linux guest that is up, where it is now.
#[derive(Debug)]
pub struct Journey<'lab> {
    lab: &'lab Lab,
    spec: Spec,
    here: Vmm<'lab>,
    guest: Remote,
    /// Lines of the kernel's log before the first move.
    logged: usize,
    figures: Vec<String>,
}

impl<'lab> Journey<'lab> {
    /// Boots the guest on host `a`, with a fresh root file system, and waits until it is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn begin(lab: &'lab Lab, spec: Spec) -> Result<Self, LabError> {
        lab.fresh_root()?;
        let here = Vmm::boot(lab, lab.host("a"), &spec)?;
        let guest = here.guest(lab.host("a"))?;
        let logged = guest.run("dmesg")?.lines().count();
        Ok(Self { lab, spec, here, guest, logged, figures: Vec::new() })
    }

    /// How long things may take.
    #[must_use]
    pub fn pace(&self) -> &'lab Pace {
        self.lab.pace()
    }

    /// The agent in the guest.
    #[must_use]
    pub fn guest(&self) -> &Remote {
        &self.guest
    }

    /// The machine, where it is now.
    #[must_use]
    pub fn here(&self) -> &Vmm<'lab> {
        &self.here
    }

    /// The host where the machine is not.
    #[must_use]
    pub fn elsewhere(&self) -> &'lab Host {
        self.lab.host(if self.here.host().name() == "a" { "b" } else { "a" })
    }

    /// A place on the other host, for a machine like this.
    ///
    /// # Errors
    /// It does not start.
    pub fn vacancy(&self) -> Result<Vmm<'lab>, LabError> {
        Vmm::vacancy(self.lab, self.elsewhere(), &self.spec)
    }

    /// Moves to the other host.
    ///
    /// # Errors
    /// It did not move.
    pub fn hop(&mut self) -> Result<MigrationInfo, LabError> {
        let there = self.vacancy()?;
        self.hop_to(there)
    }

    /// Moves to a place that is there already.
    ///
    /// # Errors
    /// It did not move.
    pub fn hop_to(&mut self, there: Vmm<'lab>) -> Result<MigrationInfo, LabError> {
        let info = self.here.moves_to(&there)?;
        self.arrived(there, &info);
        Ok(info)
    }

    /// The machine is there now.
    pub fn arrived(&mut self, there: Vmm<'lab>, info: &MigrationInfo) {
        let (from, to) = (self.here.host().name(), there.host().name());
        self.figures.push(format!("{from} → {to}: {}", figures(info)));
        self.here = there;
    }

    /// Moves to the other host and back.
    ///
    /// # Errors
    /// It did not move.
    pub fn there_and_back(&mut self) -> Result<(), LabError> {
        self.hop()?;
        self.hop()?;
        Ok(())
    }

    /// The guest has booted anew: what its kernel says from here on counts.
    ///
    /// # Errors
    /// Its agent does not answer.
    pub fn rebooted(mut self) -> Result<Self, LabError> {
        self.logged = self.guest.run("dmesg")?.lines().count();
        Ok(self)
    }

    /// Checks that the kernel has had nothing to complain of since it was up.
    ///
    /// # Errors
    /// It has.
    pub fn kernel_is_content(&self) -> Result<(), LabError> {
        let log = self.guest.run("dmesg")?;
        let complaints: Vec<_> = log
            .lines()
            .skip(self.logged)
            .filter(|line| TROUBLE.iter().any(|word| line.to_lowercase().contains(word)))
            .collect();
        if complaints.is_empty() {
            return Ok(());
        }
        Err(LabError::Wrong(format!("The guest's kernel complains:\n{}", complaints.join("\n"))))
    }

    /// Has the guest `reboot` or `poweroff` by itself. It cannot answer any more.
    ///
    /// Its network goes down first, as where an init does it. Linux breaks the queues of virtio devices when it
    /// shuts down (since 6.15, and in 6.1 of Debian). A driver that sends then waits for ever for the queue to move
    /// on (`start_xmit`, `virtnet_poll`), and the guest hangs.
    ///
    /// # Errors
    /// The agent cannot be reached.
    pub fn order(&self, what: &str) -> Result<Spawned, LabError> {
        let order = format!("sync; mount -o remount,ro /; ip link set eth0 down; {what} -f");
        self.guest.spawn(&["sh", "-c", &order])
    }

    /// Powers the guest off from within, and checks what it leaves behind. Returns figures of its moves.
    ///
    /// # Errors
    /// It complains, does not end, or leaves its disk damaged.
    pub fn finish(self) -> Result<Vec<String>, LabError> {
        self.kernel_is_content()?;
        let _order = self.order("poweroff")?;
        self.gone()
    }

    /// Waits until the guest has powered off, and checks what it leaves behind. Returns figures of its moves.
    ///
    /// # Errors
    /// It does not end, or leaves its disk damaged.
    pub fn gone(self) -> Result<Vec<String>, LabError> {
        let output = self.here.process().wait(POWER_OFF)?;
        if output.ending != Some(agent::Ending::Status(0)) {
            return Err(LabError::Wrong(format!("The VMM ended with {:?}: {}", output.ending, output.err)));
        }
        let e2fsck = find("e2fsck").unwrap_or_else(|| "e2fsck".into());
        run(Command::new(e2fsck).args(["-f", "-n"]).arg(self.lab.root_disk()))?;
        Ok(self.figures)
    }

    /// Starts one of the agent's loads or checks in the guest.
    ///
    /// # Errors
    /// The agent cannot be reached.
    pub fn in_guest(&self, words: &[&str]) -> Result<Spawned, LabError> {
        self.guest.spawn(&[&["whimbrel-lab-agent"], words].concat())
    }
}

fn figures(info: &MigrationInfo) -> String {
    let ram = info.ram.clone().unwrap_or_default();
    let more = info.whimbrel.clone().unwrap_or_default();
    let phases = more.downtime_phases.unwrap_or_default();
    let phases: Vec<_> = phases.measured().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
    format!(
        "{:.1} s, {} rounds, {} MiB, downtime {} ms ({})",
        info.total_time.unwrap_or(0) as f64 / 1000.0,
        more.rounds.len(),
        ram.transferred >> 20,
        info.downtime.unwrap_or(0),
        phases.join(", ")
    )
}
