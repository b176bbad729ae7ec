//! What a server of ours sees to before it stores an object, for objects that another server has stored: a server of Kubernetes knows the
//! schemas of our kinds and no more. What it let through is not acted on, and says why.

use objects::{
    InstancePhase, MIGRATION_FINALIZER, MigrationPhase, VMM_FINALIZER, VirtualMachineInstance,
    VirtualMachineInstanceMigration, VirtualMachineInstanceStatus, spec_errors,
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
    let errors: Vec<_> = spec_errors(&instance.spec).iter().map(ToString::to_string).collect();
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
