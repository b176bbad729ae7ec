//! `whimbrel soak`: migrations by the thousand, each with something that goes wrong.
//!
//! * `scenario`: what one attempt is made of, drawn from its seed. `pair`: one guest, moved from attempt to attempt;
//!   `guest`: where it is, and whether it is whole.
//! * `journey`: one migration through the proxy, until nothing changes any more. `judge`: what it came to.
//! * `evidence`: who ran the guest, by other signs than what the VMMs say. `yard`: starts processes.
//! * `record`, `tally`: what is remembered of an attempt and of all.

mod arguments;
mod evidence;
mod guest;
mod journey;
mod judge;
mod pair;
mod record;
mod scenario;
mod tally;
mod yard;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

pub(crate) use arguments::Arguments;
use arguments::Choice;
use faults::ProxyError;
use pair::Pair;
use parking_lot::Mutex;
use record::Record;
use scenario::{Scenario, seed_of};
use tally::Tally;
use yard::Yard;

use crate::rig::{
    Interrupt, Interrupted, KvmError, MachineError, ProgramError, WitnessError, certificates, check_kvm,
    find_vmm, userfaults_may_be_heard,
};

/// Why a soak cannot begin or go on.
#[derive(Debug, thiserror::Error)]
enum SoakError {
    /// No virtual machine can run here.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The VMM is not there.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A file or folder of the soak's own.
    #[error("Cannot prepare {what}")]
    Prepare { what: String, source: io::Error },
    /// A machine's process or monitor.
    #[error(transparent)]
    Machine(MachineError),
    /// The guest cannot be heard.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The guest's memory is not filled in time.
    #[error("A guest has not filled its memory within {seconds} s: is the host very busy? Try fewer --pairs")]
    Filling { seconds: u64 },
    /// There is no proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A process that is to be killed is not there.
    #[error("A machine's process cannot be had")]
    Processes(#[source] io::Error),
    /// A defect of the soak itself.
    #[error("There is no guest, or no place for it to go")]
    NoPlace,
}

impl From<MachineError> for SoakError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            error => Self::Machine(error),
        }
    }
}

/// What all pairs share.
struct Soak<'a> {
    arguments: &'a Arguments,
    interrupt: &'a Interrupt,
    seed: u64,
    began: Instant,
    /// Number of the next attempt.
    next: AtomicU64,
    attempts: u64,
    until: Option<Instant>,
    tally: Mutex<Tally>,
}

/// What the words for outcomes mean.
const OUTCOMES: &str = "late: the source did not know for a while who had the guest, and asked. lost: the process that had the \
     guest was killed. unknown: the source cannot know, as the process that could tell was killed.";
const DEFAULT_MINUTES: f64 = 10.0;
/// How often it says how it goes: to someone who watches, and to a log.
const TELL_EVERY: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

/// 0 if everything held, 1 if something did not, 2 if it could not begin.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match soak(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::complain!("whimbrel soak: {}", crate::with_sources(&error));
            match error {
                SoakError::Kvm(_) | SoakError::Program(_) | SoakError::Prepare { .. } => ExitCode::from(2),
                // As a shell has it for a command that SIGINT ended.
                SoakError::Interrupted(_) => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn soak(arguments: &Arguments) -> Result<bool, SoakError> {
    check_kvm()?;
    let mut arguments = arguments.clone();
    if arguments.postcopy == Choice::Chance && !userfaults_may_be_heard() {
        output::say!(
            "Postcopy is left out: userfaultfd is not to be had here (docs/postcopy.md says what it takes)"
        );
        arguments.postcopy = Choice::Off;
    }
    let arguments = &arguments;
    let vmm = find_vmm(arguments.vmm())?;
    let prepare = |what: &str| {
        let what = what.to_owned();
        move |source| SoakError::Prepare { what, source }
    };
    let interrupt = Interrupt::install().map_err(prepare("for Ctrl-C"))?;
    let folder = tempfile::Builder::new().prefix("whimbrel-soak-").tempdir();
    let folder = folder.map_err(prepare("a temporary folder"))?;
    let kernel = guests::write_workload(folder.path()).map_err(prepare("the guest's image"))?;
    let tls = certificates(folder.path(), "Whimbrel soak").map_err(prepare("certificates"))?;
    let by_time = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs());
    let minutes = arguments.minutes.unwrap_or(DEFAULT_MINUTES);
    let timed = arguments.attempts.is_none() && arguments.repeat.is_none();
    let soak = Soak {
        arguments,
        interrupt: &interrupt,
        seed: arguments.seed.unwrap_or(by_time),
        began: Instant::now(),
        next: AtomicU64::new(0),
        attempts: arguments.repeat.map_or(arguments.attempts.unwrap_or(u64::MAX), |_| 1),
        until: timed.then(|| Instant::now() + Duration::from_secs_f64(minutes.clamp(0.01, 1e6) * 60.0)),
        tally: Mutex::default(),
    };
    let pairs = u64::from(arguments.pairs).min(soak.attempts) as u8;
    output::say!("Seed {}; {pairs} guests at a time", soak.seed);
    let yards = (1..=pairs)
        .map(|number| Yard::new(folder.path(), arguments.keep_logs.as_deref(), &kernel, &vmm, &tls, number))
        .collect::<io::Result<Vec<_>>>()
        .map_err(prepare("folders for machines: are there logs of an earlier soak?"))?;
    let outcome = std::thread::scope(|scope| {
        let workers: Vec<_> = yards.into_iter().map(|yard| scope.spawn(|| soak.work(yard))).collect();
        soak.tell_until(|| workers.iter().all(std::thread::ScopedJoinHandle::is_finished));
        let panicked = |_| Err(SoakError::NoPlace);
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(panicked))
            .collect::<Result<Vec<_>, _>>()
    });
    soak.report(arguments.json.as_deref())?;
    outcome?;
    Ok(soak.tally.lock().holds())
}

impl Soak<'_> {
    /// Moves one guest until it is time to stop.
    fn work(&self, yard: Yard) -> Result<(), SoakError> {
        let mut pair = Pair::new(yard, self.interrupt);
        while let Some(seed) = self.next_seed() {
            let scenario = Scenario::new(seed, self.arguments);
            let record = pair.attempt(&scenario)?;
            self.tell(&record);
            self.tally.lock().add(&record);
        }
        pair.finish()
    }

    fn next_seed(&self) -> Option<u64> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index >= self.attempts || self.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        Some(self.arguments.repeat.unwrap_or_else(|| seed_of(self.seed, index)))
    }

    fn tell(&self, record: &Record) {
        let shown = self.arguments.verbose || self.arguments.repeat.is_some();
        if record.problems.is_empty() && !shown {
            return;
        }
        let mut text = format!("{}\n  {}", record.scenario.describe(), record.outcome.name());
        for (kind, problem) in &record.problems {
            text += &format!("\n  {kind:?}: {problem}");
        }
        text +=
            &format!("\n  source: {}\n  destination: {}", record.source_reason, record.destination_reason);
        for line in record.trace.iter().chain(&record.logs) {
            text += &format!("\n    {line}");
        }
        output::say!("{text}");
    }

    /// Says how it goes, now and then.
    fn tell_until(&self, over: impl Fn() -> bool) {
        let [watched, logged] = TELL_EVERY;
        let every = if io::stdout().is_terminal() { watched } else { logged };
        let mut told = Instant::now();
        while !over() {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= every {
                told = Instant::now();
                output::say!("{:>5.0} s  {}", self.began.elapsed().as_secs_f64(), self.tally.lock().line());
            }
        }
    }

    fn report(&self, json: Option<&Path>) -> Result<(), SoakError> {
        let (tally, took) = (self.tally.lock(), self.began.elapsed());
        output::say!("\nFaults that struck, by phase and harm\n{}", tally.table());
        output::say!("What came of them\n{}\n{OUTCOMES}\n", tally.outcomes_table());
        output::say!("{}\n{}", tally.line(), tally.summary(took));
        if let Some(path) = json {
            let text = tally.to_json(self.seed, took).to_string();
            fs::write(path, text)
                .map_err(|source| SoakError::Prepare { what: path.display().to_string(), source })?;
        }
        Ok(())
    }
}
