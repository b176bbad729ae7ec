use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{Condition, ConditionStatus, InstancePhase, VirtualMachineInstance, set_condition};

use crate::{
    Intent, Note, World, admission, fit,
    fit::Fit,
    vmm_name,
    world::{name_of, namespace_of, uid_of},
};

/// Places instances that have no node, and lets go of those that never had one.
pub(crate) fn decide(world: &World, now: &Time, intents: &mut Vec<Intent>) {
    // What was placed a moment ago takes memory for the next one.
    let mut world = world.clone();
    for index in 0..world.instances.len() {
        let instance = &world.instances[index];
        let status = instance.status.clone().unwrap_or_default();
        if status.phase() != InstancePhase::Pending || status.node_name.is_some() {
            continue;
        }
        if !admission::is_held(instance) {
            continue;
        }
        if instance.metadata.deletion_timestamp.is_some() {
            intents.push(Intent::ReleaseInstance(Box::new(instance.clone())));
            continue;
        }
        let placed = place(&world, instance, now);
        if placed.status != instance.status {
            intents.push(Intent::SetInstanceStatus(Box::new(placed.clone())));
            if let Some(node) = placed.status.as_ref().and_then(|status| status.node_name.as_ref()) {
                intents.push(Intent::Record(note(&placed, node)));
            }
            world.instances[index] = placed;
        }
    }
}

fn place(world: &World, instance: &VirtualMachineInstance, now: &Time) -> VirtualMachineInstance {
    let mut placed = instance.clone();
    let status = placed.status.get_or_insert_default();
    status.enter(InstancePhase::Pending, now);
    if let Some(wrong) = admission::refused(instance) {
        set_condition(&mut status.conditions, scheduled(ConditionStatus::False, "Invalid", wrong), now);
        return placed;
    }
    let fits = fit::fits(world, instance, &BTreeMap::new());
    let condition = match roomiest(&fits) {
        Some(fit) => {
            status.node_name = Some(fit.node.clone());
            status.vmm = Some(vmm_name(&instance.metadata, None));
            status.enter(InstancePhase::Scheduled, now);
            scheduled(ConditionStatus::True, "Scheduled", format!("It runs on node {}.", fit.node))
        }
        None => scheduled(
            ConditionStatus::False,
            "Unschedulable",
            format!("No node fits. {}", fit::explain(&fits)),
        ),
    };
    set_condition(&mut status.conditions, condition, now);
    placed
}

/// Of the nodes that fit the one with most free memory; of several the one whose name comes first.
pub(crate) fn roomiest(fits: &[Fit]) -> Option<&Fit> {
    let fitting = fits.iter().filter(|fit| fit.misfits.is_empty());
    fitting.min_by(|one, other| other.free.cmp(&one.free).then_with(|| one.node.cmp(&other.node)))
}

fn scheduled(status: ConditionStatus, reason: &str, message: String) -> Condition {
    Condition {
        kind: "Scheduled".to_owned(),
        status,
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

fn note(instance: &VirtualMachineInstance, node: &str) -> Note {
    Note {
        kind: "VirtualMachineInstance",
        namespace: namespace_of(&instance.metadata).to_owned(),
        name: name_of(&instance.metadata).to_owned(),
        uid: uid_of(&instance.metadata).to_owned(),
        reason: "Scheduled",
        message: format!("Placed on node {node}"),
        is_warning: false,
    }
}
