//! From the engine's figures to the report of a migration.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use engine::{destination, source};
use migration::{PAGE_BYTES, RoundStats, Status};
use parking_lot::Mutex;
use report::{
    Arrived, ArrivedChannel, Decision, Downtime, Integrity, Outcome, Parameters, Party, Phase, Report, Round,
    RoundStalls, SCHEMA, Side, Stalls, Totals,
};
use uuid::Uuid;
use wire::SessionId;

use super::{
    encoded, following,
    moves::{Arrival, Departure},
    query, security,
};

/// What this process knows of itself and its machine.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) host: Option<String>,
    pub(super) name: String,
    /// The machine's, once it has come.
    pub(super) uuid: Arc<Mutex<Option<Uuid>>>,
    pub(super) vcpus: u8,
}

impl Here {
    /// The UUID of the machine that is here, comes, or was here.
    pub(super) fn uuid(&self) -> Option<Uuid> {
        *self.uuid.lock()
    }

    /// The machine that has come has this UUID.
    pub(super) fn is_of(&self, uuid: Option<Uuid>) {
        *self.uuid.lock() = uuid;
    }

    fn party(&self) -> Party {
        Party {
            host: self.host.clone(),
            process: Some(std::process::id()),
            release: Some(release::VERSION.into()),
            address: None,
        }
    }

    fn machine(&self, memory_bytes: u64) -> report::Machine {
        report::Machine {
            name: self.name.clone(),
            uuid: self.uuid().map(|uuid| uuid.to_string()),
            memory_bytes,
            vcpus: self.vcpus.into(),
        }
    }
}

/// Of a migration that leaves, at its end or on the way.
pub(super) fn leaving(here: &Here, departure: &Departure, outcome: Outcome) -> Report {
    let snapshot = departure.handle.snapshot();
    let statistics = &snapshot.statistics;
    let last = statistics.rounds.iter().position(|round| Some(round.began) >= statistics.stopped);
    let is_last = |index| statistics.stopped.is_some() && Some(index) == last;
    let rounds: Vec<_> = statistics
        .rounds
        .iter()
        .enumerate()
        .map(|(index, stats)| round(&snapshot, stats, is_last(index)))
        .collect();
    let first = statistics.rounds.front().map_or(0, |round| round.round);
    Report {
        schema: SCHEMA,
        side: Side::Source,
        session: Some(departure.session.clone()),
        outcome,
        reason: Some(statistics.reason.clone())
            .filter(|reason| outcome != Outcome::Completed && !reason.is_empty()),
        began: moment(departure.began),
        duration_ms: ms(snapshot.elapsed),
        source: here.party(),
        destination: Party {
            address: Some(departure.address.clone()),
            release: statistics.destination.as_ref().map(|destination| destination.release.clone()),
            ..Party::default()
        },
        machine: here.machine(departure.total_bytes),
        parameters: Some(parameters(&snapshot.params)),
        totals: Totals {
            bytes: snapshot.sent_bytes,
            raw_pages: snapshot.pages.raw,
            zero_pages: snapshot.pages.zero,
            dirty_syncs: statistics.dirty_syncs,
            setup_ms: ms(statistics.setup),
        },
        encodings: encoded::of_report(&snapshot.encoded),
        rounds,
        rounds_left_out: first.into(),
        decisions: decisions(statistics),
        downtime: downtime(&snapshot),
        cpu_seconds: snapshot.cpu.as_secs_f64(),
        stalls: stalls(&snapshot),
        following: following::leaving(&snapshot),
        security: statistics
            .destination
            .is_some()
            .then(|| security::of_report(snapshot.security.as_ref(), &departure.address)),
        integrity: Some(Integrity {
            level: snapshot.params.digest.name().into(),
            equal: equal(&snapshot, outcome),
            differences: Vec::new(),
        }),
        arrived: None,
    }
}

/// Of a migration that comes, at its end or on the way; `None` while none has come yet.
pub(super) fn arriving(
    here: &Here,
    arrival: &Arrival,
    outcome: Outcome,
    reason: Option<String>,
) -> Option<Report> {
    let mut snapshot = arrival.handle.snapshot();
    let attempt = snapshot.attempt.take()?;
    Some(Report {
        schema: SCHEMA,
        side: Side::Destination,
        session: (attempt.session != SessionId::NONE)
            .then(|| Uuid::from_bytes(attempt.session.0).to_string()),
        outcome,
        reason,
        began: moment(attempt.began),
        duration_ms: ms(attempt.took),
        source: Party {
            release: Some(attempt.release.clone()),
            address: attempt.address.clone(),
            ..Party::default()
        },
        destination: Party { address: Some(arrival.listens_at[0].clone()), ..here.party() },
        machine: here.machine(arrival.total_bytes),
        parameters: None,
        totals: Totals {
            bytes: attempt.channels.iter().map(|channel| channel.bytes).sum(),
            raw_pages: snapshot.pages.raw,
            zero_pages: snapshot.pages.zero,
            ..Totals::default()
        },
        encodings: None,
        rounds: Vec::new(),
        rounds_left_out: 0,
        decisions: Vec::new(),
        downtime: attempt.load.map(|load| Downtime {
            total_ms: None,
            predicted_ms: None,
            phases: vec![Phase { name: "load".into(), ms: ms(load), beside: false }],
        }),
        cpu_seconds: snapshot.cpu.as_secs_f64(),
        stalls: None,
        following: following::arriving(&snapshot),
        security: Some(security::of_report(attempt.security.as_ref(), &arrival.listens_at[0])),
        integrity: Some(Integrity {
            level: attempt.digest.name().into(),
            equal: attempt.compared.as_ref().map(Result::is_ok),
            differences: attempt.compared.iter().filter_map(|compared| compared.clone().err()).collect(),
        }),
        arrived: Some(arrived(&attempt)),
    })
}

fn round(snapshot: &source::Snapshot, stats: &RoundStats, last: bool) -> Round {
    Round {
        round: stats.round + 1,
        last,
        began_ms: ms(stats.began),
        duration_ms: ms(stats.duration),
        bytes: stats.bytes,
        raw_pages: stats.pages.raw,
        zero_pages: stats.pages.zero,
        remaining_bytes: stats.dirty_pages.saturating_mul(PAGE_BYTES),
        dirty_rate: finite(stats.dirty_rate),
        wire_rate: finite(stats.wire_rate),
        predicted_downtime_ms: stats.predicted.map(ms),
        stalls: query::stalls_in(snapshot, stats).map(|stalls| RoundStalls {
            faults: stalls.faults,
            kernel_ms: ms(stalls.kernel),
            waiting_for_cpu_ms: ms(stalls.waiting),
        }),
    }
}

/// What is measured, for whoever reads the figures.
const MEASURE: &str = "Sums over all vCPUs. Page faults are counted by KVM (pf_taken). Time in the kernel is CPU time of the vCPU \
    threads outside of the guest, as the kernel accounts it; most kernels sample it at every tick, so that it is rough in short \
    rounds. Time spent waiting for a CPU is exact (schedstat), and is not the migration's doing where others use the host";

fn stalls(snapshot: &source::Snapshot) -> Option<Stalls> {
    let rounds = &snapshot.stalls;
    let first = rounds.first()?;
    let faults = rounds.iter().map(|round| round.faults).sum();
    let sum = |time: fn(&source::RoundStalls) -> Duration| ms(rounds.iter().map(time).sum());
    Some(Stalls {
        measure: MEASURE.into(),
        total: RoundStalls {
            faults: first.faults.and(faults),
            kernel_ms: sum(|round| round.kernel),
            waiting_for_cpu_ms: sum(|round| round.waiting),
        },
    })
}

fn decisions(statistics: &migration::Statistics) -> Vec<Decision> {
    let decided: Vec<_> = statistics.rounds.iter().filter(|round| !round.decision.is_empty()).collect();
    let switched = statistics.stopped.is_some();
    let mut decisions: Vec<_> = decided
        .iter()
        .enumerate()
        .map(|(index, round)| {
            let number = round.round + 1;
            let what = if switched && index + 1 == decided.len() {
                format!("Switched after round {number}")
            } else {
                format!("Went on to round {}", number + 1)
            };
            Decision { at_ms: ms(round.decided), text: format!("{what}: {}", round.decision) }
        })
        .collect();
    if let (Some(stopped), waiting) = (statistics.stopped, statistics.downtime.waiting)
        && !waiting.is_zero()
    {
        decisions.push(Decision {
            at_ms: ms(stopped + statistics.downtime.stop + waiting),
            text: format!("The user let it go on after {:.0} ms", ms(waiting)),
        });
    }
    let others = statistics.decisions.iter();
    decisions.extend(others.map(|(at, text)| Decision { at_ms: ms(*at), text: text.clone() }));
    decisions.sort_by(|one, other| one.at_ms.total_cmp(&other.at_ms));
    decisions
}

fn downtime(snapshot: &source::Snapshot) -> Option<Downtime> {
    let statistics = &snapshot.statistics;
    let phases = query::phases(snapshot)?;
    let phase = |(name, ms): (&str, f64)| Phase { name: name.into(), ms, beside: name == "save" };
    Some(Downtime {
        total_ms: statistics.downtime.total.map(ms),
        predicted_ms: statistics.predicted.map(ms),
        phases: phases.measured().map(phase).collect(),
    })
}

fn parameters(params: &migration::Params) -> Parameters {
    Parameters {
        channels: params.channels.into(),
        max_bandwidth: params.max_bandwidth,
        downtime_limit_ms: u64::try_from(params.downtime_limit.as_millis()).unwrap_or(u64::MAX),
        switchover_bandwidth: params.switchover_bandwidth,
        pause_before_switchover: params.pause_before_switchover,
        digest: params.digest.name().into(),
    }
}

/// Whether memory was the same on both sides, if that was looked at. The machine runs nowhere where it was not.
fn equal(snapshot: &source::Snapshot, outcome: Outcome) -> Option<bool> {
    (snapshot.params.digest.is_on() && outcome == Outcome::Completed).then_some(true)
}

fn arrived(attempt: &destination::AttemptFigures) -> Arrived {
    let channel = |channel: &destination::ChannelFigures| ArrivedChannel {
        index: channel.index.into(),
        frames: channel.frames,
        bytes: channel.bytes,
        raw_pages: channel.pages.raw,
        zero_pages: channel.pages.zero,
        rounds: channel.rounds,
        last_frame: channel.last_frame.map(|kind| format!("{kind:?}")),
        error: channel.error.clone(),
    };
    Arrived {
        messages: attempt.messages,
        last_message: Some(attempt.last_message.into()),
        device_states: attempt.device_states,
        error: attempt.control_error.clone(),
        channels: attempt.channels.iter().map(channel).collect(),
    }
}

/// How a migration stands that has this status.
pub(super) fn outcome(status: Status) -> Outcome {
    match status {
        Status::Completed => Outcome::Completed,
        Status::Cancelled => Outcome::Cancelled,
        Status::Failed => Outcome::Failed,
        _ => Outcome::UnderWay,
    }
}

/// The name of this host, as the kernel knows it.
pub(super) fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(str::to_owned)
}

/// A moment as RFC 3339 has it, in UTC, to the millisecond.
fn moment(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |moment| format!("{moment:.3}"))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// JSON has no way to write the others.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}
