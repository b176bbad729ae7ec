//! What the engine says of a migration, as the objects say it.

use monitor::types::{DecisionInfo, MigrationInfo, MigrationStatus};
use objects::{Decision, Downtime, Failure, FailureReason, MigrationResult, Progress};

/// Decisions that an object has at most.
const DECISIONS: usize = 10;

/// How far it is.
pub(crate) fn progress(info: &MigrationInfo) -> Progress {
    let ours = info.whimbrel.clone().unwrap_or_default();
    let ram = info.ram.clone().unwrap_or_default();
    let last = ours.rounds.last().cloned().unwrap_or_default();
    Progress {
        round: last.round,
        percent: ours.percentage.map(|percent| percent.clamp(0.0, 100.0) as u32),
        eta_ms: ours.eta_ms,
        note: ours.eta_note,
        remaining_bytes: ram.remaining,
        transferred_bytes: ram.transferred,
        wire_rate: last.wire_rate,
        dirty_rate: last.dirty_rate,
        predicted_downtime_ms: ours.predicted_downtime_ms.map(|millis| millis.max(0.0) as u64),
        throttle_percent: info.cpu_throttle_percentage.and_then(|percent| u32::try_from(percent).ok()),
        decisions: decisions(&ours.decisions),
    }
}

/// The last of them: an object is not a log.
fn decisions(all: &[DecisionInfo]) -> Vec<Decision> {
    let last = &all[all.len().saturating_sub(DECISIONS)..];
    last.iter().map(|one| Decision { at_ms: one.at_ms, text: one.text.clone() }).collect()
}

/// What it took.
pub(crate) fn result(info: &MigrationInfo) -> MigrationResult {
    let ours = info.whimbrel.clone().unwrap_or_default();
    let phases = ours.downtime_phases.unwrap_or_default();
    let downtime = info.downtime.map(|total_ms| Downtime {
        total_ms,
        phases_ms: phases.measured().map(|(name, millis)| (name.replace(' ', "-"), millis)).collect(),
    });
    MigrationResult {
        downtime,
        transferred_bytes: info.ram.as_ref().map_or(0, |ram| ram.transferred),
        rounds: ours.rounds.last().map_or(0, |round| round.round),
        setup_ms: info.setup_time,
        total_ms: info.total_time,
        session: ours.session,
    }
}

/// Why it failed.
pub(crate) fn failure(info: &MigrationInfo, is_asked_for: bool) -> Failure {
    let ours = info.whimbrel.clone().unwrap_or_default();
    let is_cancelled = info.status == Some(MigrationStatus::Cancelled);
    let reason =
        if is_cancelled && is_asked_for { FailureReason::Cancelled } else { FailureReason::EngineFailed };
    let said = info.error_desc.clone().or(ours.reason);
    let message = match reason {
        FailureReason::Cancelled => "It was cancelled. The machine runs where it was.".to_owned(),
        _ => said.unwrap_or_else(|| "The engine gave up and did not say why.".to_owned()),
    };
    Failure { reason, message, advice: ours.advice }
}
