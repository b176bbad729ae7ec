//! From the engine's figures to `query-migrate`.

use engine::{destination, source};
use migration::{Outcome, PAGE_BYTES, RoundStats, Status};
use monitor::types::{
    ArrivedInfo, DowntimePhases, FaultsInfo, MigrationInfo, MigrationRamStats, MigrationStatus, RoundInfo,
    SocketAddress, WhimbrelInfo,
};
use std::time::Duration;
use wire::SessionId;

use super::{encoded, ending, security, wording};

/// What is told of a migration that leaves.
pub(super) fn outgoing(
    snapshot: &source::Snapshot,
    total_bytes: u64,
    session: &str,
    address: &str,
) -> MigrationInfo {
    let status = status(snapshot.status);
    let statistics = &snapshot.statistics;
    let begun = snapshot.status != Status::Setup;
    let failed = snapshot.status == Status::Failed;
    let expected = statistics.predicted.unwrap_or(snapshot.params.downtime_limit);
    MigrationInfo {
        status: Some(status),
        ram: begun.then(|| ram(snapshot, total_bytes)),
        total_time: Some(millis(snapshot.elapsed)),
        expected_downtime: (snapshot.status == Status::Active).then(|| millis(expected)),
        downtime: statistics
            .downtime
            .total
            .filter(|_| snapshot.status == Status::Completed || snapshot.status.is_postcopy())
            .map(millis),
        setup_time: begun.then(|| millis(statistics.setup)),
        xbzrle_cache: encoded::differences(&snapshot.encoded).filter(|_| begun),
        compression: encoded::packing(&snapshot.encoded).filter(|_| begun),
        cpu_throttle_percentage: ending::percentage(snapshot),
        error_desc: failed.then(|| statistics.reason.clone()),
        whimbrel: Some(whimbrel(snapshot, session, address)),
        ..MigrationInfo::default()
    }
}

/// What is told of a migration that comes.
pub(super) fn incoming(
    snapshot: &destination::Snapshot,
    total_bytes: u64,
    addresses: Vec<SocketAddress>,
    listens_at: &str,
) -> MigrationInfo {
    let failure = snapshot.last_failure.as_ref().filter(|_| snapshot.status != Status::Completed);
    let attempt = snapshot.attempt.as_ref();
    let arrived = attempt.map(|_| ArrivedInfo {
        bytes: snapshot.bytes,
        pages: snapshot.pages.raw,
        zero_pages: snapshot.pages.zero,
        memory_bytes: total_bytes,
    });
    MigrationInfo {
        status: Some(status(snapshot.status)),
        total_time: attempt.map(|attempt| millis(attempt.took)),
        error_desc: failure.cloned(),
        socket_address: Some(addresses),
        postcopy_blocktime: snapshot.faults.as_ref().map(|waits| millis(waits.block_time.all)),
        postcopy_vcpu_blocktime: snapshot
            .faults
            .as_ref()
            .map(|waits| waits.block_time.vcpus.iter().copied().map(millis).collect()),
        // No figures of RAM, as in QEMU: most of those are the source's to know.
        whimbrel: Some(WhimbrelInfo {
            session: attempt
                .filter(|attempt| attempt.session != SessionId::NONE)
                .map(|attempt| uuid::Uuid::from_bytes(attempt.session.0).to_string()),
            channels: attempt.and_then(|attempt| u32::try_from(attempt.channels.len()).ok()),
            arrived,
            faults: snapshot.faults.as_ref().map(|faults| waits(faults, snapshot.missing_pages)),
            security: attempt.map(|attempt| security::info(attempt.security.as_ref(), listens_at)),
            cpu_seconds: Some(snapshot.cpu.as_secs_f64()),
            reason: failure.map(|failure| format!("The last attempt came to nothing: {failure}")),
            ..WhimbrelInfo::default()
        }),
        ..MigrationInfo::default()
    }
}

fn waits(waits: &destination::Waits, missing_pages: u64) -> FaultsInfo {
    let latencies = &waits.latencies;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let share = |per_mille| latencies.per_mille(per_mille).map(micros);
    FaultsInfo {
        missing_pages,
        count: latencies.count(),
        mean_us: latencies.mean().map(micros),
        p50_us: share(500),
        p99_us: share(990),
        p999_us: share(999),
        worst_us: share(1000),
        total_ms: fine_millis(latencies.total()),
        under_way_ms: fine_millis(waits.stages.under_way),
        receiving_ms: fine_millis(waits.stages.receiving),
        placing_ms: fine_millis(waits.stages.placing),
        pushed: waits.stages.pushed,
        histogram: latencies.by_power_of_two(),
        vcpu_block_ms: waits.block_time.vcpus.iter().copied().map(fine_millis).collect(),
        block_ms: fine_millis(waits.block_time.all),
    }
}

fn ram(snapshot: &source::Snapshot, total_bytes: u64) -> MigrationRamStats {
    let statistics = &snapshot.statistics;
    let seconds = snapshot.elapsed.saturating_sub(statistics.setup).as_secs_f64();
    let each_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    MigrationRamStats {
        transferred: snapshot.sent_bytes,
        remaining: snapshot.remaining_pages * PAGE_BYTES,
        total: total_bytes,
        duplicate: snapshot.pages.zero,
        normal: snapshot.pages.raw,
        normal_bytes: snapshot.pages.raw * PAGE_BYTES,
        dirty_pages_rate: (statistics.dirty_rate() / PAGE_BYTES as f64) as u64,
        mbps: each_second(snapshot.sent_bytes) * 8.0 / 1e6,
        dirty_sync_count: statistics.dirty_syncs.into(),
        dirty_sync_missed_zero_copy: snapshot.zero_copy.copied,
        page_size: PAGE_BYTES,
        multifd_bytes: snapshot.sent_bytes,
        pages_per_second: each_second(snapshot.pages.total()) as u64,
        precopy_bytes: snapshot
            .sent_bytes
            .saturating_sub(statistics.downtime_bytes)
            .saturating_sub(snapshot.postcopy_bytes),
        downtime_bytes: statistics.downtime_bytes,
        postcopy_bytes: snapshot.postcopy_bytes,
        postcopy_requests: snapshot.requests,
    }
}

fn whimbrel(snapshot: &source::Snapshot, session: &str, address: &str) -> WhimbrelInfo {
    let statistics = &snapshot.statistics;
    let under_way = snapshot.status.is_under_way();
    let unknown = snapshot.status == Status::Unknown;
    let advice = match &statistics.advice {
        _ if unknown => Some(wording::undecided()),
        advice => advice.as_ref().filter(|_| under_way).and_then(wording::advice),
    };
    WhimbrelInfo {
        session: Some(session.to_owned()),
        channels: Some(snapshot.channels.into()),
        rounds: statistics.rounds.iter().map(|stats| round(stats, stalls_in(snapshot, stats))).collect(),
        downtime_limit_ms: Some(millis(ending::limit(snapshot))),
        predicted_downtime_ms: statistics.predicted.map(fine_millis),
        percentage: Some(snapshot.progress.percentage),
        eta_ms: snapshot.progress.eta.filter(|_| under_way).map(millis),
        eta_note: snapshot.progress.note.clone().filter(|_| under_way),
        downtime_phases: phases(snapshot),
        throttle: ending::throttle(snapshot),
        deadline: ending::deadline(snapshot),
        decisions: ending::decisions(snapshot),
        cpu_seconds: Some(snapshot.cpu.as_secs_f64()),
        // Not before there is a connection.
        security: statistics
            .destination
            .is_some()
            .then(|| security::info(snapshot.security.as_ref(), address)),
        reason: Some(statistics.reason.clone()).filter(|reason| !reason.is_empty()),
        advice,
        ..WhimbrelInfo::default()
    }
}

/// What vCPUs spent in this round.
pub(super) fn stalls_in<'a>(
    snapshot: &'a source::Snapshot,
    stats: &RoundStats,
) -> Option<&'a source::RoundStalls> {
    snapshot.stalls.iter().find(|stalls| stalls.round == stats.round)
}

fn round(stats: &RoundStats, stalls: Option<&source::RoundStalls>) -> RoundInfo {
    RoundInfo {
        faults: stalls.and_then(|stalls| stalls.faults),
        vcpu_kernel_ms: stalls.map(|stalls| fine_millis(stalls.kernel)),
        vcpu_waiting_ms: stalls.map(|stalls| fine_millis(stalls.waiting)),
        round: stats.round + 1,
        bytes: stats.bytes,
        pages: stats.pages.total(),
        zero_pages: stats.pages.zero,
        dirty_pages: stats.dirty_pages,
        dirty_rate: stats.dirty_rate as u64,
        wire_rate: stats.wire_rate as u64,
        duration_ms: millis(stats.duration),
        predicted_downtime_ms: stats.predicted.map(fine_millis),
        decision: Some(stats.decision.clone()).filter(|decision| !decision.is_empty()),
    }
}

/// Where the downtime went, once the machine was stopped.
pub(super) fn phases(snapshot: &source::Snapshot) -> Option<DowntimePhases> {
    let downtime = &snapshot.statistics.downtime;
    if downtime.stop.is_zero() {
        return None;
    }
    let measured = |duration: Duration| Some(fine_millis(duration)).filter(|_| !duration.is_zero());
    let network = downtime.ready.saturating_sub(downtime.load) + downtime.go.saturating_sub(downtime.start);
    Some(DowntimePhases {
        stop_ms: measured(downtime.stop),
        waiting_ms: measured(downtime.waiting),
        last_pages_ms: measured(downtime.last_fetch + downtime.last_pass),
        save_ms: measured(downtime.save),
        load_ms: measured(downtime.load),
        hand_over_ms: measured(network),
        start_ms: measured(downtime.start),
    })
}

/// QEMU's word for where a migration stands. QEMU has none for a hand-over whose outcome is not known: the machine is
/// stopped and the last messages are due, which is what `device` means; reason and advice say the rest.
pub(super) fn status(status: Status) -> MigrationStatus {
    match status {
        Status::None => MigrationStatus::None,
        Status::Setup => MigrationStatus::Setup,
        Status::Active => MigrationStatus::Active,
        Status::PreSwitchover => MigrationStatus::PreSwitchover,
        Status::Device | Status::Unknown => MigrationStatus::Device,
        Status::PostcopyActive => MigrationStatus::PostcopyActive,
        Status::PostcopyPaused => MigrationStatus::PostcopyPaused,
        Status::PostcopyRecover => MigrationStatus::PostcopyRecover,
        Status::Cancelling => MigrationStatus::Cancelling,
        Status::Cancelled => MigrationStatus::Cancelled,
        Status::Failed => MigrationStatus::Failed,
        Status::Completed => MigrationStatus::Completed,
    }
}

/// How an attempt ended, in a sentence for the log.
pub(super) fn sentence(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Completed => "The migration is complete: the machine belongs to the destination".into(),
        Outcome::Cancelled => "The migration was cancelled: the machine stays here".into(),
        Outcome::Failed(reason) => format!("The migration failed, the machine stays here: {reason}"),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn fine_millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
