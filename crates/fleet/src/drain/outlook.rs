//! The moves to come, played through with the limits of the fleet and the times that are foretold.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
};

use objects::{BlockedMachine, DRAIN_LISTED, DrainStep, VirtualMachineInstance};

use crate::{
    affinity,
    drain::{
        forecast::{Forecast, Forecasts},
        obstacle,
    },
    fit::memory_of,
    index::{Index, coming_to, phase},
    placement::best,
    queue::Limits,
    world::{name_of, namespace_of},
};

/// Instances, by the node that they are on.
pub(super) type Crews<'a> = BTreeMap<&'a str, Vec<&'a VirtualMachineInstance>>;

/// The moves to come.
#[derive(Default)]
pub(super) struct Outlook<'a> {
    pub(super) steps: Vec<DrainStep>,
    /// The first machines that cannot move, and how many there are.
    pub(super) blocked: Vec<BlockedMachine>,
    pub(super) blocked_count: usize,
    /// Seconds until the last has moved that can.
    pub(super) seconds: u64,
    /// The most at a time.
    pub(super) concurrency: u32,
    /// Nodes that are begun only when an earlier one is uncordoned.
    pub(super) waiting: Vec<&'a str>,
    /// Nodes that are never begun.
    pub(super) never: Vec<&'a str>,
}

/// What is to be played through.
pub(super) struct Task<'t, 'a> {
    pub(super) forecasts: &'t Forecasts<'a>,
    pub(super) limits: Limits,
    /// Nodes in order, and whether they are begun.
    pub(super) nodes: Vec<(&'a str, bool)>,
    pub(super) on: &'t Crews<'a>,
    pub(super) min_available: usize,
}

/// Machines of a node in the order in which they leave it: first those that may not go everywhere, then the largest, which fit in fewest
/// places and take longest; of equal ones those that stand still for less.
pub(super) fn sort(machines: &mut [&VirtualMachineInstance], forecasts: &Forecasts<'_>) {
    machines.sort_by_cached_key(|instance| {
        let forecast = forecasts.of(instance);
        let name = (namespace_of(&instance.metadata).to_owned(), name_of(&instance.metadata).to_owned());
        let size = Reverse((memory_of(instance), forecast.seconds));
        (!affinity::is_bound(instance), size, forecast.last_downtime_ms, name)
    });
}

/// Plays it through.
pub(super) fn outlook<'a>(index: &Index<'a>, task: &Task<'_, 'a>) -> Outlook<'a> {
    let mut play = Play {
        index: index.clone(),
        task,
        all: 0,
        outbound: HashMap::new(),
        inbound: HashMap::new(),
        running: BinaryHeap::new(),
        unbegun: VecDeque::new(),
        left: HashMap::new(),
        pending: Vec::new(),
        stuck: Vec::new(),
        ending: Vec::new(),
        unended: Vec::new(),
        emptied: Vec::new(),
        time: 0,
        has_reopened: false,
        outlook: Outlook::default(),
    };
    play.begin();
    play.run();
    play.finish()
}

struct Play<'t, 'a> {
    index: Index<'a>,
    task: &'t Task<'t, 'a>,
    all: u32,
    outbound: HashMap<&'a str, u32>,
    inbound: HashMap<&'a str, u32>,
    /// When a move is over, its source and its target.
    running: BinaryHeap<Reverse<(u64, &'a str, &'a str)>>,
    unbegun: VecDeque<&'a str>,
    /// Machines on nodes that are begun.
    left: HashMap<&'a str, usize>,
    /// Machines that have still to move, and from where.
    pending: Vec<(&'a VirtualMachineInstance, &'a str)>,
    /// Those that no node takes as things are.
    stuck: Vec<(&'a VirtualMachineInstance, &'a str)>,
    /// Machines whose runs are ended, and where.
    ending: Vec<(&'a VirtualMachineInstance, &'a str)>,
    /// Those of them whose next run would find no place as things are.
    unended: Vec<(&'a VirtualMachineInstance, &'a str)>,
    emptied: Vec<&'a str>,
    time: u64,
    has_reopened: bool,
    outlook: Outlook<'a>,
}

impl<'a> Play<'_, 'a> {
    fn begin(&mut self) {
        for migration in self.index.world.migrations.iter().filter(|one| phase(one).is_under_way()) {
            let state = migration.status.as_ref().and_then(|status| status.migration_state.as_ref());
            let source = state.and_then(|state| state.source_node.as_deref());
            let (Some(source), Some(target)) = (source, coming_to(migration)) else { continue };
            let told =
                state.and_then(|state| state.progress.as_ref()?.eta_ms).map(|millis| millis.div_ceil(1000));
            let instance = self.index.instance_of(migration);
            let seconds = told.or_else(|| Some(self.task.forecasts.of(instance?).seconds)).unwrap_or(0);
            self.enter(source, target, seconds);
        }
        for &(node, is_begun) in &self.task.nodes {
            self.index.leave(node);
            if is_begun {
                self.begin_node(node);
            } else {
                self.unbegun.push_back(node);
            }
        }
    }

    fn run(&mut self) {
        loop {
            self.begin_nodes();
            self.end_runs();
            self.start_moves();
            if let Some(Reverse((end, source, target))) = self.running.pop() {
                self.end_move(end, source, target);
            } else if !self.reopen() {
                return;
            }
        }
    }

    /// Begins nodes as long as enough are left that are schedulable.
    fn begin_nodes(&mut self) {
        while let Some(&node) = self.unbegun.front() {
            let counts = self.index.room(node).is_some_and(|room| room.is_ready && !room.is_cordoned);
            if self.available() < self.task.min_available.saturating_add(usize::from(counts)) {
                return;
            }
            self.unbegun.pop_front();
            if self.has_reopened {
                self.outlook.waiting.push(node);
            }
            self.begin_node(node);
        }
    }

    fn available(&self) -> usize {
        self.index.rooms.iter().filter(|room| room.is_ready && !room.is_cordoned).count()
    }

    fn begin_node(&mut self, node: &'a str) {
        if let Some(room) = self.index.room_mut(node) {
            room.is_cordoned = true;
        }
        let mut machines = self.task.on.get(node).cloned().unwrap_or_default();
        self.left.insert(node, machines.len());
        sort(&mut machines, self.task.forecasts);
        for instance in machines {
            let is_under_way = self.index.migration_of(instance).is_some_and(|one| phase(one).is_under_way());
            if is_under_way {
                continue;
            }
            if obstacle::is_ended_instead(&self.index, instance, node) {
                self.ending.push((instance, node));
                continue;
            }
            match obstacle::inherent(&self.index, instance, node) {
                Some(blocked) => self.block(Some(blocked)),
                None => self.pending.push((instance, node)),
            }
        }
        self.note_empty(node);
    }

    /// Runs are ended whose next ones find a place; that takes no turn of a migration.
    fn end_runs(&mut self) {
        for (instance, node) in std::mem::take(&mut self.ending) {
            match obstacle::place_after(&self.index, instance) {
                Some(target) => self.end(instance, node, target),
                None => self.unended.push((instance, node)),
            }
        }
    }

    fn end(&mut self, instance: &'a VirtualMachineInstance, node: &'a str, target: Option<&'a str>) {
        if let Some(room) = self.index.room_mut(node) {
            room.give_back(instance);
        }
        if let Some(target) = target {
            self.index.take(target, instance);
        }
        if let Some(left) = self.left.get_mut(node) {
            *left = left.saturating_sub(1);
        }
        self.note_empty(node);
        self.outlook.steps.push(DrainStep {
            namespace: namespace_of(&instance.metadata).to_owned(),
            name: name_of(&instance.metadata).to_owned(),
            source_node: node.to_owned(),
            target_node: target.unwrap_or_default().to_owned(),
            memory_bytes: memory_of(instance),
            start_seconds: self.time,
            ended: true,
            ..DrainStep::default()
        });
    }

    fn block(&mut self, blocked: Option<BlockedMachine>) {
        self.outlook.blocked_count += 1;
        if self.outlook.blocked.len() < DRAIN_LISTED {
            self.outlook.blocked.extend(blocked);
        }
    }

    /// Starts what may start now, in order.
    fn start_moves(&mut self) {
        let mut place = 0;
        while self.all < self.task.limits.cluster
            && let Some(&(instance, source)) = self.pending.get(place)
        {
            if self.outbound.get(source).copied().unwrap_or(0) >= self.task.limits.outbound {
                place += 1;
                continue;
            }
            let none = BTreeMap::new();
            let has_way =
                |node: &str| self.inbound.get(node).copied().unwrap_or(0) < self.task.limits.inbound;
            match best(&self.index, instance, &none, has_way).map(|room| (room.name, room.is_leaving)) {
                Some((target, moves_again)) => {
                    self.pending.remove(place);
                    self.start_move(instance, source, target, moves_again);
                }
                None if best(&self.index, instance, &none, |_| true).is_some() => place += 1,
                None => {
                    self.pending.remove(place);
                    self.stuck.push((instance, source));
                }
            }
        }
    }

    fn start_move(
        &mut self,
        instance: &'a VirtualMachineInstance,
        source: &'a str,
        target: &'a str,
        moves_again: bool,
    ) {
        let Forecast { seconds, basis, last_downtime_ms } = self.task.forecasts.of(instance);
        self.index.take(target, instance);
        if let Some(room) = self.index.room_mut(source) {
            room.give_back(instance);
        }
        self.enter(source, target, seconds);
        self.outlook.steps.push(DrainStep {
            namespace: namespace_of(&instance.metadata).to_owned(),
            name: name_of(&instance.metadata).to_owned(),
            source_node: source.to_owned(),
            target_node: target.to_owned(),
            memory_bytes: memory_of(instance),
            start_seconds: self.time,
            seconds,
            last_downtime_ms,
            basis,
            moves_again,
            ended: false,
        });
    }

    fn enter(&mut self, source: &'a str, target: &'a str, seconds: u64) {
        self.all += 1;
        *self.outbound.entry(source).or_default() += 1;
        *self.inbound.entry(target).or_default() += 1;
        self.running.push(Reverse((self.time.saturating_add(seconds), source, target)));
        self.outlook.concurrency = self.outlook.concurrency.max(self.all);
    }

    fn end_move(&mut self, end: u64, source: &'a str, target: &'a str) {
        self.time = end;
        self.all = self.all.saturating_sub(1);
        for (counts, node) in [(&mut self.outbound, source), (&mut self.inbound, target)] {
            if let Some(count) = counts.get_mut(node) {
                *count = count.saturating_sub(1);
            }
        }
        if let Some(left) = self.left.get_mut(source) {
            *left = left.saturating_sub(1);
            self.outlook.seconds = end;
        }
        self.note_empty(source);
    }

    fn note_empty(&mut self, node: &'a str) {
        if self.left.get(node) == Some(&0) && !self.emptied.contains(&node) {
            self.emptied.push(node);
        }
    }

    /// Nothing moves any more: an emptied node is taken to be uncordoned, so that the next one can be begun. Returns whether there is one.
    fn reopen(&mut self) -> bool {
        if self.unbegun.is_empty() {
            return false;
        }
        let Some(node) = self.emptied.pop() else { return false };
        if let Some(room) = self.index.room_mut(node) {
            (room.is_cordoned, room.is_leaving) = (false, false);
        }
        self.left.remove(node);
        self.has_reopened = true;
        self.pending.append(&mut self.stuck);
        self.ending.append(&mut self.unended);
        true
    }

    fn finish(mut self) -> Outlook<'a> {
        let unended = std::mem::take(&mut self.unended);
        for (instance, node) in std::mem::take(&mut self.stuck).into_iter().chain(unended) {
            let is_listed = self.outlook.blocked.len() < DRAIN_LISTED;
            let blocked = is_listed.then(|| obstacle::of_room(&self.index, instance, node)).flatten();
            self.block(blocked);
        }
        // Limits of 0 let nothing begin.
        self.outlook.blocked_count += self.pending.len();
        self.outlook.never.extend(self.unbegun.iter().copied());
        self.outlook
    }
}
