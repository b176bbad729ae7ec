//! Why a machine cannot move as things are.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{
    BlockedMachine, BlockedReason, EvictionStrategy, InstancePhase, VirtualMachineInstance,
    VirtualMachineInstanceMigration, condition,
};

use super::next_runs::next_run;
use crate::{
    fit,
    index::{Index, end_of},
    machine, migration,
    placement::best,
    world::{name_of, namespace_of},
};

/// Seconds until a machine is tried again whose migration failed; twice as many after each further failure, and 320 at most.
const RETRY_SECONDS: i64 = 10;

/// Whether the run of a machine is ended where its node is emptied, by its strategy: it is to be, or is being.
pub(super) fn ends(instance: &VirtualMachineInstance) -> bool {
    match instance.spec.eviction_strategy.unwrap_or_default() {
        EvictionStrategy::None => true,
        EvictionStrategy::LiveMigrateIfPossible => migration::blocked(instance).is_some(),
        EvictionStrategy::LiveMigrate | EvictionStrategy::External => false,
    }
}

/// Whether it is to be ended now.
pub(super) fn is_ended_instead(index: &Index<'_>, instance: &VirtualMachineInstance, node: &str) -> bool {
    // Nobody is there to end it where the agent is not heard of.
    ends(instance)
        && instance.metadata.deletion_timestamp.is_none()
        && index.room(node).is_some_and(|room| room.is_ready)
}

/// Why a machine cannot move whatever room there is.
pub(super) fn inherent(
    index: &Index<'_>,
    instance: &VirtualMachineInstance,
    node: &str,
) -> Option<BlockedMachine> {
    let name = name_of(&instance.metadata);
    let blocked = |reason, message| Some(blocked(instance, node, reason, message));
    let phase =
        instance.status.as_ref().map(objects::VirtualMachineInstanceStatus::phase).unwrap_or_default();
    if instance.metadata.deletion_timestamp.is_some() {
        return blocked(BlockedReason::NotRunning, "It is being deleted, and goes by itself.".to_owned());
    }
    if !index.room(node).is_some_and(|room| room.is_ready) {
        let message =
            format!("The agent of node {node} is not heard of. It stays there until the node is back.");
        return blocked(BlockedReason::NodeNotReady, message);
    }
    if instance.spec.eviction_strategy == Some(EvictionStrategy::External) {
        let message =
            "Its evictionStrategy is External: somebody else moves or ends it, and the drain waits.";
        return blocked(BlockedReason::External, message.to_owned());
    }
    if let Some(why) = migration::blocked(instance) {
        let message = format!("{why} It stays there until it is stopped: whimbrel stop {name}.");
        return blocked(BlockedReason::NotMigratable, message);
    }
    if phase != InstancePhase::Running {
        return blocked(BlockedReason::NotRunning, "It does not run yet; then it moves.".to_owned());
    }
    None
}

/// Where the run of a machine may be ended: the node that takes the next one, or none where none follows. `None`: not now, since the next one
/// would find no place.
pub(super) fn place_after<'a>(
    index: &Index<'a>,
    instance: &VirtualMachineInstance,
) -> Option<Option<&'a str>> {
    // Its node may not be cordoned yet.
    let here = instance.status.as_ref().and_then(|status| status.node_name.as_deref());
    let is_elsewhere = |node: &str| Some(node) != here;
    let target = best(index, &next_run(instance), &BTreeMap::new(), is_elsewhere).map(|room| room.name);
    (target.is_some() || !machine::comes_again(index, instance)).then_some(target)
}

/// Why no node takes a machine, if none does.
pub(super) fn of_room(
    index: &Index<'_>,
    instance: &VirtualMachineInstance,
    node: &str,
) -> Option<BlockedMachine> {
    let none = BTreeMap::new();
    if best(index, instance, &none, |_| true).is_some() {
        return None;
    }
    let why = fit::explain(&fit::fits_in(index, instance, &none));
    let message = format!("No node fits. {why} It stays there until one does, or until it is stopped.");
    Some(blocked(instance, node, BlockedReason::NoNodeFits, message))
}

/// Why a machine is not tried again yet, whose migrations failed.
pub(super) fn of_failures(
    instance: &VirtualMachineInstance,
    node: &str,
    failed: &[&VirtualMachineInstanceMigration],
    now: &Time,
) -> Option<BlockedMachine> {
    let last = failed.last()?;
    let doublings = u32::try_from(failed.len() - 1).unwrap_or(u32::MAX).min(5);
    let again = end_of(last) + (RETRY_SECONDS << doublings);
    if now.0.as_second() >= again {
        return None;
    }
    let state = last.status.as_ref().and_then(|status| status.migration_state.as_ref());
    let why = state.and_then(|state| state.failure_reason.clone()).unwrap_or_default();
    let name = name_of(&last.metadata);
    let message = format!("Migration {name} failed: {why} It is tried again.");
    Some(blocked(instance, node, BlockedReason::Failed, message))
}

/// What a migration that waits says, if it waits for a node that fits.
pub(super) fn of_waiting(
    instance: &VirtualMachineInstance,
    node: &str,
    migration: &VirtualMachineInstanceMigration,
) -> Option<BlockedMachine> {
    let status = migration.status.as_ref().filter(|status| !status.phase().is_under_way())?;
    let scheduled = condition(&status.conditions, "Scheduled")?;
    if scheduled.reason.as_deref() != Some("NoNodeFits") {
        return None;
    }
    let why = scheduled.message.clone().unwrap_or_default();
    let message = format!("{why} It stays there until one does, or until it is stopped.");
    Some(blocked(instance, node, BlockedReason::NoNodeFits, message))
}

fn blocked(
    instance: &VirtualMachineInstance,
    node: &str,
    reason: BlockedReason,
    message: String,
) -> BlockedMachine {
    BlockedMachine {
        namespace: namespace_of(&instance.metadata).to_owned(),
        name: name_of(&instance.metadata).to_owned(),
        node: node.to_owned(),
        reason,
        message,
    }
}
