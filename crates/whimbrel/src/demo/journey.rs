use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use guests::Report;
use monitor::types::DowntimePhases;
use tempfile::TempDir;

use super::{
    DemoError,
    hop::{Hop, HopError, hop},
    plan::Plan,
    screen::Screen,
    settle::settle,
};
use crate::rig::{
    ByteRate, Bytes, Count, Felt, Files, HOST, Interrupt, Machine, Memory, Span, Witness, certificates,
    held_rate, longest_gap,
};

/// A machine on its way, and all that is needed for it. Whatever ends it, nothing of it stays.
#[derive(Debug)]
pub(super) struct Journey<'a> {
    plan: &'a Plan,
    screen: &'a Screen,
    interrupt: &'a Interrupt,
    begun: Instant,
    witness: Witness,
    // Ends before the folder with its socket goes.
    machine: Machine,
    yard: Yard,
}

/// Where machines are made.
#[derive(Debug)]
struct Yard {
    folder: TempDir,
    /// Where logs and the guest's words go.
    logs: PathBuf,
    kernel: PathBuf,
    /// Certificates for this host, if moves are encrypted.
    tls: Option<PathBuf>,
}

/// What is known when it is over.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) hops: Vec<(Hop, Felt)>,
    /// The longest gap that the guest felt before the first move: what this host does to it anyway.
    pub(super) gap_at_rest: Duration,
    /// Bytes dirtied each second before the first move.
    pub(super) rate_at_rest: ByteRate,
    /// The guest's last report.
    pub(super) last: Report,
    /// What does not hold in the guest's story.
    pub(super) complaints: Vec<String>,
    pub(super) took: Duration,
}

/// Reports that show how the guest does while nobody moves it.
const REPORTS_AT_REST: usize = 5;
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl<'a> Journey<'a> {
    /// Starts the machine at its first place.
    pub(super) fn begin(
        plan: &'a Plan,
        screen: &'a Screen,
        interrupt: &'a Interrupt,
    ) -> Result<Self, DemoError> {
        let begun = Instant::now();
        let yard = Yard::new(plan)?;
        let machine = yard.start(plan, 0, interrupt)?;
        let witness = Witness::new(machine.serial());
        Ok(Self { plan, screen, interrupt, begun, witness, machine, yard })
    }

    /// Fills memory, moves as often as is planned, and ends the machine.
    pub(super) fn travel(mut self) -> Result<Outcome, DemoError> {
        self.fill()?;
        let rest = self.rest()?;
        let mut hops = Vec::new();
        for number in 1..=self.plan.hops() {
            hops.push(self.move_to(number)?);
        }
        self.witness.listen()?;
        let reports = self.witness.reports();
        let outcome = Outcome {
            gap_at_rest: longest_gap(&reports[rest..rest + REPORTS_AT_REST]),
            rate_at_rest: held_rate(&reports[rest..rest + REPORTS_AT_REST]),
            // There is one: it was at rest for some reports.
            last: reports[reports.len() - 1].clone(),
            complaints: self.witness.complaints().to_vec(),
            took: self.begun.elapsed(),
            hops,
        };
        self.machine.quit()?;
        Ok(outcome)
    }

    fn fill(&mut self) -> Result<(), DemoError> {
        let (screen, size) = (self.screen, self.plan.memory.bytes());
        // First touch of memory is the slowest part of it: a host that is very busy makes 100 MB each second.
        let limit = Duration::from_secs(60 + size / 100_000_000);
        let begun = Instant::now();
        screen.part(&format!("A starts (process {})", self.machine.process_id()));
        screen.begin_bar("the guest fills its memory");
        while !self.witness.filled() {
            self.machine.check()?;
            self.witness.listen()?;
            if begun.elapsed() > limit {
                return Err(DemoError::Filling { seconds: limit.as_secs() });
            }
            let touched = self.machine.resident_bytes().min(size);
            let text = format!("{} of {}", Memory(touched >> 20 << 20), Memory(size));
            screen.move_bar(touched as f64 / size as f64, &text);
            self.interrupt.sleep(LOOK_EVERY)?;
        }
        screen.end_bar();
        screen.done(&format!("the guest has filled {} in {}", Memory(size), Span(begun.elapsed())));
        Ok(())
    }

    /// Lets the guest work for a while, and returns the number of its first report from this time.
    fn rest(&mut self) -> Result<usize, DemoError> {
        let screen = self.screen;
        // The next report is the first that speaks of a guest at work; the one before it speaks of filling too.
        let first = self.witness.reports().len() + 1;
        screen.begin_bar("the guest works");
        while self.witness.reports().len() < first + REPORTS_AT_REST {
            self.machine.check()?;
            self.interrupt.sleep(LOOK_EVERY)?;
            self.witness.listen()?;
            let heard = self.witness.reports().len().saturating_sub(first);
            screen.move_bar(heard as f64 / REPORTS_AT_REST as f64, "");
        }
        screen.end_bar();
        let reports = &self.witness.reports()[first..];
        screen.done(&format!(
            "it dirties {}, and is held up {} at most by other work of this host",
            held_rate(reports),
            Span(longest_gap(reports))
        ));
        Ok(first)
    }

    fn move_to(&mut self, number: u32) -> Result<(Hop, Felt), DemoError> {
        let (plan, screen, interrupt) = (self.plan, self.screen, self.interrupt);
        let way = format!("{} → {}", plan.place(number - 1), plan.place(number));
        // The process that a machine left is of no use any more: each place is a fresh one.
        let mut destination = self.yard.start(plan, number, interrupt)?;
        let by_postcopy = plan.is_by_postcopy(number);
        screen.part(&format!(
            "Move {number}: {way}{} (process {} → {})",
            if by_postcopy { " by postcopy" } else { "" },
            self.machine.process_id(),
            destination.process_id()
        ));
        let failed = |source| match source {
            HopError::Interrupted(interrupted) => DemoError::Interrupted(interrupted),
            source => DemoError::Hop { way: way.clone(), source: Box::new(source) },
        };
        let (witness, machine) = (&mut self.witness, &mut self.machine);
        let hop =
            hop(plan, by_postcopy, screen, interrupt, witness, machine, &mut destination).map_err(failed)?;
        std::mem::replace(&mut self.machine, destination).quit()?;
        self.tell_of_switch(&hop);
        let felt = settle(plan, screen, interrupt, &mut self.witness, &hop).map_err(failed)?;
        let last = self.witness.reports().last();
        screen.done(&format!(
            "the guest felt {}, and has since checked all its {}: {} checks so far, errors {}",
            screen.highlight(&format!("a gap of {}", Span(felt.gap))),
            Bytes(felt.checked),
            Count(last.map_or(0, |report| report.verified)),
            last.map_or(0, |report| report.errors)
        ));
        Ok((hop, felt))
    }

    fn tell_of_switch(&self, hop: &Hop) {
        let screen = self.screen;
        let total = Span(Duration::from_millis(hop.info.total_time.unwrap_or(0)));
        let downtime = hop.info.downtime.unwrap_or(0);
        screen.done(&format!(
            "moved in {total}, {}{}",
            screen.highlight(&format!("downtime {downtime} ms")),
            screen.dim(&phases(hop.info.whimbrel.as_ref().and_then(|own| own.downtime_phases.as_ref())))
        ));
        if let Some(faults) = &hop.faults {
            let us = |us: Option<f64>| Span(Duration::from_secs_f64(us.unwrap_or(0.0).max(0.0) / 1e6));
            screen.done(&format!(
                "it ran before its memory was there, and waited for pages {} times: {} as a rule, {} at most",
                Count(faults.count),
                us(faults.p50_us),
                us(faults.worst_us)
            ));
        }
    }
}

/// The phases of a downtime, in one line.
fn phases(phases: Option<&DowntimePhases>) -> String {
    let parts: Vec<_> = phases
        .into_iter()
        .flat_map(DowntimePhases::measured)
        .map(|(name, ms)| format!("{name} {ms:.1}"))
        .collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

impl Yard {
    fn new(plan: &Plan) -> Result<Self, DemoError> {
        let failed = |what: String| move |source| DemoError::Prepare { what, source };
        let folder = tempfile::Builder::new()
            .prefix("whimbrel-demo-")
            .tempdir()
            .map_err(failed("a temporary folder".to_owned()))?;
        let logs = plan.keep_logs.clone().unwrap_or_else(|| folder.path().to_owned());
        fs::create_dir_all(&logs).map_err(failed(format!("the folder {}", logs.display())))?;
        let kernel = guests::write_workload(folder.path()).map_err(failed("the guest's image".to_owned()))?;
        let certificates = || certificates(folder.path(), "Whimbrel demo");
        let tls = if plan.clear { None } else { Some(certificates()) };
        let tls = tls.transpose().map_err(failed("certificates".to_owned()))?;
        Ok(Self { folder, logs, kernel, tls })
    }

    /// Starts the VMM number `number`: the first boots the guest, the others wait for it.
    fn start(&self, plan: &Plan, number: u32, interrupt: &Interrupt) -> Result<Machine, DemoError> {
        let name = plan.place(number);
        let file = |kind: &str| self.logs.join(format!("{}-{name}.{kind}", number + 1));
        let files = Files {
            log: file("log"),
            serial: file("serial"),
            socket: self.folder.path().join(format!("{}.qmp", number + 1)),
        };
        let mut command = Command::new(&plan.vmm);
        command.args(["--name", "demo", "--memory", &plan.memory.to_string()]);
        command.args(["--cpus", &plan.cpus.to_string(), "--memory-backing", plan.backing()]);
        command.arg("--serial").arg(prefixed("file:", &files.serial));
        command.arg("--monitor").arg(prefixed("unix:", &files.socket));
        // Also where it is waited for: it reboots from them.
        command.arg("--kernel").arg(&self.kernel).args(["--cmdline", &plan.command_line()]);
        if let Some(tls) = &self.tls {
            command.arg("--tls").arg(tls).args(["--tls-authz", &format!("ip:{HOST}")]);
        }
        if number != 0 {
            command.args(["--incoming", "defer"]);
        }
        Ok(Machine::start(name, command, files, interrupt)?)
    }
}

fn prefixed(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(prefix);
    text.push(path);
    text
}
