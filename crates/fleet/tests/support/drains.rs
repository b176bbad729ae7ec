//! What drains need of a fleet in memory.

use std::sync::Arc;

use fleet::Intent;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::MicroTime};
use objects::{
    Fleet, HOSTNAME_LABEL, NodeDrain, NodeDrainSpec, VirtualMachineInstance, VirtualMachineInstanceMigration,
};
use serde_json::{Value, json};

use super::{Site, at};

impl Site {
    /// Asks for a drain.
    pub(crate) fn empty(&mut self, name: &str, spec: &Value) {
        let drain = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "NodeDrain", "spec": spec,
            "metadata": { "name": name, "uid": self.uid(), "finalizers": ["whimbrel.dev/drain"] },
        });
        self.world.drains.push(Arc::new(serde_json::from_value(drain).unwrap()));
    }

    pub(crate) fn drain(&self, name: &str) -> &NodeDrain {
        self.world.drains.iter().find(|drain| drain.metadata.name.as_deref() == Some(name)).unwrap()
    }

    pub(crate) fn change_drain(&mut self, name: &str, change: impl FnOnce(&mut NodeDrainSpec)) {
        let mut drains = self.world.drains.iter_mut().map(Arc::make_mut);
        change(&mut drains.find(|drain| drain.metadata.name.as_deref() == Some(name)).unwrap().spec);
    }

    pub(crate) fn delete_drain(&mut self, name: &str) {
        let mut drains = self.world.drains.iter_mut().map(Arc::make_mut);
        let found = drains.find(|drain| drain.metadata.name.as_deref() == Some(name));
        found.unwrap().metadata.deletion_timestamp = Some(at(0));
    }

    pub(crate) fn limits(&mut self, migrations: &Value) {
        let fleet = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "Fleet", "metadata": { "name": "fleet" },
            "spec": { "configuration": { "migrations": migrations } },
        });
        self.world.fleets = vec![Arc::new(serde_json::from_value::<Fleet>(fleet).unwrap())];
    }

    fn node_mut(&mut self, name: &str) -> &mut Node {
        let mut nodes = self.world.nodes.iter_mut().map(Arc::make_mut);
        nodes.find(|node| node.metadata.name.as_deref() == Some(name)).unwrap()
    }

    pub(crate) fn uncordon(&mut self, name: &str) {
        self.node_mut(name).spec.get_or_insert_default().unschedulable = Some(false);
    }

    pub(crate) fn is_cordoned(&mut self, name: &str) -> bool {
        self.node_mut(name).spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
    }

    /// The node's agent is heard of again.
    pub(crate) fn revive(&mut self, name: &str) {
        let conditions = self.node_mut(name).status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].status = "True".to_owned();
        let mut leases = self.world.leases.iter_mut().map(Arc::make_mut);
        let lease = leases.find(|lease| lease.metadata.name.as_deref() == Some(name)).unwrap();
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(at(1_000_000).0));
    }

    /// The machine may run on that node alone.
    pub(crate) fn pin(&mut self, machine: &str, node: &str) {
        let mut instances = self.world.instances.iter_mut().map(Arc::make_mut);
        let is_it = |one: &&mut VirtualMachineInstance| one.metadata.name.as_deref() == Some(machine);
        instances.find(is_it).unwrap().spec.node_selector.insert(HOSTNAME_LABEL.to_owned(), node.to_owned());
    }

    /// The machine is seen to be on that node.
    pub(crate) fn arrive(&mut self, machine: &str, node: &str) {
        let mut instances = self.world.instances.iter_mut().map(Arc::make_mut);
        let is_it = |one: &&mut VirtualMachineInstance| one.metadata.name.as_deref() == Some(machine);
        instances.find(is_it).unwrap().status.get_or_insert_default().node_name = Some(node.to_owned());
    }

    /// Decides once, and applies that.
    pub(crate) fn decide_once(&mut self, seconds: i64) {
        for intent in fleet::decide(&self.world, &at(seconds)) {
            if !matches!(intent, Intent::Record(_)) {
                self.apply(intent, seconds);
            }
        }
    }

    /// Decides, and applies no more than is carried out before whoever decides is killed: `lives` says whether it lives through a write.
    pub(crate) fn decide_while(&mut self, seconds: i64, lives: &mut impl FnMut() -> bool) {
        for intent in fleet::decide(&self.world, &at(seconds)) {
            if !matches!(intent, Intent::Record(_)) {
                self.apply(intent, seconds);
                if !lives() {
                    return;
                }
            }
        }
    }

    /// All migrations under way come to a good end, and nobody has heard of it yet.
    pub(crate) fn agents_end(&mut self) {
        for name in self.under_way() {
            self.agents_say(&name, false);
        }
    }

    pub(crate) fn under_way(&self) -> Vec<String> {
        let is_under_way = |one: &&Arc<VirtualMachineInstanceMigration>| {
            one.status.clone().unwrap_or_default().phase().is_under_way()
        };
        self.world
            .migrations
            .iter()
            .filter(is_under_way)
            .map(|one| one.metadata.name.clone().unwrap())
            .collect()
    }

    /// All migrations under way come to a good end; returns how many there were.
    pub(crate) fn agents_finish(&mut self, seconds: i64) -> usize {
        let names = self.under_way();
        names.iter().for_each(|name| self.agents_say(name, false));
        self.decide_once(seconds);
        names.len()
    }

    /// All migrations under way fail.
    pub(crate) fn agents_fail(&mut self, seconds: i64) {
        for name in self.under_way() {
            self.agents_say(&name, true);
        }
        self.decide_once(seconds);
    }

    /// Lets migrations come to a good end until there are none; returns how often that took.
    pub(crate) fn move_all(&mut self, seconds: i64) -> i64 {
        for round in 0..100 {
            self.settle(seconds + round);
            if self.agents_finish(seconds + round) == 0 {
                return round;
            }
        }
        panic!("it does not come to an end");
    }
}
