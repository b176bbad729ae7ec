use std::collections::BTreeSet;

use objects::{MIN_AVAILABLE, NodeDrainPlanSpec, NodeDrainPlanStatus, PlannedNode};

use crate::{
    World,
    drain::{
        floor::Floor,
        forecast::Forecasts,
        outlook::{Task, outlook},
    },
    index::{Index, is_active},
    queue::Limits,
};

/// Moves that are listed.
const LISTED: usize = 1000;

/// What would become of a drain that was asked for now.
pub fn plan(world: &World, asked: &NodeDrainPlanSpec) -> NodeDrainPlanStatus {
    let index = Index::new(world);
    let names: BTreeSet<_> = asked.nodes.iter().map(String::as_str).collect();
    let on = index.on_nodes(&names);
    let limits = Limits::of(&world.settings());
    // Names as the nodes have them, which live as long as the world.
    let known = |name: &str| index.room(name).map(|room| room.name);
    // Other drains that go on hold with what they ask for.
    let others = world.drains.iter().map(|drain| &**drain).filter(|drain| is_active(drain));
    let floor = Floor::of(asked.min_available.unwrap_or(MIN_AVAILABLE), others, index.rooms.len());
    let task = Task {
        forecasts: &Forecasts::new(world),
        limits,
        nodes: asked.nodes.iter().filter_map(|name| Some((known(name)?, false))).collect(),
        on: &on,
        min_available: floor.nodes,
    };
    let mut found = outlook(&index, &task);
    let nodes = asked.nodes.iter().map(|name| PlannedNode {
        name: name.clone(),
        machines: count(on.get(name.as_str()).map_or(0, Vec::len)),
        waits: found.waiting.contains(&name.as_str()),
        why_not: why_not(known(name).is_some(), found.never.contains(&name.as_str()), limits, floor),
    });
    let nodes: Vec<_> = nodes.collect();
    found.steps.truncate(LISTED);
    let is_possible = found.blocked_count == 0 && nodes.iter().all(|node| node.why_not.is_none());
    NodeDrainPlanStatus {
        machines: nodes.iter().map(|node| node.machines).fold(0, u32::saturating_add),
        concurrency: found.concurrency,
        eta_seconds: found.seconds,
        in_time: asked.deadline_seconds.map(|seconds| is_possible && found.seconds <= u64::from(seconds)),
        nodes,
        steps: found.steps,
        blocked: count(found.blocked_count),
        blocked_machines: found.blocked,
    }
}

/// Why a node cannot be begun, or not be emptied, whatever machines are there.
fn why_not(is_known: bool, is_never_begun: bool, limits: Limits, floor: Floor<'_>) -> Option<String> {
    if !is_known {
        Some("There is no such node.".to_owned())
    } else if is_never_begun {
        Some(format!(
            "{} nodes would not be left that are ready and schedulable{}.",
            floor.nodes,
            floor.whose()
        ))
    } else if limits.cluster == 0 || limits.outbound == 0 || limits.inbound == 0 {
        Some("The settings of the fleet let no migration begin: a limit is 0.".to_owned())
    } else {
        None
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
