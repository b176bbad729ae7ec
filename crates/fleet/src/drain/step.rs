//! What is next for one drain.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use objects::{
    BlockedMachine, ConditionStatus, DRAIN_LABEL, DRAIN_LISTED, DRAIN_UID_LABEL, DrainPhase,
    MIGRATION_FINALIZER, NodeDrain, NodeDrainPhase, NodeDrainProgress, NodeDrainStatus,
    VirtualMachineInstance, VirtualMachineInstanceMigration, VirtualMachineInstanceMigrationSpec,
    set_condition,
};

use crate::{
    Intent,
    drain::{
        obstacle,
        outlook::{Task, outlook, sort},
        scene::Scene,
        words::{blocked_condition, complete, count, note},
    },
    index::{Index, Key, key},
    kubelet::is_cordoned,
    placement::best,
    world::{name_of, namespace_of, uid_of},
};

/// Takes a drain a step further: nodes that may be begun are, and of each as many machines are sent on their way as may leave it.
pub(super) fn advance<'a>(
    index: &mut Index<'a>,
    scene: &mut Scene<'a>,
    drain: &'a NodeDrain,
    now: &Time,
    intents: &mut Vec<Intent>,
) {
    let mut status = drain.status.clone().unwrap_or_default();
    start(drain, &mut status, now);
    let mut step = Step {
        moved: scene.moved(drain),
        failed: scene.failed(drain),
        index,
        scene,
        drain,
        now,
        moving: 0,
        blocked: Vec::new(),
        blocked_count: 0,
        emptied: Vec::new(),
        writes: Vec::new(),
        notes: Vec::new(),
    };
    for node in &mut status.nodes {
        step.node(node);
    }
    step.sum_up(&mut status);
    let Step { writes, notes, emptied, .. } = step;
    if drain.status.as_ref() != Some(&status) {
        foretell(index, scene, drain, &mut status);
        let next = NodeDrain { status: Some(status), ..drain.clone() };
        // It comes before all that follows from it: what a drain has cordoned it has to know.
        intents.push(Intent::SetDrainStatus(Box::new(next), emptied));
        intents.extend(notes);
    }
    intents.extend(writes);
}

fn start(drain: &NodeDrain, status: &mut NodeDrainStatus, now: &Time) {
    let is_new = status.start_timestamp.is_none();
    let began = status.start_timestamp.get_or_insert_with(|| now.clone()).clone();
    let after =
        |seconds: u32| began.0.checked_add(jiff::SignedDuration::from_secs(seconds.into())).ok().map(Time);
    status.deadline_timestamp = drain.spec.deadline_seconds.and_then(after);
    if !is_new {
        return;
    }
    let nodes = drain.spec.nodes.iter();
    status.nodes =
        nodes.map(|name| NodeDrainProgress { name: name.clone(), ..NodeDrainProgress::default() }).collect();
}

struct Step<'s, 'a> {
    index: &'s mut Index<'a>,
    scene: &'s mut Scene<'a>,
    drain: &'a NodeDrain,
    now: &'s Time,
    /// Machines that were moved, by the node that they left.
    moved: HashMap<&'a str, u32>,
    failed: HashMap<Key<'a>, Vec<&'a VirtualMachineInstanceMigration>>,
    /// Machines whose migration waits or is under way.
    moving: u32,
    blocked: Vec<BlockedMachine>,
    blocked_count: u32,
    /// Nodes that were found empty now.
    emptied: Vec<String>,
    writes: Vec<Intent>,
    notes: Vec<Intent>,
}

impl<'a> Step<'_, 'a> {
    fn node(&mut self, node: &mut NodeDrainProgress) {
        let machines = self.scene.on.get(node.name.as_str()).cloned().unwrap_or_default();
        node.moved = node.moved.max(self.moved.get(node.name.as_str()).copied().unwrap_or(0));
        // What comes to a node that was empty is no matter of the drain any more.
        if node.phase == NodeDrainPhase::Drained {
            return;
        }
        node.left = count(machines.len());
        if node.phase == NodeDrainPhase::Waiting {
            self.begin(node);
        }
        if node.phase != NodeDrainPhase::Draining {
            return;
        }
        if let Some(room) = self.index.room(&node.name).filter(|room| !is_cordoned(room.node)) {
            let drain = name_of(&self.drain.metadata).to_owned();
            self.writes.push(Intent::Cordon(Box::new(room.node.clone()), true, drain));
        } else if machines.is_empty() && !self.scene.busy.contains(node.name.as_str()) {
            // It is cordoned, so that nothing comes any more.
            node.phase = NodeDrainPhase::Drained;
            self.emptied.push(node.name.clone());
            node.end_timestamp = Some(self.now.clone());
            self.notes.push(note(self.drain, "NodeDrained", format!("Node {} is empty", node.name), false));
            return;
        }
        self.machines(&node.name, machines);
    }

    /// Begins a node, if enough are left that are schedulable.
    fn begin(&mut self, node: &mut NodeDrainProgress) {
        let floor = self.scene.floor(self.drain);
        let min = floor.nodes;
        let available = self.scene.available;
        let room = self.index.room(&node.name);
        // One that is dead has to wait as well: it may come back when all others are cordoned.
        let counts = room.is_some_and(|room| room.is_ready && !room.is_cordoned);
        if self.drain.spec.paused {
            node.message = Some("The drain is paused.".to_owned());
        } else if available < min.saturating_add(usize::from(counts)) {
            node.message = Some(if floor.is_impossible(self.scene.nodes) {
                format!(
                    "{min} nodes must stay ready and schedulable, and the fleet has {} in all: change minAvailable of the drain.",
                    self.scene.nodes
                )
            } else {
                format!(
                    "{available} nodes are ready and schedulable, and {min} must stay so{}: it is begun when another node is uncordoned.",
                    floor.whose()
                )
            });
        } else {
            node.phase = NodeDrainPhase::Draining;
            node.message = room.is_none().then(|| "There is no such node any more.".to_owned());
            node.cordoned = room.is_some_and(|room| !is_cordoned(room.node));
            node.start_timestamp = Some(self.now.clone());
            self.scene.available -= usize::from(counts);
            if let Some(room) = self.index.room_mut(&node.name) {
                room.is_cordoned = true;
            }
            self.notes.push(note(
                self.drain,
                "NodeDraining",
                format!("Machines leave node {}", node.name),
                false,
            ));
        }
    }

    /// Sends machines of a node on their way, as many as may leave it at a time.
    fn machines(&mut self, node: &str, machines: Vec<&'a VirtualMachineInstance>) {
        let (mut leaving, mut ending) = (0, 0);
        let (mut free, mut ends) = (Vec::new(), Vec::new());
        for instance in machines {
            if let Some(migration) = self.index.migration_of(instance) {
                match obstacle::of_waiting(instance, node, migration) {
                    Some(blocked) => self.block(Some(blocked)),
                    None => leaving += 1,
                }
                continue;
            }
            if obstacle::is_ended_instead(self.index, instance, node) {
                ends.push(instance);
                continue;
            }
            ending += u32::from(instance.metadata.deletion_timestamp.is_some() && obstacle::ends(instance));
            let failed = self.failed.get(&key(&instance.metadata)).map_or(&[][..], Vec::as_slice);
            let obstacle = obstacle::inherent(self.index, instance, node);
            match obstacle.or_else(|| obstacle::of_failures(instance, node, failed, self.now)) {
                Some(blocked) => self.block(Some(blocked)),
                None => free.push(instance),
            }
        }
        self.moving += leaving;
        self.end_runs(node, ends, ending);
        sort(&mut free, &self.scene.forecasts);
        for instance in free {
            let target = best(self.index, instance, &BTreeMap::new(), |_| true).map(|room| room.name);
            let Some(target) = target else {
                self.block_for_room(instance, node);
                continue;
            };
            let has_way = leaving < self.scene.limits.outbound && self.moving < self.scene.limits.cluster;
            if has_way && !self.drain.spec.paused {
                leaving += 1;
                self.moving += 1;
                self.index.take(target, instance);
                self.writes.push(self.migrate(instance, node));
            }
        }
    }

    /// Ends runs of machines, as many at a time as may leave a node, and none whose next run would find no place. Nothing is ended before the
    /// node is cordoned: the next run would come back there. `ending` are on their way.
    fn end_runs(&mut self, node: &str, machines: Vec<&'a VirtualMachineInstance>, mut ending: u32) {
        let is_cordoned = self.index.room(node).is_some_and(|room| is_cordoned(room.node));
        for instance in machines {
            let Some(target) = obstacle::place_after(self.index, instance) else {
                self.block_for_room(instance, node);
                continue;
            };
            if is_cordoned && !self.drain.spec.paused && ending < self.scene.limits.outbound {
                ending += 1;
                if let Some(target) = target {
                    self.index.take(target, instance);
                }
                self.writes.push(Intent::DeleteInstance(Box::new(instance.clone())));
            }
        }
    }

    fn block_for_room(&mut self, instance: &VirtualMachineInstance, node: &str) {
        let is_listed = self.blocked.len() < DRAIN_LISTED;
        let blocked = is_listed.then(|| obstacle::of_room(self.index, instance, node)).flatten();
        self.block(blocked);
    }

    fn block(&mut self, blocked: Option<BlockedMachine>) {
        self.blocked_count += 1;
        if self.blocked.len() < DRAIN_LISTED {
            self.blocked.extend(blocked);
        }
    }

    /// The migration of a machine away from a node. Its name is the same however often this is decided, and another one after each attempt.
    fn migrate(&self, instance: &VirtualMachineInstance, node: &str) -> Intent {
        let name = name_of(&instance.metadata);
        let failed = self.failed.get(&key(&instance.metadata)).and_then(|list| list.last());
        let texts = [
            uid_of(&self.drain.metadata),
            uid_of(&instance.metadata),
            node,
            instance.status.as_ref().and_then(|status| status.vmm.as_deref()).unwrap_or_default(),
            failed.map(|failed| uid_of(&failed.metadata)).unwrap_or_default(),
        ];
        let short: String = name.chars().take(40).collect();
        let drain = name_of(&self.drain.metadata);
        let labels = [(DRAIN_LABEL, drain), (DRAIN_UID_LABEL, uid_of(&self.drain.metadata))];
        let migration = VirtualMachineInstanceMigration {
            metadata: ObjectMeta {
                name: Some(format!("{}-drain-{:016x}", short.trim_end_matches(['.', '-']), fnv(&texts))),
                namespace: Some(namespace_of(&instance.metadata).to_owned()),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
                // From the start: it is not looked at before.
                finalizers: Some(vec![MIGRATION_FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: VirtualMachineInstanceMigrationSpec {
                vmi_name: name.to_owned(),
                ..VirtualMachineInstanceMigrationSpec::default()
            },
            status: None,
        };
        Intent::CreateMigration(Box::new(migration), drain.to_owned())
    }

    /// What all nodes come to.
    fn sum_up(&mut self, status: &mut NodeDrainStatus) {
        let nodes = &status.nodes;
        let sum = |of: fn(&NodeDrainProgress) -> u32| nodes.iter().map(of).fold(0, u32::saturating_add);
        let draining = nodes.iter().filter(|node| node.phase == NodeDrainPhase::Draining).count();
        let waiting = nodes.iter().find(|node| node.phase == NodeDrainPhase::Waiting);
        let why_waiting =
            waiting.and_then(|node| Some(format!("Node {} waits: {}", node.name, node.message.as_ref()?)));
        let is_done = draining == 0 && waiting.is_none();
        (status.moved, status.left) = (sum(|node| node.moved), sum(|node| node.left));
        status.machines = status.machines.max(status.moved.saturating_add(status.left));
        (status.moving, status.blocked) = (self.moving, self.blocked_count);
        let limits = self.scene.limits;
        status.concurrency = limits.cluster.min(limits.outbound.saturating_mul(count(draining)));
        status.blocked_machines = std::mem::take(&mut self.blocked);
        status.phase = Some(match self.drain.spec.paused {
            _ if is_done => DrainPhase::Succeeded,
            true => DrainPhase::Paused,
            false => DrainPhase::Draining,
        });
        let so_far = format!("{} machines moved, {} are left", status.moved, status.left);
        let (word, message) = match why_waiting {
            _ if is_done => ("Drained", format!("All nodes were emptied; {} machines moved.", status.moved)),
            _ if self.drain.spec.paused => {
                ("Paused", format!("{so_far}; nothing is begun until it is resumed."))
            }
            Some(why) if draining == 0 => ("WaitingForNodes", format!("{so_far}. {why}")),
            _ if self.moving == 0 && self.blocked_count > 0 => (
                "Blocked",
                format!("{so_far}, and {} of them cannot move as things are.", self.blocked_count),
            ),
            _ => ("Draining", format!("{so_far}.")),
        };
        let is_so = if is_done { ConditionStatus::True } else { ConditionStatus::False };
        if is_done {
            status.end_timestamp = Some(self.now.clone());
            self.notes.push(note(self.drain, "Drained", message.clone(), false));
        }
        set_condition(&mut status.conditions, complete(is_so, word, message), self.now);
        set_condition(&mut status.conditions, blocked_condition(self.blocked_count), self.now);
    }
}

/// Says what comes next, and how long it takes.
fn foretell<'a>(index: &Index<'a>, scene: &Scene<'a>, drain: &'a NodeDrain, status: &mut NodeDrainStatus) {
    (status.eta_seconds, status.upcoming) = (None, Vec::new());
    if status.phase() != DrainPhase::Draining {
        return;
    }
    let phase_of = |name: &str| status.nodes.iter().find(|node| node.name == name).map(|node| node.phase);
    let nodes = drain.spec.nodes.iter().filter_map(|name| match phase_of(name)? {
        NodeDrainPhase::Drained => None,
        phase => Some((name.as_str(), phase == NodeDrainPhase::Draining)),
    });
    let task = Task {
        forecasts: &scene.forecasts,
        limits: scene.limits,
        nodes: nodes.collect(),
        on: &scene.on,
        min_available: scene.floor(drain).nodes,
    };
    // As of the objects as they are: what was decided a moment ago is foretold too.
    let found = outlook(&Index::new(index.world), &task);
    status.eta_seconds = (found.blocked_count == 0 && found.never.is_empty()).then_some(found.seconds);
    status.upcoming = found.steps.into_iter().take(DRAIN_LISTED).collect();
}

/// A number that is the same for the same texts (FNV-1a).
fn fnv(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
