//! A fleet in memory, with what happens to it.

use std::{collections::HashMap, sync::Arc};

use fleet::{Intent, World};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use objects::{
    DrainPhase, LEASE_LABEL, MIGRATION_FINALIZER, NodeDrain, NodeDrainStatus, VirtualMachineInstance,
    VirtualMachineInstanceMigration, VirtualMachineInstanceMigrationStatus,
};
use serde_json::{Value, json};

use crate::{agents::Agents, checks::Checks, dice::Dice};

/// GiB of a node.
pub(crate) const NODE_GIB: u64 = 256;

/// How large a fleet is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) nodes: u64,
    pub(crate) machines: u64,
}

pub(crate) struct Site {
    pub(crate) world: World,
    dice: Dice,
    agents: Agents,
    checks: Checks,
    /// Where instances, migrations and nodes are in the world, by their UIDs.
    places: HashMap<String, usize>,
    made: u64,
}

/// Seconds after the fleet began.
pub(crate) fn at(seconds: i64) -> Time {
    Time(Timestamp::from_second(1_800_000_000 + seconds).unwrap())
}

pub(crate) fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

impl Site {
    /// A fleet of which about a half is taken.
    pub(crate) fn new(seed: u64, scale: Scale) -> Self {
        let mut site = Self {
            world: World::default(),
            dice: Dice::new(seed),
            agents: Agents::default(),
            checks: Checks::default(),
            places: HashMap::new(),
            made: 0,
        };
        (0..scale.nodes).for_each(|index| site.node(index));
        (0..scale.machines).for_each(|index| site.machine(index, scale.nodes));
        let outbound = 1 + site.dice.below(3);
        let cluster = (scale.nodes / 2).max(outbound + 1);
        let migrations = json!({
            "parallelMigrationsPerCluster": cluster, "parallelOutboundMigrationsPerNode": outbound,
            "parallelInboundMigrationsPerNode": 1 + site.dice.below(3),
        });
        site.world.fleets.push(typed(json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "Fleet", "metadata": { "name": "fleet" },
            "spec": { "configuration": { "migrations": migrations } },
        })));
        site
    }

    fn uid(&mut self) -> String {
        self.made += 1;
        format!("{:08x}-0000-4000-8000-000000000000", self.made)
    }

    fn node(&mut self, index: u64) {
        let (name, uid) = (format!("node-{index:04}"), self.uid());
        self.places.insert(uid.clone(), self.world.nodes.len());
        self.world.nodes.push(typed(json!({
            "metadata": { "name": name, "uid": uid, "labels": { "kubernetes.io/hostname": name } },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "allocatable": { "memory": format!("{NODE_GIB}Gi"), "cpu": "64" },
            },
        })));
        self.world.leases.push(typed(json!({
            "metadata": { "name": name, "labels": { LEASE_LABEL: name } }, "spec": { "renewTime": "2100-01-01T00:00:00.000000Z" },
        })));
    }

    fn machine(&mut self, index: u64, nodes: u64) {
        let (name, uid) = (format!("vm-{index:06}"), self.uid());
        let gib = 1 + self.dice.below(2);
        self.places.insert(uid.clone(), self.world.instances.len());
        self.world.instances.push(typed(json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance",
            "metadata": { "name": name, "namespace": "default", "uid": uid },
            "spec": { "domain": {
                "memory": { "guest": format!("{gib}Gi") },
                "firmware": { "kernelBoot": { "container": { "image": "whimbrel.dev/workload" } } },
            }},
            "status": {
                "phase": "Running", "nodeName": format!("node-{:04}", index % nodes), "vmm": format!("{name}-0"),
            },
        })));
    }

    /// The dice say what happens.
    pub(crate) fn trouble(&mut self, now: i64) {
        if self.dice.once_in(20) {
            self.ask_for_a_drain(now);
        }
        if self.dice.once_in(5) {
            self.ask_for_a_migration(now);
        }
        if self.dice.once_in(60) {
            let node = self.dice.index(self.world.nodes.len());
            self.silence(node, now);
        }
        if self.dice.once_in(40) {
            self.revive_all();
        }
        self.change_drains();
        self.maintain(now);
    }

    fn ask_for_a_drain(&mut self, now: i64) {
        let count = 1 + self.dice.below(3);
        let free: Vec<_> = self.world.nodes.iter().map(|node| node.metadata.name.clone().unwrap()).collect();
        let is_taken = |name: &String| {
            self.world.drains.iter().any(|drain| !phase(drain).is_final() && drain.spec.nodes.contains(name))
        };
        let mut free: Vec<_> = free.into_iter().filter(|name| !is_taken(name)).collect();
        let mut nodes = Vec::new();
        while nodes.len() < usize::try_from(count).unwrap() && !free.is_empty() {
            nodes.push(free.remove(self.dice.index(free.len())));
        }
        if nodes.is_empty() {
            return;
        }
        let uid = self.uid();
        let spec =
            json!({ "nodes": nodes, "minAvailable": 1 + self.dice.below(self.world.nodes.len() as u64 - 1) });
        self.world.drains.push(typed(json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "NodeDrain", "spec": spec,
            "metadata": { "name": format!("drain-{}", self.made), "uid": uid, "creationTimestamp": at(now), "finalizers": [objects::DRAIN_FINALIZER] },
        })));
    }

    fn ask_for_a_migration(&mut self, now: i64) {
        let instance = self.dice.index(self.world.instances.len());
        let name = self.world.instances[instance].metadata.name.clone().unwrap();
        let is_active = self.world.migrations.iter().any(|one| one.spec.vmi_name == name && !is_over(one));
        if !is_active {
            let uid = self.uid();
            let migration = json!({
                "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstanceMigration",
                "metadata": {
                    "name": format!("m-{}", self.made), "namespace": "default", "uid": uid, "creationTimestamp": at(now),
                    "finalizers": [MIGRATION_FINALIZER],
                },
                "spec": { "vmiName": name },
            });
            self.add_migration(typed(migration));
        }
    }

    fn add_migration(&mut self, migration: Arc<VirtualMachineInstanceMigration>) {
        self.places.insert(migration.metadata.uid.clone().unwrap(), self.world.migrations.len());
        self.world.migrations.push(migration);
    }

    fn change_drains(&mut self) {
        for index in 0..self.world.drains.len() {
            let roll = self.dice.below(400);
            let drain = Arc::make_mut(&mut self.world.drains[index]);
            match roll {
                0 => drain.spec.cancel = true,
                1..=3 => drain.spec.paused = true,
                4..=30 => drain.spec.paused = false,
                _ => {}
            }
        }
    }

    /// The node's agent is heard of no more; its migrations fail.
    fn silence(&mut self, index: usize, now: i64) {
        let long_ago = at(now - fleet::NODE_LEASE_SECONDS - 1).0;
        let lease = Arc::make_mut(&mut self.world.leases[index]);
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(long_ago));
    }

    fn revive_all(&mut self) {
        for node in self.world.nodes.iter_mut().map(Arc::make_mut) {
            node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".to_owned();
        }
        for lease in self.world.leases.iter_mut().map(Arc::make_mut) {
            lease.spec.get_or_insert_default().renew_time = Some(MicroTime(at(1_000_000_000).0));
        }
    }

    /// From here on everything is well.
    pub(crate) fn make_peace(&mut self, now: i64) {
        self.revive_all();
        self.agents.are_well = true;
        for drain in self.world.drains.iter_mut().map(Arc::make_mut) {
            drain.spec.paused = false;
        }
        self.maintain(now);
    }

    /// People do what there is to do on nodes that are empty, and uncordon them.
    pub(crate) fn maintain(&mut self, now: i64) {
        let done: Vec<_> = self.checks.maintained(&self.world, now);
        for node in
            self.world.nodes.iter_mut().filter(|node| done.contains(node.metadata.name.as_ref().unwrap()))
        {
            Arc::make_mut(node).spec.get_or_insert_default().unschedulable = Some(false);
        }
    }

    /// Agents work, the fleet decides, and everything is looked at.
    pub(crate) fn tick(&mut self, now: i64) {
        for (index, migration) in self.agents.work(&self.world, &mut self.dice, now) {
            self.world.migrations[index] = Arc::new(migration);
        }
        let intents = fleet::decide(&self.world, &at(now));
        self.checks.look_at_intents(&self.world, &intents);
        for intent in intents {
            self.apply(intent, now);
        }
        self.checks.look(&self.world, now);
    }

    fn apply(&mut self, intent: Intent, now: i64) {
        let place = |uid: &Option<String>| self.places[uid.as_ref().unwrap()];
        match intent {
            Intent::SetInstanceStatus(instance) => {
                let index = place(&instance.metadata.uid);
                self.world.instances[index] = Arc::<VirtualMachineInstance>::from(instance);
            }
            Intent::SetMigrationStatus(migration) => {
                let index = place(&migration.metadata.uid);
                self.world.migrations[index] = Arc::from(migration);
            }
            Intent::SetNodeStatus(node) => {
                let index = place(&node.metadata.uid);
                Arc::make_mut(&mut self.world.nodes[index]).status = node.status;
            }
            Intent::Cordon(node, is_cordoned, _) => {
                let index = place(&node.metadata.uid);
                Arc::make_mut(&mut self.world.nodes[index]).spec.get_or_insert_default().unschedulable =
                    Some(is_cordoned);
            }
            Intent::CancelMigration(migration, _) => {
                let index = place(&migration.metadata.uid);
                Arc::make_mut(&mut self.world.migrations[index]).spec.cancel = true;
            }
            Intent::RetryMigration(mut migration) | Intent::CreateMigration(mut migration, _) => {
                let is_there =
                    self.world.migrations.iter().any(|own| own.metadata.name == migration.metadata.name);
                assert!(!is_there, "{:?} is made twice", migration.metadata.name);
                migration.metadata.uid = Some(self.uid());
                migration.metadata.creation_timestamp = Some(at(now));
                self.add_migration(Arc::from(migration));
            }
            Intent::SetDrainStatus(drain, _) => {
                let own = self.world.drains.iter_mut().find(|own| own.metadata.uid == drain.metadata.uid);
                *own.unwrap() = Arc::<NodeDrain>::from(drain);
            }
            Intent::Record(_) => {}
            other => panic!("nothing here asks for {other:?}"),
        }
    }

    /// Whether drains are over, and migrations but those that nobody can take.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.world.drains.iter().all(|drain| phase(drain).is_final())
            && self.world.migrations.iter().all(|one| is_over(one))
    }

    /// What goes on.
    pub(crate) fn story(&self) -> String {
        let drains = self.world.drains.iter().filter(|drain| !phase(drain).is_final());
        let drains: Vec<_> = drains.map(|drain| format!("{:#?}", drain.status)).collect();
        let waiting: Vec<_> = self
            .world
            .migrations
            .iter()
            .filter(|one| !is_over(one))
            .map(|one| format!("{:?}", one.status))
            .collect();
        format!("{}\n{}", drains.join("\n"), waiting.join("\n"))
    }
}

pub(crate) fn phase(drain: &NodeDrain) -> DrainPhase {
    drain.status.as_ref().map(NodeDrainStatus::phase).unwrap_or_default()
}

pub(crate) fn is_over(migration: &VirtualMachineInstanceMigration) -> bool {
    migration
        .status
        .as_ref()
        .is_some_and(|status| VirtualMachineInstanceMigrationStatus::phase(status).is_final())
}
