use std::{
    fmt,
    time::{Duration, Instant},
};

use monitor::types::{DowntimePhases, MigrationInfo};
use serde::Serialize;
use serde_json::json;

use super::{
    Bench,
    case::{Case, Encryption},
    cpu::Vcpus,
    profile::Recorder,
};
use crate::rig::{
    Contender, End, Felt, Files, Interrupted, Machine, MachineError, Witness, WitnessError,
    checked_since_arrival, encrypt, listen, micros,
};

/// One move, measured. Times in milliseconds unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    /// The source's own figure.
    pub(super) total_ms: f64,
    /// Of it, before the first page; the source's own figure.
    pub(super) setup_ms: f64,
    /// The source's own figure.
    pub(super) downtime_ms: f64,
    /// What the source foretold when it decided to stop the machine; QEMU does not say.
    pub(super) foretold_ms: Option<f64>,
    /// From the source's STOP to the destination's RESUME, by the host's clock.
    pub(super) stop_to_resume_ms: Option<f64>,
    /// What the downtime was spent on; QEMU does not say.
    pub(super) phases: Option<DowntimePhases>,
    /// The longest gap that the guest felt around the switchover.
    pub(super) gap_ms: f64,
    /// The same while memory was copied.
    pub(super) gap_in_rounds_ms: f64,
    /// CPU seconds that the source spent on anything but vCPUs, from the command until it was over.
    pub(super) source_cpu: f64,
    /// The same of the destination.
    pub(super) destination_cpu: f64,
    /// What the two sides say themselves that migration took; QEMU does not.
    pub(super) own_cpu: Option<f64>,
    /// The most memory that one of the two processes had beyond the guest's, in bytes (`VmHWM`, which leaves huge pages out).
    pub(super) overhead_bytes: u64,
    /// Bytes on the wire.
    pub(super) transferred: u64,
    /// How often the dirty pages were fetched.
    pub(super) rounds: u64,
    /// Bytes that the guest dirtied each second.
    pub(super) rate_held: u64,
    /// What the guest found wrong with its memory, its clocks or its lines.
    pub(super) complaints: Vec<String>,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_host = self.stop_to_resume_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1}"));
        write!(
            f,
            "{:>4.0} ms, downtime {:>3.0} ms (STOP → RESUME {by_host}, felt {:.1}), CPU {:.2} + {:.2} s, {} fetches, {}",
            self.total_ms,
            self.downtime_ms,
            self.gap_ms,
            self.source_cpu,
            self.destination_cpu,
            self.rounds,
            if self.complaints.is_empty() { "intact" } else { "NOT INTACT" }
        )
    }
}

/// Why a move could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// A machine's process or monitor.
    #[error(transparent)]
    Machine(MachineError),
    /// The guest does not speak.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The destination does not say where it listens.
    #[error("The destination listens, but does not say at which port")]
    NoPort,
    /// It ended otherwise than completed.
    #[error("The migration ended as '{status}': {reason}")]
    Migration { status: String, reason: String },
    /// Something did not come in time.
    #[error("{what} did not come within {seconds} s")]
    Late { what: &'static str, seconds: u64 },
    /// The profiler.
    #[error("perf cannot record")]
    Profile(#[source] std::io::Error),
}

impl From<MachineError> for TrialError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            error => Self::Machine(error),
        }
    }
}

/// Reports that a guest gives before it is moved: by then it dirties at its rate.
const REPORTS_AT_REST: usize = 4;
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long both sides may clean up. What they spend on it is theirs.
const AFTERMATH: Duration = Duration::from_millis(300);

/// Moves a fresh guest from one fresh process to another.
pub(super) fn trial(
    bench: &Bench,
    contender: Contender,
    case: Case,
    recorder: Option<&Recorder>,
) -> Result<Sample, TrialError> {
    let mut source = start(bench, contender, End::Source)?;
    let mut witness = Witness::new(source.serial());
    wait_until(bench, &mut witness, "the filling of memory", Witness::filled)?;
    let rested = witness.reports().len() + REPORTS_AT_REST;
    wait_until(bench, &mut witness, "reports", |witness| witness.reports().len() >= rested)?;
    let mut destination = start(bench, contender, End::Destination)?;
    set_up(bench, contender, case, End::Source, &mut source)?;
    set_up(bench, contender, case, End::Destination, &mut destination)?;
    witness.listen()?;
    let begun_at = witness.reports().len();
    let recording = recorder.map(|recorder| recorder.start(&[&source, &destination])).transpose();
    let recording = recording.map_err(TrialError::Profile)?;
    let moved = run(bench, case, &mut source, &mut destination)?;
    if let Some(recording) = recording {
        recording.stop().map_err(TrialError::Profile)?;
    }
    witness.follow(destination.serial())?;
    let arrived_at = witness.reports().len();
    wait_until(bench, &mut witness, "the check of all memory", |witness| {
        checked_since_arrival(&witness.reports()[arrived_at..]).is_some_and(|done| done >= 1.0)
    })?;
    let sample = sample(&moved, &witness, begun_at, arrived_at, &mut source, &mut destination)?;
    source.quit()?;
    destination.quit()?;
    Ok(sample)
}

pub(super) fn start(bench: &Bench, contender: Contender, end: End) -> Result<Machine, TrialError> {
    let name = match end {
        End::Source => "source",
        End::Destination => "destination",
    };
    let file = |kind: &str| bench.folder.path().join(format!("{name}.{kind}"));
    let files = Files { log: file("log"), serial: file("serial"), socket: file("qmp") };
    // Those of the last trial: a file that is there already would be read as if this guest had written it.
    for path in [&files.serial, &files.socket] {
        let _ = std::fs::remove_file(path);
    }
    let command = bench.command(contender, end, &files);
    Ok(Machine::start(name, command, files, &bench.interrupt)?)
}

fn set_up(
    bench: &Bench,
    contender: Contender,
    case: Case,
    end: End,
    machine: &mut Machine,
) -> Result<(), TrialError> {
    let capabilities = ["events", "multifd"].map(|name| json!({ "capability": name, "state": true }));
    machine.execute("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
    let parameters = json!({
        "max-bandwidth": 0,
        "downtime-limit": bench.arguments.downtime_limit_ms(),
        "multifd-channels": case.channels,
    });
    machine.execute("migrate-set-parameters", parameters)?;
    if let (Some(chooser), End::Source) = (bench.compression, end) {
        machine.execute("migrate-set-parameters", json!({ "whimbrel-compression": chooser }))?;
    }
    match case.encryption {
        Encryption::Off => Ok(()),
        Encryption::On => Ok(encrypt(contender, end, &bench.certificates, bench.address(), machine)?),
    }
}

/// What was seen while it moved.
#[derive(Debug)]
struct Moved {
    info: MigrationInfo,
    stop_to_resume: Option<Duration>,
    source_cpu: Duration,
    destination_cpu: Duration,
}

/// Moves it. Nothing is asked meanwhile: the monitors tell when it is over, and questions would cost both sides CPU time.
fn run(
    bench: &Bench,
    case: Case,
    source: &mut Machine,
    destination: &mut Machine,
) -> Result<Moved, TrialError> {
    let mut source_vcpus = Vcpus::of(source)?;
    let source_before = source_vcpus.spent();
    // What a destination prepares as soon as it listens is part of the work.
    let destination_before = Vcpus::of(destination)?.spent();
    let host = bench.address();
    let port = listen(host, destination)?.ok_or(TrialError::NoPort)?;
    bench.interrupt.sleep(case.head_start.duration())?;
    source.execute("migrate", json!({ "uri": format!("tcp:{host}:{port}") }))?;
    let stopped = watch(bench, source, &mut source_vcpus)?;
    let resumed = destination.events().wait_for("RESUME", PATIENCE).map(|event| micros(&event));
    bench.interrupt.sleep(AFTERMATH)?;
    let source_cpu = source_vcpus.spent().beside_vcpus_since(source_before);
    let destination_after = Vcpus::of(destination)?.spent();
    let destination_cpu = destination_after.beside_vcpus_since(destination_before);
    let stop_to_resume = stopped.zip(resumed).and_then(|(stop, resume)| {
        u64::try_from(resume.saturating_sub(stop)).ok().map(Duration::from_micros)
    });
    Ok(Moved { info: source.query_migrate()?, stop_to_resume, source_cpu, destination_cpu })
}

/// Waits until the source says that it is over, and returns when it stopped its vCPUs.
pub(super) fn watch(
    bench: &Bench,
    source: &mut Machine,
    vcpus: &mut Vcpus,
) -> Result<Option<i64>, TrialError> {
    let (events, begun) = (source.events(), Instant::now());
    let mut stopped = None;
    while begun.elapsed() < PATIENCE {
        bench.interrupt.check()?;
        let Some(event) = events.next(LOOK_EVERY) else {
            vcpus.look();
            source.check()?;
            continue;
        };
        match event.event.as_str() {
            // From here on they spend nothing, and soon they are gone.
            "STOP" => {
                vcpus.look();
                stopped = Some(micros(&event));
            }
            "MIGRATION" => {
                let status = event.data.as_ref().and_then(|data| data["status"].as_str()).unwrap_or_default();
                match status {
                    "completed" => return Ok(stopped),
                    "failed" | "cancelled" => {
                        let reason = source.query_migrate()?.error_desc;
                        let reason = reason.unwrap_or_else(|| "no reason is given".to_owned());
                        return Err(TrialError::Migration { status: status.to_owned(), reason });
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Err(TrialError::Late { what: "the end of the migration", seconds: PATIENCE.as_secs() })
}

pub(super) fn wait_until(
    bench: &Bench,
    witness: &mut Witness,
    what: &'static str,
    is_so: impl Fn(&Witness) -> bool,
) -> Result<(), TrialError> {
    let begun = Instant::now();
    loop {
        witness.listen()?;
        if is_so(witness) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(TrialError::Late { what, seconds: PATIENCE.as_secs() });
        }
        bench.interrupt.sleep(LOOK_EVERY)?;
    }
}

fn sample(
    moved: &Moved,
    witness: &Witness,
    begun_at: usize,
    arrived_at: usize,
    source: &mut Machine,
    destination: &mut Machine,
) -> Result<Sample, TrialError> {
    let felt = Felt::new(witness.reports(), begun_at, arrived_at);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let own = |info: &MigrationInfo| info.whimbrel.as_ref().and_then(|own| own.cpu_seconds);
    let arrived = destination.query_migrate()?;
    let ram = moved.info.ram.clone().unwrap_or_default();
    Ok(Sample {
        total_ms: moved.info.total_time.unwrap_or(0) as f64,
        setup_ms: moved.info.setup_time.unwrap_or(0) as f64,
        downtime_ms: moved.info.downtime.unwrap_or(0) as f64,
        foretold_ms: moved.info.whimbrel.as_ref().and_then(|own| own.predicted_downtime_ms),
        stop_to_resume_ms: moved.stop_to_resume.map(millis),
        phases: moved.info.whimbrel.as_ref().and_then(|own| own.downtime_phases.clone()),
        gap_ms: millis(felt.gap),
        gap_in_rounds_ms: millis(felt.gap_in_rounds),
        source_cpu: moved.source_cpu.as_secs_f64(),
        destination_cpu: moved.destination_cpu.as_secs_f64(),
        own_cpu: own(&moved.info).zip(own(&arrived)).map(|(source, destination)| source + destination),
        overhead_bytes: source.peak_bytes().max(destination.peak_bytes()),
        transferred: ram.transferred,
        rounds: ram.dirty_sync_count,
        rate_held: felt.rate.0,
        complaints: witness.complaints().to_vec(),
    })
}
