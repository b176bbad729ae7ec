//! What is done about a migration whose time is up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{
    Condition, ConditionStatus, Failure, FailureReason, MigrationConfiguration, MigrationMode,
    VirtualMachineInstance, VirtualMachineInstanceMigration, set_condition,
};

use crate::fit;

/// A migration as it is to be written after that many seconds: unchanged while there is time. Then the guest is disturbed, where the policy
/// allows it, and from there on nothing is dirtied that would have to be sent again; else it is given up.
pub(crate) fn act(
    migration: &VirtualMachineInstanceMigration,
    instance: Option<&VirtualMachineInstance>,
    seconds: i64,
    now: &Time,
) -> VirtualMachineInstanceMigration {
    let mut next = migration.clone();
    let Some(status) = next.status.as_mut() else { return next };
    let Some(state) = status.migration_state.as_mut() else { return next };
    let values = state.migration_configuration.clone().unwrap_or_default();
    let Some((limit, why)) = limit(&values, instance).filter(|(limit, _)| seconds > *limit) else {
        return next;
    };
    // Memory that follows a machine that runs already has no other place.
    if state.abort_requested
        || state.workload_disruption_requested
        || state.mode == Some(MigrationMode::PostCopy)
    {
        return next;
    }
    let message = if values.allow_workload_disruption {
        state.workload_disruption_requested = true;
        let how = if values.allow_post_copy {
            "the machine goes on at the target, and the rest of its memory follows it"
        } else {
            "the machine stands still until it has arrived"
        };
        format!("It takes longer than {limit} s, which is what {why} allows: {how}.")
    } else {
        state.abort_requested = true;
        let message = format!("It took longer than {limit} s, which is what {why} allows.");
        let advice = "Allow auto-converge, post-copy or workload disruption, more bandwidth, or a longer time, in a MigrationPolicy.";
        let reason = FailureReason::CompletionTimeout;
        state.failure = Some(Failure { reason, message: message.clone(), advice: Some(advice.to_owned()) });
        format!("{message} It is given up.")
    };
    let condition = Condition {
        kind: "Overdue".to_owned(),
        status: ConditionStatus::True,
        reason: Some("CompletionTimeout".to_owned()),
        message: Some(message),
        last_transition_time: None,
    };
    set_condition(&mut status.conditions, condition, now);
    next
}

/// How many seconds there are, and which setting says so. `None`: as many as it takes.
fn limit(
    values: &MigrationConfiguration,
    instance: Option<&VirtualMachineInstance>,
) -> Option<(i64, &'static str)> {
    let gib = instance.map_or(0, fit::memory_of).div_ceil(1 << 30).max(1);
    let by_size = u64::from(values.completion_timeout_per_gi_b).saturating_mul(gib);
    let by_size = (i64::try_from(by_size).unwrap_or(i64::MAX), "completionTimeoutPerGiB");
    let in_all = (i64::from(values.deadline_seconds.unwrap_or(0)), "deadlineSeconds");
    [by_size, in_all].into_iter().filter(|(limit, _)| *limit > 0).min()
}
