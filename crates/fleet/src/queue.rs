//! How many migrations at a time, and who is next.

use std::collections::BTreeMap;

use objects::{MigrationPriority, MigrationSettings, VirtualMachineInstanceMigration};

use crate::World;

/// Migrations that are under way, by where they count.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    limits: Limits,
    all: u32,
    outbound: BTreeMap<String, u32>,
    inbound: BTreeMap<String, u32>,
}

/// How many migrations there may be at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) cluster: u32,
    pub(crate) outbound: u32,
    pub(crate) inbound: u32,
}

impl Limits {
    pub(crate) fn of(settings: &MigrationSettings) -> Self {
        Self {
            cluster: settings.parallel_migrations_per_cluster.unwrap_or(5),
            outbound: settings.parallel_outbound_migrations_per_node.unwrap_or(2),
            inbound: settings.parallel_inbound_migrations_per_node.unwrap_or(2),
        }
    }
}

impl Queue {
    pub(crate) fn new(world: &World, settings: &MigrationSettings) -> Self {
        let mut queue = Self {
            limits: Limits::of(settings),
            all: 0,
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
        };
        for migration in &world.migrations {
            let Some(status) = migration.status.as_ref().filter(|status| status.phase().is_under_way())
            else {
                continue;
            };
            let state = status.migration_state.as_ref();
            let source = state.and_then(|state| state.source_node.as_deref()).unwrap_or_default();
            let target = state.and_then(|state| state.target_node.as_deref()).unwrap_or_default();
            queue.enter(source, target);
        }
        queue
    }

    /// Counts one more.
    pub(crate) fn enter(&mut self, source: &str, target: &str) {
        self.all += 1;
        *self.outbound.entry(source.to_owned()).or_default() += 1;
        *self.inbound.entry(target.to_owned()).or_default() += 1;
    }

    /// Why no further migration may leave a node now.
    pub(crate) fn full(&self, source: &str) -> Option<String> {
        if self.all >= self.limits.cluster {
            return Some(format!(
                "{} migrations are under way, as many as there may be in the fleet",
                self.all
            ));
        }
        let leaving = self.outbound.get(source).copied().unwrap_or(0);
        (leaving >= self.limits.outbound)
            .then(|| format!("{leaving} migrations leave node {source}, as many as there may be"))
    }

    /// How many come to a node, if that is as many as may.
    pub(crate) fn full_inbound(&self, target: &str) -> Option<u32> {
        self.inbound.get(target).copied().filter(|coming| *coming >= self.limits.inbound)
    }
}

/// For how many seconds what has a priority goes before what came earlier with the next lower one. None waits for ever behind what comes later.
const HEAD_START: i64 = 600;

/// Migrations that wait, the next one first: who came earlier, where each priority counts as if it had come [`HEAD_START`] before the next
/// lower one; of the same, by priority, and then by name.
pub(crate) fn waiting(world: &World) -> Vec<&VirtualMachineInstanceMigration> {
    let is_waiting = |migration: &&VirtualMachineInstanceMigration| {
        migration
            .status
            .as_ref()
            .is_none_or(|status| !status.phase().is_final() && !status.phase().is_under_way())
    };
    let mut waiting: Vec<_> =
        world.migrations.iter().map(|migration| &**migration).filter(is_waiting).collect();
    let place = |migration: &VirtualMachineInstanceMigration| {
        let metadata = &migration.metadata;
        let priority = migration.spec.priority.unwrap_or_default();
        let behind = match priority {
            MigrationPriority::SystemCritical => 0,
            MigrationPriority::UserTriggered => HEAD_START,
            MigrationPriority::SystemMaintenance => 2 * HEAD_START,
        };
        let turn = metadata.creation_timestamp.as_ref().map(|time| time.0.as_second().saturating_add(behind));
        (turn, priority, metadata.namespace.clone(), metadata.name.clone())
    };
    waiting.sort_by_cached_key(|migration| place(migration));
    waiting
}
