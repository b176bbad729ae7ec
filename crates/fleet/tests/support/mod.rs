//! A fleet in memory.

mod drains;

use std::sync::Arc;

use fleet::{Intent, World};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{
    InstancePhase, MigrationPhase, MigrationState, VirtualMachineInstance, VirtualMachineInstanceMigration,
    VirtualMachineInstanceMigrationStatus,
};
use serde_json::{Value, json};

/// Seconds after the fleet began.
pub(crate) fn at(seconds: i64) -> Time {
    Time(Timestamp::from_second(1_800_000_000 + seconds).unwrap())
}

#[derive(Default)]
pub(crate) struct Site {
    pub(crate) world: World,
    made: u32,
}

impl Site {
    fn uid(&mut self) -> String {
        self.made += 1;
        format!("{:08x}-0000-4000-8000-000000000000", self.made)
    }

    pub(crate) fn node(&mut self, name: &str, gib: u64) -> &mut Self {
        let node = json!({
            "metadata": { "name": name, "uid": self.uid(), "labels": { "kubernetes.io/hostname": name } },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "allocatable": { "memory": format!("{gib}Gi"), "cpu": "8" },
            },
        });
        let lease = json!({
            "metadata": { "name": name, "labels": { "whimbrel.dev/node": name } },
            "spec": { "renewTime": "2100-01-01T00:00:00.000000Z" },
        });
        self.world.nodes.push(Arc::new(serde_json::from_value(node).unwrap()));
        self.world.leases.push(Arc::new(serde_json::from_value(lease).unwrap()));
        self
    }

    /// What its agent says of the node's processor.
    pub(crate) fn processor(&mut self, name: &str, vendor: &str, models: &[&str], features: &[&str]) {
        let all = self.world.nodes.iter_mut().map(Arc::make_mut);
        let node = all.into_iter().find(|node| node.metadata.name.as_deref() == Some(name)).unwrap();
        let labels = node.metadata.labels.get_or_insert_default();
        let mut label = |kind: &str, name: &str| labels.insert(format!("{kind}{name}"), "true".to_owned());
        label(objects::CPU_VENDOR_LABEL, vendor);
        models.iter().for_each(|model| drop(label(objects::CPU_MODEL_LABEL, model)));
        features.iter().for_each(|feature| drop(label(objects::CPU_FEATURE_LABEL, feature)));
    }

    /// What its agent says of the address at which machines come to the node.
    pub(crate) fn comes_to(&mut self, name: &str, address: &str, network: &str) {
        let all = self.world.nodes.iter_mut().map(Arc::make_mut);
        let node = all.into_iter().find(|node| node.metadata.name.as_deref() == Some(name)).unwrap();
        let said = node.metadata.annotations.get_or_insert_default();
        said.insert(objects::MIGRATION_ADDRESS_ANNOTATION.to_owned(), address.to_owned());
        said.insert(objects::MIGRATION_NETWORK_ANNOTATION.to_owned(), network.to_owned());
    }

    /// What a machine is to see of its processor, from its next start on.
    pub(crate) fn see(&mut self, machine: &str, cpu: &Value) {
        let all = self.world.machines.iter_mut().map(Arc::make_mut);
        let own = all.into_iter().find(|own| own.metadata.name.as_deref() == Some(machine)).unwrap();
        own.spec.template.spec.domain.cpu = serde_json::from_value(cpu.clone()).unwrap();
    }

    pub(crate) fn machine(&mut self, name: &str, strategy: &str, gib: u64) -> &mut Self {
        let machine = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachine",
            "metadata": { "name": name, "namespace": "default", "uid": self.uid() },
            "spec": { "runStrategy": strategy, "template": { "spec": { "domain": {
                "memory": { "guest": format!("{gib}Gi") },
                "firmware": { "kernelBoot": { "container": { "image": "whimbrel.dev/workload" } } },
            }}}},
        });
        self.world.machines.push(Arc::new(serde_json::from_value(machine).unwrap()));
        self
    }

    pub(crate) fn migrate(&mut self, name: &str, instance: &str, selector: &Value) {
        let migration = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {
                "name": name, "namespace": "default", "uid": self.uid(), "finalizers": ["whimbrel.dev/migration"],
            },
            "spec": { "vmiName": instance, "addedNodeSelector": selector },
        });
        self.world.migrations.push(Arc::new(serde_json::from_value(migration).unwrap()));
    }

    pub(crate) fn policy(&mut self, name: &str, spec: &Value) {
        let policy = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "MigrationPolicy", "metadata": { "name": name }, "spec": spec,
        });
        self.world.policies.push(Arc::new(serde_json::from_value(policy).unwrap()));
    }

    pub(crate) fn cordon(&mut self, name: &str) {
        let node = self
            .world
            .nodes
            .iter_mut()
            .map(Arc::make_mut)
            .find(|node| node.metadata.name.as_deref() == Some(name))
            .unwrap();
        node.spec.get_or_insert_default().unschedulable = Some(true);
    }

    /// The node's agent was last heard of when the fleet began.
    pub(crate) fn silence(&mut self, name: &str) {
        let lease = self
            .world
            .leases
            .iter_mut()
            .map(Arc::make_mut)
            .find(|lease| lease.metadata.name.as_deref() == Some(name))
            .unwrap();
        let renewed = at(0).0;
        lease.spec.get_or_insert_default().renew_time =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(renewed));
    }

    /// The lease of the node's agent was seen to be renewed then, whatever it says itself.
    pub(crate) fn hear(&mut self, name: &str, seconds: i64) {
        let lease = self.world.leases.iter_mut().map(Arc::make_mut);
        let lease = lease.into_iter().find(|lease| lease.metadata.name.as_deref() == Some(name)).unwrap();
        let uid = format!("lease-{name}");
        lease.metadata.uid = Some(uid.clone());
        self.world.heard.insert(uid, at(seconds));
    }

    /// Decides and applies until nothing is left to do.
    pub(crate) fn settle(&mut self, seconds: i64) {
        for _ in 0..50 {
            let intents = fleet::decide(&self.world, &at(seconds));
            let writes: Vec<_> =
                intents.into_iter().filter(|intent| !matches!(intent, Intent::Record(_))).collect();
            if writes.is_empty() {
                return;
            }
            writes.into_iter().for_each(|intent| self.apply(intent, seconds));
        }
        panic!("it does not come to rest: {:?}", fleet::decide(&self.world, &at(seconds)));
    }

    fn apply(&mut self, intent: Intent, seconds: i64) {
        let world = &mut self.world;
        match intent {
            Intent::CreateInstance(mut instance) => {
                instance.metadata.uid = Some(self.uid());
                self.world.instances.push(Arc::new(*instance));
            }
            Intent::DeleteInstance(instance) => {
                for own in world
                    .instances
                    .iter_mut()
                    .map(Arc::make_mut)
                    .filter(|own| own.metadata.uid == instance.metadata.uid)
                {
                    own.metadata.deletion_timestamp = Some(at(seconds));
                }
            }
            Intent::HoldInstance(instance) => {
                let all = world.instances.iter_mut().map(Arc::make_mut);
                for own in all.filter(|own| own.metadata.uid == instance.metadata.uid) {
                    own.metadata.finalizers = Some(vec![objects::VMM_FINALIZER.to_owned()]);
                }
            }
            Intent::HoldMigration(migration) => {
                let all = world.migrations.iter_mut().map(Arc::make_mut);
                for own in all.filter(|own| own.metadata.uid == migration.metadata.uid) {
                    own.metadata.finalizers = Some(vec![objects::MIGRATION_FINALIZER.to_owned()]);
                }
            }
            Intent::HoldDrain(drain) => {
                let all = world.drains.iter_mut().map(Arc::make_mut);
                for own in all.filter(|own| own.metadata.uid == drain.metadata.uid) {
                    own.metadata.finalizers = Some(vec![objects::DRAIN_FINALIZER.to_owned()]);
                }
            }
            Intent::ReleaseInstance(instance) => {
                world.instances.retain(|own| own.metadata.uid != instance.metadata.uid);
            }
            Intent::DeleteMachine(machine) => {
                world.machines.retain(|own| own.metadata.uid != machine.metadata.uid);
            }
            Intent::ReleaseNamespace(namespace) => {
                world.namespaces.retain(|own| own.metadata.name != namespace.metadata.name);
            }
            Intent::DeleteMigration(migration) => {
                for own in world
                    .migrations
                    .iter_mut()
                    .map(Arc::make_mut)
                    .filter(|own| own.metadata.uid == migration.metadata.uid)
                {
                    own.metadata.deletion_timestamp = Some(at(seconds));
                }
            }
            Intent::ReleaseMigration(migration) => {
                world.migrations.retain(|own| own.metadata.uid != migration.metadata.uid);
            }
            Intent::SetMachineStatus(machine) => {
                let place = world
                    .machines
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|own| own.metadata.uid == machine.metadata.uid);
                *place.unwrap() = *machine;
            }
            Intent::SetInstanceStatus(instance) => {
                let place = world
                    .instances
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|own| own.metadata.uid == instance.metadata.uid);
                *place.unwrap() = *instance;
            }
            Intent::SetMigrationStatus(migration) => {
                let place = world
                    .migrations
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|own| own.metadata.uid == migration.metadata.uid);
                *place.unwrap() = *migration;
            }
            Intent::SetNodeStatus(node) => {
                let place = world
                    .nodes
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|own| own.metadata.uid == node.metadata.uid);
                *place.unwrap() = *node;
            }
            Intent::RetryMigration(mut migration) | Intent::CreateMigration(mut migration, _) => {
                let same = |own: &&Arc<VirtualMachineInstanceMigration>| {
                    own.metadata.name == migration.metadata.name
                };
                // As the server refuses it.
                if world.migrations.iter().find(same).is_none() {
                    migration.metadata.uid = Some(self.uid());
                    migration.metadata.creation_timestamp = Some(at(seconds));
                    self.world.migrations.push(Arc::new(*migration));
                }
            }
            Intent::CancelMigration(migration, _) => {
                let place = world
                    .migrations
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|own| own.metadata.uid == migration.metadata.uid);
                place.unwrap().spec.cancel = true;
            }
            Intent::Cordon(node, is_cordoned, _) => {
                let place = world
                    .nodes
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|own| own.metadata.uid == node.metadata.uid);
                place.unwrap().spec.get_or_insert_default().unschedulable = Some(is_cordoned);
            }
            Intent::SetDrainStatus(drain, _) => {
                let place = world
                    .drains
                    .iter_mut()
                    .map(Arc::make_mut)
                    .find(|own| own.metadata.uid == drain.metadata.uid);
                *place.unwrap() = *drain;
            }
            Intent::ReleaseDrain(drain) | Intent::DeleteDrain(drain) => {
                world.drains.retain(|own| own.metadata.uid != drain.metadata.uid);
            }
            Intent::Record(_) => {}
        }
    }

    pub(crate) fn instance(&self, name: &str) -> &VirtualMachineInstance {
        self.world.instances.iter().find(|instance| instance.metadata.name.as_deref() == Some(name)).unwrap()
    }

    pub(crate) fn migration(&self, name: &str) -> &VirtualMachineInstanceMigration {
        self.world
            .migrations
            .iter()
            .find(|migration| migration.metadata.name.as_deref() == Some(name))
            .unwrap()
    }

    pub(crate) fn phase(&self, name: &str) -> MigrationPhase {
        self.migration(name).status.clone().unwrap_or_default().phase()
    }

    pub(crate) fn state(&self, name: &str) -> MigrationState {
        self.migration(name).status.clone().unwrap().migration_state.unwrap()
    }

    pub(crate) fn printable(&self, name: &str) -> String {
        let machine = self
            .world
            .machines
            .iter()
            .find(|machine| machine.metadata.name.as_deref() == Some(name))
            .unwrap();
        machine.status.clone().unwrap().printable_status.unwrap()
    }

    /// Every agent has started what was placed on its node.
    pub(crate) fn run_instances(&mut self, seconds: i64) {
        for status in
            self.world.instances.iter_mut().map(Arc::make_mut).filter_map(|instance| instance.status.as_mut())
        {
            if status.phase() == InstancePhase::Scheduled {
                status.enter(InstancePhase::Running, &at(seconds));
            }
        }
        self.settle(seconds);
    }

    pub(crate) fn end_instance(&mut self, name: &str, phase: InstancePhase, seconds: i64) {
        let found = self
            .world
            .instances
            .iter_mut()
            .map(Arc::make_mut)
            .find(|instance| instance.metadata.name.as_deref() == Some(name));
        found.unwrap().status.as_mut().unwrap().enter(phase, &at(seconds));
    }

    /// Agents have let go of what is being deleted.
    pub(crate) fn let_go(&mut self) {
        self.world.instances.retain(|instance| instance.metadata.deletion_timestamp.is_none());
    }

    pub(crate) fn cancel(&mut self, name: &str) {
        self.world
            .migrations
            .iter_mut()
            .map(Arc::make_mut)
            .find(|migration| migration.metadata.name.as_deref() == Some(name))
            .unwrap()
            .spec
            .cancel = true;
    }

    pub(crate) fn delete_migration(&mut self, name: &str) {
        let found = self
            .world
            .migrations
            .iter_mut()
            .map(Arc::make_mut)
            .find(|migration| migration.metadata.name.as_deref() == Some(name));
        found.unwrap().metadata.deletion_timestamp = Some(at(0));
    }

    /// The target's agent says that its VMM has the machine; the source's, if it says anything, that its VMM has ended.
    pub(crate) fn target_has(&mut self, name: &str, seconds: i64) {
        let state = self.status(name).migration_state.get_or_insert_default();
        state.target_node_domain_ready_timestamp = Some(at(seconds));
    }

    pub(crate) fn source_is_gone(&mut self, name: &str, seconds: i64) {
        self.agents_say(name, true);
        let state = self.status(name).migration_state.get_or_insert_default();
        state.end_timestamp = Some(at(seconds));
        let failure = json!({ "reason": "SourceGone", "message": "gone" });
        state.failure = Some(serde_json::from_value(failure).unwrap());
    }

    fn status(&mut self, name: &str) -> &mut VirtualMachineInstanceMigrationStatus {
        let found = self
            .world
            .migrations
            .iter_mut()
            .map(Arc::make_mut)
            .find(|migration| migration.metadata.name.as_deref() == Some(name));
        found.unwrap().status.as_mut().unwrap()
    }

    /// The agents have come as far as memory moves.
    pub(crate) fn agents_begin(&mut self, name: &str) {
        self.status(name).enter(MigrationPhase::Running, &at(3));
    }

    /// The source's agent says how it ended.
    pub(crate) fn agents_say(&mut self, name: &str, is_failed: bool) {
        self.agents_begin(name);
        let state = self.status(name).migration_state.get_or_insert_default();
        (state.completed, state.failed) = (true, is_failed);
    }

    /// GiB of machines that are on a node or on their way there.
    pub(crate) fn taken(&self, node: &str) -> u64 {
        let size = |instance: &VirtualMachineInstance| fleet::fit::memory_of(instance) >> 30;
        let there = self.world.instances.iter().filter(|instance| {
            instance.status.as_ref().is_some_and(|status| status.node_name.as_deref() == Some(node))
        });
        let coming = self.world.migrations.iter().filter(|migration| {
            let status = migration.status.clone().unwrap_or_default();
            status.phase().is_under_way()
                && status.migration_state.is_some_and(|state| state.target_node.as_deref() == Some(node))
        });
        there.map(|instance| size(instance)).sum::<u64>()
            + coming.map(|migration| size(self.instance(&migration.spec.vmi_name))).sum::<u64>()
    }
}
