//! A drain as text.

use std::time::Duration;

use objects::{
    BlockedMachine, DrainStep, ForecastBasis, NodeDrainPhase, NodeDrainPlanStatus, NodeDrainProgress,
    NodeDrainStatus, condition,
};

use crate::rig::{Memory, Span};

/// Moves that are shown.
const SHOWN: usize = 40;

/// A plan, with its moves.
pub(super) fn plan(plan: &NodeDrainPlanStatus) {
    if !plan.steps.is_empty() {
        output::say!("BEGINS   TAKES    MACHINE                   MEMORY    FROM        TO");
    }
    for step in plan.steps.iter().take(SHOWN) {
        let DrainStep { namespace, name, source_node, target_node, .. } = step;
        let again = if step.ended {
            ": its run is ended, and another begins there, where its runStrategy says so"
        } else if step.moves_again {
            ", from where it moves again: no other node takes it"
        } else {
            ""
        };
        output::say!(
            "{:8} {:8} {:25} {:9} {source_node:11} {target_node}{again}",
            format!("{} s", step.start_seconds),
            format!("{} s", step.seconds),
            format!("{namespace}/{name}"),
            Memory(step.memory_bytes).to_string()
        );
    }
    if plan.steps.len() > SHOWN {
        output::say!("… and {} more", plan.steps.len() - SHOWN);
    }
    summary(plan);
}

/// What a plan comes to, and what stands in its way.
pub(super) fn summary(plan: &NodeDrainPlanStatus) {
    let movable = plan.machines.saturating_sub(plan.blocked);
    let basis = match plan.steps.first().map(|step| step.basis) {
        Some(ForecastBasis::Assumed) => ", taking 250 MB/s for granted",
        _ => "",
    };
    output::say!(
        "{movable} of {} machines move, {} at a time, in about {}{basis}.",
        plan.machines,
        plan.concurrency,
        Span(Duration::from_secs(plan.eta_seconds))
    );
    for node in plan.nodes.iter().filter(|node| node.waits) {
        output::say!("{} is begun when an earlier node is uncordoned.", node.name);
    }
    for node in &plan.nodes {
        if let Some(why) = &node.why_not {
            output::say!("{} cannot be emptied: {why}", node.name);
        }
    }
    blocked(&plan.blocked_machines);
    if plan.in_time == Some(false) {
        output::say!("The nodes are not empty before the deadline.");
    }
}

/// Machines that cannot move.
pub(super) fn blocked(machines: &[BlockedMachine]) {
    for machine in machines.iter().take(SHOWN) {
        output::say!(
            "{}/{} cannot leave {}: {}",
            machine.namespace,
            machine.name,
            machine.node,
            machine.message
        );
    }
}

/// Where a drain stands, on a line.
pub(super) fn line(status: &NodeDrainStatus) -> String {
    let nodes: Vec<_> = status.nodes.iter().map(node).collect();
    let eta =
        status.eta_seconds.map(|seconds| format!(", about {} to go", Span(Duration::from_secs(seconds))));
    let blocked =
        if status.blocked > 0 { format!(", {} cannot move", status.blocked) } else { String::new() };
    format!(
        "{:?}: {} moved, {} moving, {} left{blocked}{}; {}",
        status.phase(),
        status.moved,
        status.moving,
        status.left,
        eta.unwrap_or_default(),
        nodes.join(", ")
    )
}

fn node(node: &NodeDrainProgress) -> String {
    match (node.phase, &node.message) {
        (NodeDrainPhase::Waiting, Some(why)) => format!("{} waits: {}", node.name, why.trim_end_matches('.')),
        (NodeDrainPhase::Waiting, None) => format!("{} waits", node.name),
        (NodeDrainPhase::Draining, _) => format!("{} has {}", node.name, node.left),
        (NodeDrainPhase::Drained, _) => format!("{} is empty", node.name),
    }
}

/// What came of a drain, in a sentence.
pub(super) fn verdict(status: &NodeDrainStatus) -> String {
    let complete = condition(&status.conditions, "Complete").and_then(|condition| condition.message.clone());
    complete.unwrap_or_default()
}
