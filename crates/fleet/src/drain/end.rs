//! How a drain comes to its end without having emptied its nodes, and how long its record is kept.

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};
use objects::{
    Condition, ConditionStatus, DRAIN_FINALIZER, DrainPhase, NodeDrain, NodeDrainPhase, set_condition,
};

use crate::{
    Intent, Note, World,
    drain::scene::drain_uid,
    index::{Index, phase},
    retention,
    world::{name_of, uid_of},
};

/// Why a drain is given up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Cancelled,
    DeadlineExceeded,
}

/// Why a drain is to be given up, if it is. To delete it is to cancel it.
pub(super) fn reason(drain: &NodeDrain, now: &Time) -> Option<Reason> {
    if drain.spec.cancel || drain.metadata.deletion_timestamp.is_some() {
        return Some(Reason::Cancelled);
    }
    let deadline = drain.status.as_ref().and_then(|status| status.deadline_timestamp.as_ref())?;
    (now.0 >= deadline.0).then_some(Reason::DeadlineExceeded)
}

/// Takes back what a drain has done and not finished. It is over when nothing of that is left: migrations under way are not taken back.
pub(super) fn give_up(
    index: &Index<'_>,
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
    let cordoned: Vec<_> = cordoned(index, drain).collect();
    for node in &cordoned {
        intents.push(Intent::Cordon(Box::new((*node).clone()), false, name.clone()));
    }
    if !waiting.is_empty() || !cordoned.is_empty() {
        return;
    }
    let mut next = drain.clone();
    let status = next.status.get_or_insert_default();
    let nodes = status.nodes.iter().filter(|node| node.phase == NodeDrainPhase::Drained).count();
    let (phase, word, why) = match reason {
        Reason::Cancelled => (DrainPhase::Cancelled, "Cancelled", "It was cancelled"),
        Reason::DeadlineExceeded => (DrainPhase::Failed, "DeadlineExceeded", "Its time was up"),
    };
    let message = format!(
        "{why}: {nodes} of {} nodes were emptied, {} machines moved. Migrations under way go on; other machines stay where they are.",
        drain.spec.nodes.len(),
        status.moved
    );
    status.phase = Some(phase);
    status.end_timestamp = Some(now.clone());
    status.eta_seconds = None;
    status.upcoming.clear();
    set_condition(&mut status.conditions, complete(ConditionStatus::False, word, message.clone()), now);
    intents.push(Intent::SetDrainStatus(Box::new(next)));
    intents.push(note(drain, "DrainGivenUp", message, reason != Reason::Cancelled));
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
    unfinished
        .filter_map(|node| index.room(&node.name))
        .map(|room| room.node)
        .filter(|node| is_cordoned(node))
}

pub(super) fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
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

pub(super) fn complete(status: ConditionStatus, reason: &str, message: String) -> Condition {
    Condition {
        kind: "Complete".to_owned(),
        status,
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

pub(super) fn note(drain: &NodeDrain, reason: &'static str, message: String, is_warning: bool) -> Intent {
    Intent::Record(Note {
        kind: "NodeDrain",
        namespace: "default".to_owned(),
        name: name_of(&drain.metadata).to_owned(),
        uid: uid_of(&drain.metadata).to_owned(),
        reason,
        message,
        is_warning,
    })
}
