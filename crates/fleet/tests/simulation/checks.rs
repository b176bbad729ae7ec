//! What must hold at any time.

use std::collections::HashMap;

use fleet::{Intent, World};
use objects::{DRAIN_LABEL, MigrationPhase, NodeDrainPhase, condition};

use crate::site::{NODE_GIB, at, phase};

/// Seconds that a migration may wait whose machine some node takes, in a fleet of which something is always on its way.
const WAIT: i64 = 3000;
/// Seconds that people work on a node that is empty.
const MAINTENANCE: i64 = 30;

#[derive(Default)]
pub(crate) struct Checks {
    /// When a node was first seen empty and cordoned by a drain.
    empty_since: HashMap<String, i64>,
}

impl Checks {
    /// Nodes on which the work is done.
    pub(crate) fn maintained(&mut self, world: &World, now: i64) -> Vec<String> {
        let nodes =
            world.drains.iter().filter_map(|drain| drain.status.as_ref()).flat_map(|status| &status.nodes);
        for node in nodes.filter(|node| node.phase == NodeDrainPhase::Drained) {
            self.empty_since.entry(node.name.clone()).or_insert(now);
        }
        let is_draining = |name: &str| {
            let active = world
                .drains
                .iter()
                .filter(|drain| !phase(drain).is_final())
                .filter_map(|drain| drain.status.as_ref());
            active
                .flat_map(|status| &status.nodes)
                .any(|node| node.name == name && node.phase == NodeDrainPhase::Draining)
        };
        self.empty_since.retain(|name, _| !is_draining(name));
        let done = self.empty_since.iter().filter(|(_, since)| now - **since >= MAINTENANCE);
        let mut done: Vec<_> = done.map(|(name, _)| name.clone()).collect();
        done.sort();
        done
    }

    /// Nobody begins a node that has to stay.
    pub(crate) fn look_at_intents(&self, world: &World, intents: &[Intent]) {
        let cordons = intents.iter().filter_map(|intent| match intent {
            Intent::Cordon(node, true, drain) => Some((node, drain)),
            _ => None,
        });
        let is_there = |node: &k8s_openapi::api::core::v1::Node| {
            let is_ready = fleet::fit::is_ready(node);
            is_ready && node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true)
        };
        let mut available = world.nodes.iter().filter(|node| is_there(node)).count();
        for (node, drain) in cordons.filter(|(node, _)| is_there(node)) {
            available -= 1;
            let drain = world.drains.iter().find(|own| own.metadata.name.as_ref() == Some(drain)).unwrap();
            let goes_on = |other: &&std::sync::Arc<objects::NodeDrain>| {
                let is_begun = other.status.as_ref().is_some_and(|status| status.start_timestamp.is_some());
                is_begun
                    && !phase(other).is_final()
                    && !other.spec.cancel
                    && other.metadata.deletion_timestamp.is_none()
            };
            let others = world.drains.iter().filter(goes_on).filter_map(|other| other.spec.min_available);
            let min = others.fold(drain.spec.min_available.unwrap(), u32::max);
            // A node that died since it was begun has to be cordoned all the same.
            let was_begun = drain.status.as_ref().is_some_and(|status| {
                status.nodes.iter().any(|own| {
                    Some(&own.name) == node.metadata.name.as_ref() && own.phase == NodeDrainPhase::Draining
                })
            });
            assert!(was_begun || available >= min as usize, "{available} nodes are left, {min} have to be");
        }
    }

    /// Limits hold, no node has more than it can, and who can move does.
    pub(crate) fn look(&self, world: &World, now: i64) {
        let limits = world.settings();
        let (mut all, mut outbound, mut inbound) = (0, HashMap::<_, u32>::new(), HashMap::<_, u32>::new());
        let mut gib = HashMap::<&str, u64>::new();
        let names: HashMap<_, _> =
            world.instances.iter().map(|one| (one.metadata.name.as_deref(), one)).collect();
        let size = |instance: &objects::VirtualMachineInstance| fleet::fit::memory_of(instance) >> 30;
        for instance in &world.instances {
            *gib.entry(instance.status.as_ref().unwrap().node_name.as_deref().unwrap()).or_default() +=
                size(instance);
        }
        for migration in &world.migrations {
            let Some(status) = migration.status.as_ref().filter(|status| !status.phase().is_final()) else {
                continue;
            };
            if status.phase() == MigrationPhase::Pending {
                let age = at(now)
                    .0
                    .duration_since(migration.metadata.creation_timestamp.as_ref().unwrap().0)
                    .as_secs();
                let reason = condition(&status.conditions, "Scheduled")
                    .and_then(|one| one.reason.clone())
                    .unwrap_or_default();
                assert!(age < WAIT || reason != "Queued", "{:?} waits for {age} s", migration.metadata.name);
                continue;
            }
            let state = status.migration_state.as_ref().unwrap();
            let (source, target) =
                (state.source_node.as_deref().unwrap(), state.target_node.as_deref().unwrap());
            all += 1;
            *outbound.entry(source).or_default() += 1;
            *inbound.entry(target).or_default() += 1;
            let instance = names[&Some(migration.spec.vmi_name.as_str())];
            if instance.status.as_ref().unwrap().node_name.as_deref() != Some(target) {
                *gib.entry(target).or_default() += size(instance);
            }
        }
        assert!(all <= limits.parallel_migrations_per_cluster.unwrap(), "{all} migrations");
        let (out, into) =
            (limits.parallel_outbound_migrations_per_node, limits.parallel_inbound_migrations_per_node);
        assert!(outbound.values().all(|count| Some(*count) <= out), "{outbound:?}");
        assert!(inbound.values().all(|count| Some(*count) <= into), "{inbound:?}");
        assert!(gib.values().all(|gib| *gib <= NODE_GIB), "{gib:?}");
        self.look_at_drains(world);
    }

    /// A drain asks for no more than may go on at a time.
    fn look_at_drains(&self, world: &World) {
        let cluster = world.settings().parallel_migrations_per_cluster.unwrap() as usize;
        for drain in world.drains.iter().filter(|drain| !phase(drain).is_final()) {
            let is_of_it = |one: &&std::sync::Arc<objects::VirtualMachineInstanceMigration>| {
                let label = one.metadata.labels.as_ref().and_then(|labels| labels.get(DRAIN_LABEL));
                label == drain.metadata.name.as_ref() && !crate::site::is_over(one)
            };
            let asked = world.migrations.iter().filter(is_of_it).count();
            // Beside those that may go there are some whose target has filled up since they were asked for.
            assert!(asked <= 2 * cluster, "{asked} migrations were asked for");
        }
    }
}
