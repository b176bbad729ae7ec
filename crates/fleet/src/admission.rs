//! What a server of ours sees to before it stores an object, for objects that another server has stored: a server of Kubernetes knows the
//! schemas of our kinds and no more. What it let through is not acted on, and says why.

use std::collections::{BTreeMap, BTreeSet};

use objects::{
    DRAIN_FINALIZER, InstancePhase, MIGRATION_FINALIZER, MigrationPhase, NodeDrain, VMM_FINALIZER,
    VirtualMachineInstance, VirtualMachineInstanceMigration, VirtualMachineInstanceSpec,
    VirtualMachineInstanceStatus, drain_errors, spec_errors,
};

use crate::{
    Intent, World,
    index::{Index, phase},
    world::{name_of, uid_of},
};

/// Holds what is to be held before anything is done for it: deleted at once, it would leave something behind.
pub(crate) fn decide(world: &World, intents: &mut Vec<Intent>) {
    for instance in &world.instances {
        let phase = instance.status.as_ref().map(VirtualMachineInstanceStatus::phase).unwrap_or_default();
        if phase == InstancePhase::Pending
            && instance.metadata.deletion_timestamp.is_none()
            && !is_held(instance)
        {
            intents.push(Intent::HoldInstance(Box::new(VirtualMachineInstance::clone(instance))));
        }
    }
    for migration in &world.migrations {
        if phase(migration) == MigrationPhase::Pending && !is_settled(migration) {
            intents.push(Intent::HoldMigration(Box::new(VirtualMachineInstanceMigration::clone(migration))));
        }
    }
    for drain in &world.drains {
        let is_over = drain.status.as_ref().is_some_and(|status| status.phase().is_final());
        if !is_over && drain.metadata.deletion_timestamp.is_none() && !is_drain_held(drain) {
            intents.push(Intent::HoldDrain(Box::new(NodeDrain::clone(drain))));
        }
    }
}

/// Whether a drain stays until it is over.
pub(crate) fn is_drain_held(drain: &NodeDrain) -> bool {
    drain.metadata.finalizers.iter().flatten().any(|name| name == DRAIN_FINALIZER)
}

/// What is wrong with a drain that is not begun, all of it. Those in `others` have the nodes that they name.
pub(crate) fn refused_drain(world: &World, drain: &NodeDrain, others: &[&NodeDrain]) -> Option<String> {
    let known: BTreeSet<_> = world.nodes.iter().map(|node| name_of(&node.metadata)).collect();
    let taken: BTreeMap<_, _> = others
        .iter()
        .flat_map(|other| other.spec.nodes.iter().map(|node| (node.as_str(), name_of(&other.metadata))))
        .collect();
    let errors: Vec<_> = drain_errors(drain, &known, &taken).iter().map(ToString::to_string).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// Whether an instance stays until its VMM is gone.
pub(crate) fn is_held(instance: &VirtualMachineInstance) -> bool {
    instance.metadata.finalizers.iter().flatten().any(|name| name == VMM_FINALIZER)
}

/// Whether a migration stays until it is over, or goes already.
pub(crate) fn is_settled(migration: &VirtualMachineInstanceMigration) -> bool {
    migration.metadata.deletion_timestamp.is_some()
        || migration.metadata.finalizers.iter().flatten().any(|name| name == MIGRATION_FINALIZER)
}

/// What is wrong with an instance, all of it.
pub(crate) fn refused(instance: &VirtualMachineInstance) -> Option<String> {
    refused_spec(&instance.spec)
}

/// What is wrong with what instances are made from.
pub(crate) fn refused_spec(spec: &VirtualMachineInstanceSpec) -> Option<String> {
    let errors: Vec<_> = spec_errors(spec).iter().map(ToString::to_string).collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// Another migration of the same instance, under way or waiting before this one.
pub(crate) fn rival<'a>(index: &Index<'a>, migration: &VirtualMachineInstanceMigration) -> Option<&'a str> {
    let order = |one: &VirtualMachineInstanceMigration| {
        (one.metadata.creation_timestamp.clone(), one.metadata.name.clone())
    };
    let is_rival = |other: &&&VirtualMachineInstanceMigration| {
        uid_of(&other.metadata) != uid_of(&migration.metadata)
            && (phase(other).is_under_way() || order(other) < order(migration))
    };
    index.rivals(migration).iter().find(is_rival).map(|other| name_of(&other.metadata))
}
