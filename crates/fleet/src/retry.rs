//! Migrations that failed for a reason that may pass, and are tried again: each time as a migration of its own, so that every record stays true.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use objects::{
    ATTEMPT_ANNOTATION, Condition, ConditionStatus, DRAIN_UID_LABEL, FailureReason, InstancePhase,
    MIGRATION_FINALIZER, MigrationPhase, MigrationState, RETRY_CONDITION, RETRY_OF_ANNOTATION,
    VirtualMachineInstance, VirtualMachineInstanceMigration, VirtualMachineInstanceMigrationSpec, condition,
    set_condition,
};

use crate::{
    Intent,
    index::{Index, phase},
    migration::{blocked, is_unwanted},
    world::name_of,
};

/// After the first failure, in seconds.
const FIRST_SECONDS: i64 = 10;
/// At most, in seconds.
const MOST_SECONDS: i64 = 300;
/// What is left for the name of the first attempt, in bytes.
const MAX_NAME: usize = 240;

/// Says of migrations that failed whether they are tried again and when, and does it when it is time.
pub(crate) fn decide(index: &Index<'_>, now: &Time, intents: &mut Vec<Intent>) {
    for migration in index.world.migrations.iter().filter(|migration| is_open(migration)) {
        let Some(state) = migration.status.as_ref().and_then(|status| status.migration_state.as_ref()) else {
            continue;
        };
        let (condition, again) = decided(index, migration, state, now);
        let mut next = VirtualMachineInstanceMigration::clone(migration);
        set_condition(&mut next.status.get_or_insert_default().conditions, condition, now);
        // Before it is said so: who is stopped in between makes it again, by the same name.
        intents.extend(again.map(|again| Intent::RetryMigration(Box::new(again))));
        if next.status != migration.status {
            intents.push(Intent::SetMigrationStatus(Box::new(next)));
        }
    }
}

/// Whether it is still to be said what becomes of a migration: it failed, may be tried again, and was not yet. Those of a drain are the drain's.
fn is_open(migration: &VirtualMachineInstanceMigration) -> bool {
    let Some(status) = &migration.status else { return false };
    let values = status.migration_state.as_ref().and_then(|state| state.migration_configuration.as_ref());
    let said = condition(&status.conditions, RETRY_CONDITION).and_then(|one| one.reason.as_deref());
    phase(migration) == MigrationPhase::Failed
        && values.is_some_and(|values| values.retry_limit > 0)
        && matches!(said, None | Some("BackOff"))
        && !migration.metadata.labels.iter().flatten().any(|(label, _)| label == DRAIN_UID_LABEL)
}

fn decided(
    index: &Index<'_>,
    migration: &VirtualMachineInstanceMigration,
    state: &MigrationState,
    now: &Time,
) -> (Condition, Option<VirtualMachineInstanceMigration>) {
    if let Some(why) = why_not(index, migration, state) {
        return (retry(ConditionStatus::False, "NotRetried", format!("It is not tried again: {why}.")), None);
    }
    let (attempt, left) = (attempt(migration), left(state));
    let ended = state.end_timestamp.as_ref().map_or(now.0, |time| time.0);
    // A clock that was set back makes nobody wait longer than that.
    let passed = now.0.duration_since(ended).as_secs();
    let rest = rest(attempt);
    let next = attempt.saturating_add(1);
    if passed < rest && passed >= 0 {
        let until = ended.checked_add(jiff::SignedDuration::from_secs(rest)).unwrap_or(ended);
        let message = format!(
            "It is tried again at {until:.0}, as attempt {next} of {}.",
            attempt.saturating_add(left)
        );
        return (retry(ConditionStatus::True, "BackOff", message), None);
    }
    let again = again(migration, next, left);
    let message = format!("It is tried again as {}.", name_of(&again.metadata));
    (retry(ConditionStatus::True, "Retried", message), Some(again))
}

/// Why there is no other attempt, if so.
fn why_not(
    index: &Index<'_>,
    migration: &VirtualMachineInstanceMigration,
    state: &MigrationState,
) -> Option<String> {
    let reason = state.failure.as_ref().map(|failure| failure.reason);
    let may_pass = matches!(
        reason,
        Some(FailureReason::TargetFailed | FailureReason::TargetTimeout | FailureReason::EngineFailed)
    );
    let instance = index.instance_of(migration);
    let is_there = |instance: &VirtualMachineInstance| {
        let status = instance.status.clone().unwrap_or_default();
        instance.metadata.deletion_timestamp.is_none()
            && status.phase() == InstancePhase::Running
            && status.vmm == state.source_vmm
    };
    if is_unwanted(migration) || state.abort_requested {
        Some("it was cancelled".to_owned())
    } else if !may_pass {
        Some("what it failed for does not pass by itself".to_owned())
    } else if !instance.is_some_and(is_there) {
        Some("the machine does not run there any more".to_owned())
    } else if let Some(other) = instance.and_then(|instance| index.migration_of(instance)) {
        // The next attempt itself, if it was made and that could not be said any more.
        let is_next = annotation(other, RETRY_OF_ANNOTATION) == Some(name_of(&migration.metadata));
        (!is_next).then(|| format!("{} has come after it", name_of(&other.metadata)))
    } else {
        instance.and_then(blocked)
    }
}

/// Seconds between an attempt and the next.
fn rest(attempt: u32) -> i64 {
    let doublings = attempt.saturating_sub(1).min(10);
    (FIRST_SECONDS << doublings).min(MOST_SECONDS)
}

/// Which attempt a migration is, from 1.
fn attempt(migration: &VirtualMachineInstanceMigration) -> u32 {
    annotation(migration, ATTEMPT_ANNOTATION).and_then(|number| number.parse().ok()).unwrap_or(1).max(1)
}

/// How often it may still be tried again.
fn left(state: &MigrationState) -> u32 {
    state.migration_configuration.as_ref().map_or(0, |values| values.retry_limit)
}

fn annotation<'a>(migration: &'a VirtualMachineInstanceMigration, name: &str) -> Option<&'a str> {
    migration.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The next attempt: the same wish, with a name that says which it is.
fn again(
    migration: &VirtualMachineInstanceMigration,
    attempt: u32,
    left: u32,
) -> VirtualMachineInstanceMigration {
    let name = name_of(&migration.metadata);
    let first = match name.rsplit_once("-try") {
        Some((first, number)) if number.parse::<u32>().is_ok() && attempt > 2 => first,
        _ => name,
    };
    let first: String = first.chars().take(MAX_NAME).collect();
    let metadata = &migration.metadata;
    let annotations = [(RETRY_OF_ANNOTATION, name.to_owned()), (ATTEMPT_ANNOTATION, attempt.to_string())];
    VirtualMachineInstanceMigration {
        metadata: ObjectMeta {
            name: Some(format!("{first}-try{attempt}")),
            namespace: metadata.namespace.clone(),
            labels: metadata.labels.clone(),
            annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value)).into()),
            finalizers: Some(vec![MIGRATION_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: VirtualMachineInstanceMigrationSpec {
            retry_limit: Some(left.saturating_sub(1)),
            ..migration.spec.clone()
        },
        status: None,
    }
}

fn retry(status: ConditionStatus, reason: &str, message: String) -> Condition {
    Condition {
        kind: RETRY_CONDITION.to_owned(),
        status,
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}
