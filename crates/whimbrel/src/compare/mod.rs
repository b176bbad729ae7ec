//! `whimbrel compare`: three scenarios, moved by Whimbrel and by QEMU in turns in every mode of both, and what users
//! felt.
//!
//! The hosts are in `hosts` (without root `proxy` is between them), those who use the machine in `users`, one move in
//! `attempt`. What is planned, and what is made of samples, is `crates/comparison`.

mod arguments;
mod attempt;
mod hosts;
mod lock;
mod modes;
mod probe;
mod proxy;
mod show;
mod users;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

pub(crate) use arguments::Arguments;
use attempt::{AttemptError, Case, attempt};
use authority::{Authority, Request};
use comparison::{
    Comparison, Contender, Mode, Outcome, Run, Scenario,
    scale::{Found, Plan, Scale, ScaleError},
};
use config::{CpuCount, MemorySize};
use hosts::Hosts;
use lock::{Lock, LockError};
use show::ShowError;
use tempfile::TempDir;

use crate::rig::{
    Backing, ContenderError, Contenders, HUGE_PAGE, Host, HugePages, Interrupt, Interrupted, KvmError,
    LinkError, ProgramError, available_memory, check_kvm, find_vmm,
};

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
enum CompareError {
    /// No virtual machine can run here.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The VMM is not there.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Another one runs.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The link does not take its rate.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The scale does not fit this host.
    #[error(transparent)]
    Scale(#[from] ScaleError),
    /// A file or folder of its own.
    #[error("Cannot prepare {what}")]
    Prepare { what: String, source: io::Error },
    /// A move failed in a way that says nothing about the mode.
    #[error("A move by {contender} ({mode}, {scenario}) could not be measured")]
    Attempt { contender: Contender, mode: Mode, scenario: Scenario, source: Box<AttemptError> },
    /// A file that was asked for.
    #[error(transparent)]
    Show(#[from] ShowError),
}

/// See [`Arguments`] for the exit status.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match compare(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error @ CompareError::Interrupted(_)) => {
            output::complain!("{error}: everything that was started has ended");
            ExitCode::from(130)
        }
        Err(error) => {
            output::complain!("whimbrel compare: {}", crate::with_sources(&error));
            match error {
                CompareError::Attempt { .. } | CompareError::Show(ShowError::Write { .. }) => {
                    ExitCode::FAILURE
                }
                _ => ExitCode::from(2),
            }
        }
    }
}

fn compare(arguments: &Arguments) -> Result<bool, CompareError> {
    // Before anything takes minutes.
    let earlier = arguments.against.as_deref().map(show::read).transpose()?;
    let comparison = match &arguments.from {
        Some(path) => show::read(path)?,
        None => measure(arguments)?,
    };
    show::write(arguments, &comparison, earlier.as_ref())?;
    let is_as_good = show::print(arguments, &comparison, earlier.as_ref());
    Ok(is_as_good && comparison.is_intact())
}

/// All that attempts have in common. What was started last ends first.
#[derive(Debug)]
struct Compare {
    plan: Plan,
    memory: MemorySize,
    cpus: CpuCount,
    backing: Backing,
    contenders: Contenders,
    kernel: PathBuf,
    certificates: PathBuf,
    interrupt: Interrupt,
    hosts: Hosts,
    folder: TempDir,
    _pages: Option<HugePages>,
    _lock: Lock,
}

fn measure(arguments: &Arguments) -> Result<Comparison, CompareError> {
    check_kvm()?;
    let interrupt = Interrupt::install().map_err(prepare("for Ctrl-C"))?;
    let vmm = find_vmm(arguments.vmm.as_deref())?;
    let lock = Lock::take()?;
    let begun = Instant::now();
    let host = Host::now();
    let mut notes = Vec::new();
    let (contenders, qemu) = contenders(vmm, &arguments.qemu, &mut notes);
    let compare = Compare::new(arguments, contenders, interrupt, lock, &mut notes)?;
    let mut comparison = Comparison {
        version: Comparison::VERSION,
        host: host.to_string(),
        qemu,
        link: compare.hosts.description().to_owned(),
        plan: compare.plan.clone(),
        notes,
        took_s: None,
        runs: Vec::new(),
    };
    show::introduce(&comparison);
    compare.all(arguments, &mut comparison)?;
    comparison.took_s = Some(begun.elapsed().as_secs_f64());
    Ok(comparison)
}

impl Compare {
    fn new(
        arguments: &Arguments,
        contenders: Contenders,
        interrupt: Interrupt,
        lock: Lock,
        notes: &mut Vec<String>,
    ) -> Result<Self, CompareError> {
        let hosts = Hosts::make(notes).map_err(prepare("the hosts"))?;
        let found = Found {
            link: hosts.probe().map_err(prepare("the link"))?,
            memory: available_memory().map_err(prepare("memory"))?,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let scale = arguments.scale.unwrap_or_else(|| fitting(found, arguments.quick));
        let (backing, pages) = backing(arguments, scale, notes)?;
        let (limit, repetitions) = (arguments.downtime_limit, arguments.repetitions);
        let plan = Plan::new(scale, found, &backing.to_string(), limit, repetitions)?;
        let folder = tempfile::Builder::new().prefix("whimbrel-compare-").tempdir();
        let folder = folder.map_err(prepare("a temporary folder"))?;
        let kernel = guests::write_workload(folder.path()).map_err(prepare("the guest's image"))?;
        let certificates = folder.path().join("tls");
        Authority::init(&folder.path().join("ca"), "Whimbrel compare")
            .and_then(|authority| authority.issue(&certificates, &Request::new([hosts.address()])))
            .map_err(|error| prepare("certificates")(io::Error::other(error)))?;
        // The plan keeps to what both types allow.
        let memory = format!("{}M", plan.memory >> 20).parse::<MemorySize>();
        let cpus = plan.cpus.to_string().parse::<CpuCount>();
        Ok(Self {
            memory: memory.map_err(|error| prepare("guest memory")(io::Error::other(error)))?,
            cpus: cpus.map_err(|error| prepare("vCPUs")(io::Error::other(error)))?,
            plan,
            backing,
            contenders,
            kernel,
            certificates,
            interrupt,
            hosts,
            folder,
            _pages: pages,
            _lock: lock,
        })
    }

    fn all(&self, arguments: &Arguments, comparison: &mut Comparison) -> Result<(), CompareError> {
        for &scenario in &arguments.scenarios {
            self.hosts.carry(self.plan.bandwidth(scenario))?;
            let bare = self.hosts.probe().map_err(prepare("the link"))?;
            // A host that was busy for that moment does not make the link less.
            let gives = bare.max(self.plan.bandwidth(scenario) as f64 * self.hosts.payload_share());
            comparison.plan.gives.push((scenario, gives));
            output::say!(
                "\n{}; a bare copy gets {:.0} MB/s",
                comparison::figures::scenario_sentence(&self.plan, scenario),
                bare / 1e6
            );
            for repetition in 1..=arguments.repetitions {
                for case in cases(scenario, repetition, comparison.qemu.is_some()) {
                    self.one(case, repetition, comparison)?;
                }
            }
        }
        Ok(())
    }

    fn one(&self, case: Case, repetition: u32, comparison: &mut Comparison) -> Result<(), CompareError> {
        let Case { scenario, mode, contender } = case;
        let run = match attempt(self, case, repetition) {
            Ok(run) => run,
            Err(AttemptError::Interrupted(interrupted)) => return Err(interrupted.into()),
            // Nothing of what is measured is to blame, and the next would fail as well.
            Err(error @ (AttemptError::Link(_) | AttemptError::Users(_))) => {
                return Err(CompareError::Attempt { contender, mode, scenario, source: Box::new(error) });
            }
            // What one mode of one of them does is no reason to know nothing of the others.
            Err(error) => Run {
                outcome: Outcome::Failed(crate::with_sources(&error)),
                ..Run::new(scenario, mode, contender, repetition)
            },
        };
        output::say!("{}", show::line(&run, &self.plan));
        comparison.runs.push(run);
        Ok(())
    }
}

/// What is moved in one repetition. Who goes first changes each time: what one leaves behind in the host must not
/// always meet the other.
fn cases(scenario: Scenario, repetition: u32, has_qemu: bool) -> Vec<Case> {
    // The last pair says what encryption costs, where multifd in clear is measured beside it.
    let modes = if scenario == Scenario::S2 { &Mode::ALL[..] } else { &Mode::COMMON };
    let mut contenders = Contender::BOTH.to_vec();
    contenders.retain(|contender| has_qemu || *contender == Contender::Whimbrel);
    let first = repetition as usize % contenders.len();
    contenders.rotate_left(first);
    let pairs = modes.iter().flat_map(|mode| contenders.iter().map(move |contender| (*mode, *contender)));
    pairs
        .filter(|(mode, contender)| mode.is_of(*contender))
        .map(|(mode, contender)| Case { scenario, mode, contender })
        .collect()
}

/// What fits this host; to see whether it works at all, a quarter of the time.
fn fitting(found: Found, quick: bool) -> Scale {
    let scale = Scale::fitting(found);
    if quick { scale.quick() } else { scale }
}

/// Both, or ours alone.
fn contenders(vmm: PathBuf, qemu: &Path, notes: &mut Vec<String>) -> (Contenders, Option<String>) {
    match Contenders::new(vmm.clone(), qemu) {
        Ok(contenders) => {
            let version = contenders.qemu_version().to_owned();
            (contenders, Some(version))
        }
        Err(error @ ContenderError { .. }) => {
            notes.push(format!("Whimbrel alone was measured. {}.", crate::with_sources(&error)));
            (Contenders::alone(vmm), None)
        }
    }
}

/// Huge pages where they can be had and are wanted.
fn backing(
    arguments: &Arguments,
    scale: Scale,
    notes: &mut Vec<String>,
) -> Result<(Backing, Option<HugePages>), CompareError> {
    if arguments.small_pages {
        return Ok((Backing::Memfd, None));
    }
    let both = scale.memory().saturating_mul(2);
    let pages = HugePages::reserve(both).map_err(prepare("huge pages"))?;
    if pages.is_none() {
        notes.push(format!(
            "Guest memory is in pages of 4 KiB, since {} free huge pages of 2 MiB cannot be had: run this as root on a host with more memory.",
            both / HUGE_PAGE
        ));
    }
    Ok((if pages.is_some() { Backing::Hugetlb } else { Backing::Memfd }, pages))
}

fn prepare(what: &str) -> impl FnOnce(io::Error) -> CompareError {
    let what = what.to_owned();
    move |source| CompareError::Prepare { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_move_in_every_mode_that_they_have_and_who_goes_first_changes() {
        let first = cases(Scenario::S2, 1, true);
        let names: Vec<_> = first.iter().map(|case| (case.mode, case.contender)).collect();
        assert_eq!(
            names,
            [
                (Mode::PostcopyPreempt, Contender::Qemu),
                (Mode::PostcopyPreempt, Contender::Whimbrel),
                (Mode::Multifd, Contender::Qemu),
                (Mode::Multifd, Contender::Whimbrel),
                (Mode::Generic, Contender::Qemu),
                (Mode::Generic, Contender::Whimbrel),
                (Mode::Default, Contender::Whimbrel),
                (Mode::MultifdTls, Contender::Qemu),
                (Mode::MultifdTls, Contender::Whimbrel),
            ]
        );
        assert_eq!(cases(Scenario::S2, 2, true)[0].contender, Contender::Whimbrel);
        let alone = cases(Scenario::S3, 1, false);
        assert!(
            alone.iter().all(|case| case.contender == Contender::Whimbrel && case.mode != Mode::MultifdTls)
        );
        assert_eq!(alone.len(), 4);
    }
}
