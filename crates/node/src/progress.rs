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
        wire_rate: if last.wire_rate > 0 { last.wire_rate } else { so_far(info) },
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

/// Bytes sent each second since the first page: what is known of the wire while the first round, which is the longest, is not over.
fn so_far(info: &MigrationInfo) -> u64 {
    let sent = info.ram.as_ref().map_or(0, |ram| ram.transferred);
    let millis = info.total_time.unwrap_or(0).saturating_sub(info.setup_time.unwrap_or(0));
    sent.saturating_mul(1000).checked_div(millis).unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wire_rate(round: u64, setup: u64) -> u64 {
        let info = json!({
            "status": "active", "total-time": 2500, "setup-time": setup,
            "ram": { "transferred": 4000, "remaining": 1, "total": 1 },
            "whimbrel": { "rounds": [{ "round": 1, "wire-rate": round }] },
        });
        progress(&serde_json::from_value(info).unwrap()).wire_rate
    }

    #[test]
    fn the_first_round_has_the_rate_so_far() {
        assert_eq!(wire_rate(0, 500), 2000);
        assert_eq!(wire_rate(7, 500), 7);
        assert_eq!(wire_rate(0, 2500), 0, "nothing has been sent for any time");
    }
}
