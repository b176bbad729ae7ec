use k8s_openapi::api::core::v1::Namespace;
use objects::{NAMESPACE_FINALIZER, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration};

use crate::{
    Intent, World,
    world::{name_of, namespace_of},
};

/// Empties namespaces that are being deleted, and lets go of those that are empty. What runs in them ends as if it had been deleted by name.
pub(crate) fn decide(world: &World, intents: &mut Vec<Intent>) {
    for namespace in world.namespaces.iter().filter(|one| one.metadata.deletion_timestamp.is_some()) {
        let name = name_of(&namespace.metadata);
        let machines = world.machines.iter().filter(|one| namespace_of(&one.metadata) == name);
        let instances = world.instances.iter().filter(|one| namespace_of(&one.metadata) == name);
        let migrations = world.migrations.iter().filter(|one| namespace_of(&one.metadata) == name);
        let is_empty = machines.clone().next().is_none()
            && instances.clone().next().is_none()
            && migrations.clone().next().is_none();
        let is_held = namespace.metadata.finalizers.iter().flatten().any(|name| name == NAMESPACE_FINALIZER);
        if is_empty && is_held {
            intents.push(Intent::ReleaseNamespace(Box::new(Namespace::clone(namespace))));
        }
        let machines = machines.filter(|one| one.metadata.deletion_timestamp.is_none());
        intents.extend(machines.map(|one| Intent::DeleteMachine(Box::new(VirtualMachine::clone(one)))));
        let instances = instances.filter(|one| one.metadata.deletion_timestamp.is_none());
        intents.extend(
            instances.map(|one| Intent::DeleteInstance(Box::new(VirtualMachineInstance::clone(one)))),
        );
        let migrations = migrations.filter(|one| one.metadata.deletion_timestamp.is_none());
        intents.extend(
            migrations
                .map(|one| Intent::DeleteMigration(Box::new(VirtualMachineInstanceMigration::clone(one)))),
        );
    }
}
