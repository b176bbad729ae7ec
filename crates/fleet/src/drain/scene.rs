use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{
    DRAIN_UID_LABEL, MIN_AVAILABLE, MigrationPhase, NodeDrain, VirtualMachineInstance,
    VirtualMachineInstanceMigration,
};

use crate::{
    drain::{floor::Floor, forecast::Forecasts, reason::reason},
    index::{Index, Key, coming_to, end_of, instance_key, leaving, phase},
    queue::Limits,
    world::uid_of,
};

/// What all drains look at.
pub(super) struct Scene<'a> {
    pub(super) limits: Limits,
    /// Nodes that are ready and schedulable.
    pub(super) available: usize,
    /// Nodes that there are, in use or not.
    pub(super) nodes: usize,
    /// Drains that go on, whose word on how many nodes stay in use holds for all.
    going_on: Vec<&'a NodeDrain>,
    /// The instances on nodes that drains name.
    pub(super) on: BTreeMap<&'a str, Vec<&'a VirtualMachineInstance>>,
    /// Nodes that a migration comes from or goes to. The machine may be seen on its target before its migration is seen to be over.
    pub(super) busy: HashSet<&'a str>,
    pub(super) forecasts: Forecasts<'a>,
    /// Migrations that were made for a drain, by its UID.
    made: HashMap<&'a str, Vec<&'a VirtualMachineInstanceMigration>>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(index: &Index<'a>, drains: &[&'a NodeDrain], now: &Time) -> Self {
        let world = index.world;
        let names: BTreeSet<_> = drains.iter().flat_map(|drain| names(drain)).collect();
        let going_on = drains.iter().filter(|drain| reason(drain, now).is_none());
        let mut made = HashMap::<_, Vec<_>>::new();
        for migration in &world.migrations {
            if let Some(uid) = drain_uid(migration) {
                made.entry(uid).or_default().push(&**migration);
            }
        }
        Self {
            limits: Limits::of(&world.settings()),
            available: index.rooms.iter().filter(|room| room.is_ready && !room.is_cordoned).count(),
            nodes: index.rooms.len(),
            going_on: going_on.copied().collect(),
            on: index.on_nodes(&names),
            busy: world
                .migrations
                .iter()
                .flat_map(|migration| [leaving(migration), coming_to(migration)])
                .flatten()
                .collect(),
            forecasts: Forecasts::new(world),
            made,
        }
    }

    /// How many nodes must stay in use while a drain goes on.
    pub(super) fn floor(&self, drain: &NodeDrain) -> Floor<'a> {
        let others =
            self.going_on.iter().copied().filter(|other| uid_of(&other.metadata) != uid_of(&drain.metadata));
        Floor::of(drain.spec.min_available.unwrap_or(MIN_AVAILABLE), others, self.nodes)
    }

    /// Migrations that were made for a drain.
    pub(super) fn made_for(&self, drain: &NodeDrain) -> &[&'a VirtualMachineInstanceMigration] {
        self.made.get(uid_of(&drain.metadata)).map_or(&[], Vec::as_slice)
    }

    /// How many machines a drain has moved, by the node that they left.
    pub(super) fn moved(&self, drain: &NodeDrain) -> HashMap<&'a str, u32> {
        let mut moved = HashMap::new();
        for migration in self.made_for(drain).iter().filter(|one| phase(one) == MigrationPhase::Succeeded) {
            let state = migration.status.as_ref().and_then(|status| status.migration_state.as_ref());
            if let Some(source) = state.and_then(|state| state.source_node.as_deref()) {
                *moved.entry(source).or_default() += 1;
            }
        }
        moved
    }

    /// Migrations of a drain that failed, by their instances, the latest last.
    pub(super) fn failed(
        &self,
        drain: &NodeDrain,
    ) -> HashMap<Key<'a>, Vec<&'a VirtualMachineInstanceMigration>> {
        let mut failed = HashMap::<_, Vec<_>>::new();
        for migration in self.made_for(drain).iter().filter(|one| phase(one) == MigrationPhase::Failed) {
            failed.entry(instance_key(migration)).or_default().push(*migration);
        }
        for list in failed.values_mut() {
            list.sort_by_key(|migration| end_of(migration));
        }
        failed
    }
}

/// The nodes that a drain names, and those that it named when it was begun.
fn names(drain: &NodeDrain) -> impl Iterator<Item = &str> {
    let begun = drain.status.iter().flat_map(|status| &status.nodes).map(|node| &node.name);
    drain.spec.nodes.iter().chain(begun).map(String::as_str)
}

/// The UID of the drain that a migration was made for.
pub(super) fn drain_uid(migration: &VirtualMachineInstanceMigration) -> Option<&str> {
    migration.metadata.labels.as_ref()?.get(DRAIN_UID_LABEL).map(String::as_str)
}
