use std::{cmp::Reverse, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{Condition, ConditionStatus, InstancePhase, VirtualMachineInstance, set_condition};

use crate::{
    Intent, Note, admission, affinity, fit,
    fit::Fit,
    index::{Index, Room, is_huge},
    processor, vmm_name,
    world::{name_of, namespace_of, uid_of},
};

/// Places instances that have no node, and lets go of those that never had one.
pub(crate) fn decide(index: &mut Index<'_>, now: &Time, intents: &mut Vec<Intent>) {
    for instance in &index.world.instances {
        let status = instance.status.as_ref();
        let is_placed = status
            .is_some_and(|status| status.phase() != InstancePhase::Pending || status.node_name.is_some());
        if is_placed {
            continue;
        }
        if !admission::is_held(instance) {
            continue;
        }
        if instance.metadata.deletion_timestamp.is_some() {
            intents.push(Intent::ReleaseInstance(Box::new(VirtualMachineInstance::clone(instance))));
            continue;
        }
        let placed = place(index, instance, now);
        if placed.status != instance.status {
            let node = placed.status.as_ref().and_then(|status| status.node_name.clone());
            intents.push(Intent::SetInstanceStatus(Box::new(placed.clone())));
            if let Some(node) = node {
                intents.push(Intent::Record(note(&placed, &node)));
                // What was placed a moment ago takes memory from the next one.
                index.take(&node, instance);
            }
        }
    }
}

fn place(index: &Index<'_>, instance: &VirtualMachineInstance, now: &Time) -> VirtualMachineInstance {
    let mut placed = instance.clone();
    let status = placed.status.get_or_insert_default();
    status.enter(InstancePhase::Pending, now);
    if let Some(wrong) = admission::refused(instance) {
        set_condition(&mut status.conditions, scheduled(ConditionStatus::False, "Invalid", wrong), now);
        return placed;
    }
    let none = BTreeMap::new();
    let condition = match best(index, instance, &none, |_| true) {
        Some(room) => {
            status.node_name = Some(room.name.to_owned());
            status.vmm = Some(vmm_name(&instance.metadata, None));
            status.enter(InstancePhase::Scheduled, now);
            scheduled(ConditionStatus::True, "Scheduled", format!("It runs on node {}.", room.name))
        }
        None => scheduled(
            ConditionStatus::False,
            "Unschedulable",
            format!("No node fits. {}", fit::explain(&fit::fits_in(index, instance, &none))),
        ),
    };
    set_condition(&mut status.conditions, condition, now);
    placed
}

/// Of the nodes that fit and are allowed the one that [`roomiest`] would choose.
pub(crate) fn best<'i, 'a>(
    index: &'i Index<'a>,
    instance: &VirtualMachineInstance,
    added: &BTreeMap<String, String>,
    is_allowed: impl Fn(&str) -> bool,
) -> Option<&'i Room<'a>> {
    let huge = is_huge(instance);
    let here = fit::room_of(index, instance);
    let fits = |room: &&Room<'_>| fit::is_fit(room, instance, here, added) && is_allowed(room.name);
    let fitting = index.rooms.iter().filter(fits);
    // The first of several that are equal, and rooms are in the order of names.
    let liked = |room: &Room<'_>| Reverse(affinity::preference(instance, fit::labels_of(room)));
    let is_lesser = |room: &Room<'_>| processor::is_lesser(instance, here.map(|here| here.node), room.node);
    fitting.min_by_key(|room| (is_lesser(room), room.is_leaving, liked(room), Reverse(room.free(huge))))
}

/// Of the nodes that fit the one that the machine's affinity likes best; of several the one with most free memory, then the one whose name comes first. A node that a drain will empty comes after
/// all others: what went there would have to move again. So does one whose processor may not do, which only a migration would find out.
pub(crate) fn roomiest(fits: &[Fit]) -> Option<&Fit> {
    let fitting = fits.iter().filter(|fit| fit.misfits.is_empty());
    fitting.min_by_key(|fit| {
        let liked = (Reverse(fit.preference), Reverse(fit.free));
        (fit.is_lesser, fit.is_leaving, liked, fit.node.as_str())
    })
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
