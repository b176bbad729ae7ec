use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use objects::{
    Condition, ConditionStatus, GROUP, InstancePhase, RunStrategy, VERSION, VMM_FINALIZER, VirtualMachine,
    VirtualMachineInstance, VirtualMachineStatus, condition, set_condition,
};

use crate::{
    Intent, admission,
    index::{Index, phase},
    world::{name_of, namespace_of, uid_of},
};

/// How long after a run ended badly another is begun, in seconds: what fails at once shall not fail all the time.
const RERUN_AFTER_SECONDS: i64 = 10;

/// Makes and deletes instances of machines, and says how machines are.
pub(crate) fn decide(index: &Index<'_>, now: &Time, intents: &mut Vec<Intent>) {
    let world = index.world;
    for machine in world.machines.iter().filter(|machine| machine.metadata.deletion_timestamp.is_none()) {
        let instance = index.instance(namespace_of(&machine.metadata), name_of(&machine.metadata));
        // An instance of that name that somebody else made is left alone, and in the way.
        let own = instance.filter(|instance| is_of(instance, machine));
        let may_run = !index.is_namespace_ending(namespace_of(&machine.metadata));
        let starts = instance.is_none() && may_run && wants_run(machine.spec.run_strategy);
        // What an earlier release let in may be refused now.
        let wrong = starts.then(|| admission::refused_spec(&machine.spec.template.spec)).flatten();
        if starts && wrong.is_none() {
            intents.push(Intent::CreateInstance(Box::new(new_instance(machine))));
        }
        if let Some(own) = own
            && own.metadata.deletion_timestamp.is_none()
            && is_over(machine, own, now)
        {
            intents.push(Intent::DeleteInstance(Box::new(own.clone())));
        }
        let status = wrong.map_or_else(|| status(index, machine, own), |wrong| invalid(machine, wrong, now));
        if machine.status.as_ref() != Some(&status) {
            intents.push(Intent::SetMachineStatus(Box::new(VirtualMachine {
                status: Some(status),
                ..VirtualMachine::clone(machine)
            })));
        }
    }
    // What belonged to a machine that is gone goes too.
    let machines: HashSet<_> = world.machines.iter().map(|machine| uid_of(&machine.metadata)).collect();
    for instance in world.instances.iter().filter(|instance| instance.metadata.deletion_timestamp.is_none()) {
        if owner(instance).is_some_and(|owner| !machines.contains(owner.uid.as_str())) {
            intents.push(Intent::DeleteInstance(Box::new(VirtualMachineInstance::clone(instance))));
        }
    }
}

fn wants_run(strategy: RunStrategy) -> bool {
    strategy != RunStrategy::Halted
}

/// Whether another run follows when that of an instance is ended.
pub(crate) fn comes_again(index: &Index<'_>, instance: &VirtualMachineInstance) -> bool {
    let mut machines = index.world.machines.iter().filter(|machine| is_of(instance, machine));
    machines
        .any(|machine| machine.metadata.deletion_timestamp.is_none() && wants_run(machine.spec.run_strategy))
}

/// Whether an instance has to make room, for none or for another.
fn is_over(machine: &VirtualMachine, instance: &VirtualMachineInstance, now: &Time) -> bool {
    let status = instance.status.clone().unwrap_or_default();
    let ended = status.phase_transition_timestamps.last().map(|last| &last.phase_transition_timestamp);
    let has_rested = ended.is_none_or(|ended| now.0.duration_since(ended.0).as_secs() >= RERUN_AFTER_SECONDS);
    match (machine.spec.run_strategy, status.phase()) {
        (RunStrategy::Halted, _) => true,
        (RunStrategy::Always, phase) => phase.is_final() && has_rested,
        (RunStrategy::RerunOnFailure, phase) => phase == InstancePhase::Failed && has_rested,
        (RunStrategy::Once, _) => false,
    }
}

fn owner(instance: &VirtualMachineInstance) -> Option<&OwnerReference> {
    let owners = instance.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.kind == "VirtualMachine" && owner.controller == Some(true))
}

fn is_of(instance: &VirtualMachineInstance, machine: &VirtualMachine) -> bool {
    owner(instance).is_some_and(|owner| owner.uid == uid_of(&machine.metadata))
}

fn new_instance(machine: &VirtualMachine) -> VirtualMachineInstance {
    let template = machine.spec.template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let owner = OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "VirtualMachine".to_owned(),
        name: name_of(&machine.metadata).to_owned(),
        uid: uid_of(&machine.metadata).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    VirtualMachineInstance {
        metadata: ObjectMeta {
            name: machine.metadata.name.clone(),
            namespace: machine.metadata.namespace.clone(),
            labels: Some(metadata.labels).filter(|labels| !labels.is_empty()),
            annotations: Some(metadata.annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![owner]),
            finalizers: Some(vec![VMM_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// A machine that cannot start as it is described.
fn invalid(machine: &VirtualMachine, wrong: String, now: &Time) -> VirtualMachineStatus {
    let mut conditions = machine.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.kind == "Ready");
    let ready = Condition {
        kind: "Ready".to_owned(),
        status: ConditionStatus::False,
        reason: Some("Invalid".to_owned()),
        message: Some(wrong),
        last_transition_time: None,
    };
    set_condition(&mut conditions, ready, now);
    VirtualMachineStatus {
        printable_status: Some("Failed".to_owned()),
        conditions,
        ..VirtualMachineStatus::default()
    }
}

fn status(
    index: &Index<'_>,
    machine: &VirtualMachine,
    instance: Option<&VirtualMachineInstance>,
) -> VirtualMachineStatus {
    let Some(instance) = instance else {
        let is_starting = wants_run(machine.spec.run_strategy);
        let text = if is_starting { "Starting" } else { "Stopped" };
        return VirtualMachineStatus {
            printable_status: Some(text.to_owned()),
            ..VirtualMachineStatus::default()
        };
    };
    let status = instance.status.clone().unwrap_or_default();
    let is_moving = index.migration_of(instance).is_some_and(|migration| phase(migration).is_under_way());
    let is_unschedulable = condition(&status.conditions, "Scheduled")
        .is_some_and(|condition| condition.reason.as_deref() == Some("Unschedulable"));
    let text = match status.phase() {
        _ if instance.metadata.deletion_timestamp.is_some() => "Stopping",
        InstancePhase::Pending if is_unschedulable => "Unschedulable",
        InstancePhase::Pending | InstancePhase::Scheduled => "Starting",
        InstancePhase::Running if is_moving => "Migrating",
        InstancePhase::Running if instance.spec.paused => "Paused",
        InstancePhase::Running => "Running",
        InstancePhase::Succeeded => "Stopped",
        InstancePhase::Failed => "Failed",
    };
    VirtualMachineStatus {
        created: true,
        ready: status.phase() == InstancePhase::Running,
        printable_status: Some(text.to_owned()),
        conditions: status.conditions.into_iter().filter(|condition| condition.kind == "Ready").collect(),
    }
}
