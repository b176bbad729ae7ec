use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Node},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use objects::{
    Fleet, MigrationPolicy, MigrationSettings, NodeDrain, SETTINGS_NAME, VirtualMachine,
    VirtualMachineInstance, VirtualMachineInstanceMigration,
};

/// All objects, as they are. They are shared with whoever keeps them, so that a copy of the world costs little.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Machines.
    pub machines: Vec<Arc<VirtualMachine>>,
    /// Instances.
    pub instances: Vec<Arc<VirtualMachineInstance>>,
    /// Migrations.
    pub migrations: Vec<Arc<VirtualMachineInstanceMigration>>,
    /// Policies.
    pub policies: Vec<Arc<MigrationPolicy>>,
    /// Settings.
    pub fleets: Vec<Arc<Fleet>>,
    /// Nodes.
    pub nodes: Vec<Arc<Node>>,
    /// What agents renew while they live; named as their node.
    pub leases: Vec<Arc<Lease>>,
    /// When each lease, by its UID, was last seen to be renewed, by the clock of whoever decides: that of an agent may show another time.
    /// What is not in it counts by what the agent says.
    pub heard: BTreeMap<String, Time>,
    /// Drains.
    pub drains: Vec<Arc<NodeDrain>>,
    /// Namespaces.
    pub namespaces: Vec<Arc<Namespace>>,
}

impl World {
    /// What is set for migrations.
    pub fn settings(&self) -> MigrationSettings {
        let ours = self.fleets.iter().find(|fleet| fleet.metadata.name.as_deref() == Some(SETTINGS_NAME));
        ours.map(|fleet| fleet.spec.configuration.migrations.clone()).unwrap_or_default()
    }

    /// The instance of that name.
    pub fn instance(&self, namespace: &str, name: &str) -> Option<&VirtualMachineInstance> {
        self.instances
            .iter()
            .map(|instance| &**instance)
            .find(|instance| is_named(&instance.metadata, namespace, name))
    }

    pub(crate) fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        let found = self.namespaces.iter().find(|namespace| namespace.metadata.name.as_deref() == Some(name));
        found.and_then(|namespace| namespace.metadata.labels.clone()).unwrap_or_default()
    }
}

pub(crate) fn is_named(metadata: &ObjectMeta, namespace: &str, name: &str) -> bool {
    metadata.name.as_deref() == Some(name) && namespace_of(metadata) == namespace
}

pub(crate) fn name_of(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or_default()
}

pub(crate) fn uid_of(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

/// The name of a VMM and of its folder: of the one that an instance begins in, or of the one that a migration brings it to. Short, since
/// paths of sockets are (108 bytes), and always the same, so that an agent finds again what another began.
pub fn vmm_name(instance: &ObjectMeta, migration: Option<&ObjectMeta>) -> String {
    let digits = |metadata: &ObjectMeta, count| {
        uid_of(metadata).chars().filter(char::is_ascii_hexdigit).take(count).collect::<String>()
    };
    let name: String = name_of(instance)
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
        .take(16)
        .collect();
    let own = format!("{name}-{}", digits(instance, 12));
    migration.map_or_else(|| own.clone(), |migration| format!("{own}.{}", digits(migration, 8)))
}

/// Bytes of memory that a machine has.
pub fn memory_of(instance: &VirtualMachineInstance) -> u64 {
    instance.spec.domain.memory.guest.bytes().unwrap_or(0)
}
