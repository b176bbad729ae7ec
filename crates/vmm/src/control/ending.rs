//! How a migration comes to its end, in the monitor's words.

use std::time::Duration;

use engine::source::Snapshot;
use monitor::types::{DeadlineInfo, DecisionInfo, ThrottleInfo, VcpuThrottleInfo};

/// QEMU's figure: while something is taken.
pub(super) fn percentage(snapshot: &Snapshot) -> Option<u64> {
    (snapshot.throttle > 0.0).then_some((snapshot.throttle * 100.0).round() as u64)
}

/// What is taken from vCPUs, and was.
pub(super) fn throttle(snapshot: &Snapshot) -> Option<ThrottleInfo> {
    let vcpus = (0..).zip(&snapshot.slowed).map(|(cpu_index, vcpu)| VcpuThrottleInfo {
        cpu_index,
        percentage: vcpu.share * 100.0,
        taken_ms: vcpu.taken.as_secs_f64() * 1e3,
    });
    // With a limit to what each may dirty there is no share that they have in common.
    let percentage = snapshot.slowed.iter().map(|vcpu| vcpu.share).fold(snapshot.throttle, f64::max) * 100.0;
    (!snapshot.slowed.is_empty()).then(|| ThrottleInfo { percentage, vcpus: vcpus.collect() })
}

/// By when it is to be over.
pub(super) fn deadline(snapshot: &Snapshot) -> Option<DeadlineInfo> {
    let by_when = snapshot.params.by_when.as_ref()?;
    let plan = snapshot.plan.as_ref();
    Some(DeadlineInfo {
        seconds: by_when.deadline.as_secs(),
        left_ms: millis(by_when.deadline.saturating_sub(snapshot.elapsed)),
        in_time: plan.map(|plan| plan.in_time),
        plan: plan.map(|plan| plan.reason.clone()),
    })
}

/// What was decided beside the ends of rounds.
pub(super) fn decisions(snapshot: &Snapshot) -> Vec<DecisionInfo> {
    let decisions = snapshot.statistics.decisions.iter();
    decisions.map(|(at, text)| DecisionInfo { at_ms: millis(*at), text: text.clone() }).collect()
}

/// The downtime limit in force.
pub(super) fn limit(snapshot: &Snapshot) -> Duration {
    let planned = snapshot.plan.as_ref().map_or(Duration::ZERO, |plan| plan.limit);
    snapshot.params.downtime_limit.max(planned)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
