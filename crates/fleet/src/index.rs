//! All objects, found by what refers to them, and what is free where. Made once for each decision, so that nothing below searches all objects
//! for each of them.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Node;
use objects::{
    DRAIN_UID_LABEL, NodeDrain, NodeDrainPhase, VirtualMachineInstance, VirtualMachineInstanceMigration,
    VirtualMachineInstanceMigrationStatus, VirtualMachineInstanceStatus,
};

use crate::{
    World,
    apart::Apart,
    behind::places,
    kubelet::{allocatable, is_cordoned, is_ready},
    world::{memory_of, name_of, namespace_of, uid_of},
};

/// A namespace and a name.
pub(crate) type Key<'a> = (&'a str, &'a str);

/// All objects, found by what refers to them.
#[derive(Clone)]
pub(crate) struct Index<'a> {
    pub(crate) world: &'a World,
    /// Made when it is first asked for: a question about one machine needs none.
    instances: OnceCell<HashMap<Key<'a>, &'a VirtualMachineInstance>>,
    /// The migrations of an instance that are not over: one, where a server of ours has seen to it.
    active: HashMap<Key<'a>, Vec<&'a VirtualMachineInstanceMigration>>,
    ending_namespaces: HashSet<&'a str>,
    /// In the order of their names.
    pub(crate) rooms: Vec<Room<'a>>,
    room_of: HashMap<&'a str, usize>,
}

/// A node, and what is free there.
#[derive(Clone)]
pub(crate) struct Room<'a> {
    pub(crate) node: &'a Node,
    pub(crate) name: &'a str,
    pub(crate) is_ready: bool,
    pub(crate) is_cordoned: bool,
    /// Whether a drain will empty it.
    pub(crate) is_leaving: bool,
    pub(crate) cpus: u64,
    /// Which paths of disks it has, by the word of its agent; `None` where that says nothing.
    pub(crate) places: Option<Arc<BTreeMap<String, bool>>>,
    /// That it is not on the network of migrations.
    pub(crate) apart: Option<Apart>,
    capacity: Memory,
    taken: Memory,
}

#[derive(Clone, Copy, Default)]
struct Memory {
    plain: u64,
    huge: u64,
}

impl Memory {
    fn of(&mut self, is_huge: bool) -> &mut u64 {
        if is_huge { &mut self.huge } else { &mut self.plain }
    }
}

impl Room<'_> {
    /// Bytes that nobody has; of huge pages where these are asked for.
    pub(crate) fn free(&self, is_huge: bool) -> u64 {
        let (mut capacity, mut taken) = (self.capacity, self.taken);
        capacity.of(is_huge).saturating_sub(*taken.of(is_huge))
    }

    /// Takes what an instance needs.
    pub(crate) fn take(&mut self, instance: &VirtualMachineInstance) {
        let taken = self.taken.of(is_huge(instance));
        *taken = taken.saturating_add(memory_of(instance));
    }

    /// Gives back what an instance had.
    pub(crate) fn give_back(&mut self, instance: &VirtualMachineInstance) {
        let taken = self.taken.of(is_huge(instance));
        *taken = taken.saturating_sub(memory_of(instance));
    }
}

/// Whether its memory is in huge pages.
pub(crate) fn is_huge(instance: &VirtualMachineInstance) -> bool {
    instance.spec.domain.memory.hugepages.is_some()
}

impl<'a> Index<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        let mut active = HashMap::<_, Vec<_>>::new();
        for migration in world.migrations.iter().filter(|migration| !phase(migration).is_final()) {
            active.entry(instance_key(migration)).or_default().push(&**migration);
        }
        let ending = world.namespaces.iter().filter(|one| one.metadata.deletion_timestamp.is_some());
        let network = world.settings().network;
        let mut rooms: Vec<_> = world.nodes.iter().map(|node| room(node, network.as_deref())).collect();
        rooms.sort_by_key(|room| room.name);
        let room_of = rooms.iter().enumerate().map(|(index, room)| (room.name, index)).collect();
        let mut index = Self {
            world,
            instances: OnceCell::new(),
            active,
            ending_namespaces: ending.map(|one| name_of(&one.metadata)).collect(),
            rooms,
            room_of,
        };
        index.take_all();
        index.note_drains();
        index
    }

    /// What machines on a node have, and those that are on their way there.
    fn take_all(&mut self) {
        for instance in &self.world.instances {
            if let Some(node) = runs_on(instance) {
                self.take(node, instance);
            }
        }
        for migration in &self.world.migrations {
            let Some(target) = coming_to(migration) else { continue };
            let Some(instance) = self.instance_of(migration) else { continue };
            // Once it has arrived it is counted there.
            let is_there =
                instance.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(target);
            if !is_there && !uid_of(&instance.metadata).is_empty() {
                self.take(target, instance);
            }
        }
    }

    /// Nodes that a drain will empty take machines only where no other node does.
    fn note_drains(&mut self) {
        for drain in &self.world.drains {
            for node in still_to_empty(drain) {
                self.leave(node);
            }
            // One that is begun is about to be cordoned, if it is not yet.
            for node in drain.status.iter().flat_map(|status| &status.nodes).filter(|_| is_active(drain)) {
                if let Some(room) =
                    self.room_mut(&node.name).filter(|_| node.phase == NodeDrainPhase::Draining)
                {
                    room.is_cordoned = true;
                }
            }
        }
    }

    /// Says that a drain will empty a node.
    pub(crate) fn leave(&mut self, node: &str) {
        if let Some(room) = self.room_mut(node) {
            room.is_leaving = true;
        }
    }

    pub(crate) fn instance(&self, namespace: &str, name: &str) -> Option<&'a VirtualMachineInstance> {
        let instances = self.instances.get_or_init(|| {
            self.world.instances.iter().map(|instance| (key(&instance.metadata), &**instance)).collect()
        });
        instances.get(&(namespace, name)).copied()
    }

    /// The instance of a migration.
    pub(crate) fn instance_of(
        &self,
        migration: &VirtualMachineInstanceMigration,
    ) -> Option<&'a VirtualMachineInstance> {
        self.instance(namespace_of(&migration.metadata), &migration.spec.vmi_name)
    }

    /// The migration of an instance that is not over, if there is one.
    pub(crate) fn migration_of(
        &self,
        instance: &VirtualMachineInstance,
    ) -> Option<&'a VirtualMachineInstanceMigration> {
        self.active.get(&key(&instance.metadata)).and_then(|active| active.last()).copied()
    }

    /// The migrations of the same instance that are not over, this one included.
    pub(crate) fn rivals<'s>(
        &'s self,
        migration: &'s VirtualMachineInstanceMigration,
    ) -> &'s [&'a VirtualMachineInstanceMigration] {
        self.active.get(&instance_key(migration)).map_or(&[], Vec::as_slice)
    }

    /// The drain that a migration was made for, by its name, if that begins nothing for now.
    pub(crate) fn held_by(&self, migration: &VirtualMachineInstanceMigration) -> Option<&'a str> {
        let uid = migration.metadata.labels.as_ref()?.get(DRAIN_UID_LABEL)?;
        let drain = self.world.drains.iter().find(|drain| uid_of(&drain.metadata) == uid)?;
        (drain.spec.paused && !drain.spec.cancel).then(|| name_of(&drain.metadata))
    }

    /// Whether a migration was made for a drain that begins nothing any more. One may be made by a drain that is given up at that moment,
    /// and be heard of only when that is over.
    pub(crate) fn is_of_ended_drain(&self, migration: &VirtualMachineInstanceMigration) -> bool {
        let label = migration.metadata.labels.as_ref().and_then(|labels| labels.get(DRAIN_UID_LABEL));
        let goes_on = |uid: &String| {
            self.world.drains.iter().any(|drain| uid_of(&drain.metadata) == uid && is_active(drain))
        };
        label.is_some_and(|uid| !goes_on(uid))
    }

    pub(crate) fn is_namespace_ending(&self, name: &str) -> bool {
        self.ending_namespaces.contains(name)
    }

    pub(crate) fn room(&self, node: &str) -> Option<&Room<'a>> {
        self.room_of.get(node).and_then(|index| self.rooms.get(*index))
    }

    pub(crate) fn room_mut(&mut self, node: &str) -> Option<&mut Room<'a>> {
        self.room_of.get(node).and_then(|index| self.rooms.get_mut(*index))
    }

    /// Counts an instance to what a node has.
    pub(crate) fn take(&mut self, node: &str, instance: &VirtualMachineInstance) {
        if let Some(room) = self.room_mut(node) {
            room.take(instance);
        }
    }

    /// The instances on each of some nodes, by namespace and name.
    pub(crate) fn on_nodes(
        &self,
        nodes: &BTreeSet<&str>,
    ) -> BTreeMap<&'a str, Vec<&'a VirtualMachineInstance>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for instance in &self.world.instances {
            if let Some(node) = runs_on(instance).filter(|node| nodes.contains(node)) {
                found.entry(node).or_default().push(&**instance);
            }
        }
        found
    }
}

/// The nodes that a drain has still to empty.
pub(crate) fn still_to_empty(drain: &NodeDrain) -> impl Iterator<Item = &str> {
    let status = drain.status.as_ref();
    let is_empty = move |name: &str| {
        let known = status.and_then(|status| status.nodes.iter().find(|node| node.name == name));
        known.is_some_and(|node| node.phase == NodeDrainPhase::Drained)
    };
    let nodes = drain.spec.nodes.iter().map(String::as_str);
    nodes.filter(move |name| is_active(drain) && !is_empty(name))
}

pub(crate) fn is_active(drain: &NodeDrain) -> bool {
    !drain.spec.cancel
        && drain.metadata.deletion_timestamp.is_none()
        && !drain.status.as_ref().is_some_and(|status| status.phase().is_final())
}

/// The node that an instance is on, unless it has ended.
pub(crate) fn runs_on(instance: &VirtualMachineInstance) -> Option<&str> {
    let status: &VirtualMachineInstanceStatus = instance.status.as_ref()?;
    status.node_name.as_deref().filter(|_| !status.phase().is_final())
}

/// The node that a migration under way goes to.
pub(crate) fn coming_to(migration: &VirtualMachineInstanceMigration) -> Option<&str> {
    let status = migration.status.as_ref().filter(|status| status.phase().is_under_way())?;
    status.migration_state.as_ref()?.target_node.as_deref()
}

/// The node that a migration under way comes from.
pub(crate) fn leaving(migration: &VirtualMachineInstanceMigration) -> Option<&str> {
    let status = migration.status.as_ref().filter(|status| status.phase().is_under_way())?;
    status.migration_state.as_ref()?.source_node.as_deref()
}

/// When a migration was over, in seconds of the epoch.
pub(crate) fn end_of(migration: &VirtualMachineInstanceMigration) -> i64 {
    let state = migration.status.as_ref().and_then(|status| status.migration_state.as_ref());
    state.and_then(|state| state.end_timestamp.as_ref()).map_or(0, |time| time.0.as_second())
}

pub(crate) fn phase(migration: &VirtualMachineInstanceMigration) -> objects::MigrationPhase {
    migration.status.as_ref().map(VirtualMachineInstanceMigrationStatus::phase).unwrap_or_default()
}

pub(crate) fn key(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Key<'_> {
    (namespace_of(metadata), name_of(metadata))
}

pub(crate) fn instance_key(migration: &VirtualMachineInstanceMigration) -> Key<'_> {
    (namespace_of(&migration.metadata), migration.spec.vmi_name.as_str())
}

fn room<'a>(node: &'a Node, network: Option<&str>) -> Room<'a> {
    Room {
        node,
        name: name_of(&node.metadata),
        is_ready: is_ready(node),
        is_cordoned: is_cordoned(node),
        is_leaving: false,
        cpus: allocatable(node, "cpu"),
        places: places(node).map(Arc::new),
        apart: Apart::of(node, network),
        capacity: Memory { plain: allocatable(node, "memory"), huge: allocatable(node, "hugepages-2Mi") },
        taken: Memory::default(),
    }
}
