//! How a drain comes to its end without having emptied its nodes, and how long its record is kept.

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};
use objects::{
    ConditionStatus, DRAIN_FINALIZER, DrainPhase, NodeDrain, NodeDrainPhase, NodeDrainProgress,
    NodeDrainStatus, set_condition,
};

use crate::{
    Intent, World,
    drain::{
        reason::Reason,
        scene::{Scene, drain_uid},
        words::{blocked_condition, complete, count, note},
    },
    index::{Index, phase},
    retention,
    world::{name_of, uid_of},
};

/// Takes back what a drain has done and not finished. It is over when nothing of that is left and the migrations under way, which are not
/// taken back, have come to their end.
pub(super) fn give_up(
    index: &Index<'_>,
    scene: &Scene<'_>,
    drain: &NodeDrain,
    reason: Reason,
    now: &Time,
    intents: &mut Vec<Intent>,
) {
    let name = name_of(&drain.metadata).to_owned();
    let waiting: Vec<_> = waiting(index.world, drain).collect();
    for migration in waiting.iter().filter(|migration| !migration.spec.cancel) {
        intents.push(Intent::CancelMigration(Box::new((*migration).clone()), name.clone()));
    }
    // Before the status that forgets of it.
    for node in cordoned(index, drain) {
        intents.push(Intent::Cordon(Box::new(node.clone()), false, name.clone()));
    }
    let mut status = drain.status.clone().unwrap_or_default();
    recount(scene, drain, &mut status, now);
    let emptied = status.nodes.iter().filter(|node| node.phase == NodeDrainPhase::Drained).count();
    let (phase, word, why) = match reason {
        Reason::Cancelled => (DrainPhase::Cancelled, "Cancelled", "It was cancelled"),
        Reason::DeadlineExceeded => (DrainPhase::Failed, "DeadlineExceeded", "Its time was up"),
    };
    let so_far = format!(
        "{why}: {emptied} of {} nodes were emptied, {} machines moved",
        drain.spec.nodes.len(),
        status.moved
    );
    let message = if status.moving > 0 {
        format!("{so_far}. {} migrations come to their end.", status.moving)
    } else {
        status.phase = Some(phase);
        status.end_timestamp = Some(now.clone());
        format!("{so_far}. Other machines stay where they are.")
    };
    set_condition(&mut status.conditions, complete(ConditionStatus::False, word, message.clone()), now);
    if drain.status.as_ref() != Some(&status) {
        let is_over = status.phase().is_final();
        let next = NodeDrain { status: Some(status), ..drain.clone() };
        intents.push(Intent::SetDrainStatus(Box::new(next), Vec::new()));
        if is_over {
            intents.push(note(drain, "DrainGivenUp", message, reason != Reason::Cancelled));
        }
    }
}

/// Counts what a drain that is given up has come to.
fn recount(scene: &Scene<'_>, drain: &NodeDrain, status: &mut NodeDrainStatus, now: &Time) {
    let moved = scene.moved(drain);
    for node in &mut status.nodes {
        node.moved = node.moved.max(moved.get(node.name.as_str()).copied().unwrap_or(0));
        if node.phase != NodeDrainPhase::Drained {
            node.left = count(scene.on.get(node.name.as_str()).map_or(0, Vec::len));
            node.phase = NodeDrainPhase::Waiting;
            node.cordoned = false;
            node.message = Some("The drain was given up.".to_owned());
        }
    }
    let sum = |of: fn(&NodeDrainProgress) -> u32| status.nodes.iter().map(of).fold(0, u32::saturating_add);
    (status.moved, status.left) = (sum(|node| node.moved), sum(|node| node.left));
    status.machines = status.machines.max(status.moved.saturating_add(status.left));
    status.moving = count(scene.made_for(drain).iter().filter(|one| !phase(one).is_final()).count());
    (status.blocked, status.concurrency, status.eta_seconds) = (0, 0, None);
    status.blocked_machines.clear();
    status.upcoming.clear();
    set_condition(&mut status.conditions, blocked_condition(0), now);
}

/// Ends a drain that cannot be begun.
pub(super) fn refuse(drain: &NodeDrain, why: &str, now: &Time, intents: &mut Vec<Intent>) {
    let mut status = drain.status.clone().unwrap_or_default();
    status.phase = Some(DrainPhase::Failed);
    status.end_timestamp = Some(now.clone());
    let message = format!("It was not begun: {why}.");
    set_condition(&mut status.conditions, complete(ConditionStatus::False, "Invalid", message.clone()), now);
    let next = NodeDrain { status: Some(status), ..drain.clone() };
    intents.push(Intent::SetDrainStatus(Box::new(next), Vec::new()));
    intents.push(note(drain, "InvalidDrain", message, true));
}

/// Migrations of a drain that nothing has begun for.
fn waiting<'a>(
    world: &'a World,
    drain: &'a NodeDrain,
) -> impl Iterator<Item = &'a objects::VirtualMachineInstanceMigration> {
    world.migrations.iter().map(|migration| &**migration).filter(|migration| {
        let phase = phase(migration);
        !phase.is_final() && !phase.is_under_way() && drain_uid(migration) == Some(uid_of(&drain.metadata))
    })
}

/// Nodes that a drain cordoned and did not empty.
fn cordoned<'i>(index: &'i Index<'_>, drain: &'i NodeDrain) -> impl Iterator<Item = &'i Node> {
    let nodes = drain.status.iter().flat_map(|status| &status.nodes);
    let unfinished = nodes.filter(|node| node.cordoned && node.phase == NodeDrainPhase::Draining);
    // Whether it is seen cordoned or not: that it was cordoned may not have been heard of yet.
    unfinished.filter_map(|node| index.room(&node.name)).map(|room| room.node)
}

/// Lets go of a drain that is over, and deletes it when its record has been kept long enough.
pub(super) fn let_go(world: &World, drain: &NodeDrain, now: &Time, intents: &mut Vec<Intent>) {
    let is_held = drain.metadata.finalizers.iter().flatten().any(|name| name == DRAIN_FINALIZER);
    if drain.metadata.deletion_timestamp.is_some() {
        if is_held {
            intents.push(Intent::ReleaseDrain(Box::new(drain.clone())));
        }
        return;
    }
    let ended = drain.status.as_ref().and_then(|status| status.end_timestamp.as_ref());
    let hours = ended.map_or(0, |ended| now.0.duration_since(ended.0).as_hours());
    if hours > i64::from(retention::hours(&world.settings())) {
        intents.push(Intent::DeleteDrain(Box::new(drain.clone())));
    }
}
