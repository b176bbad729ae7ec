//! What migrations would be like, by the word of the engine of the machine, which its agent asks.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use apiserver::Call;
use fleet::{World, way::Ways};
use kube::ResourceExt as _;
use monitor::types::PredictionInfo;
use objects::{
    ForecastMachine, InstancePhase, MigrationForecast, MigrationPlanStatus, NodeFit, VirtualMachineInstance,
};
use tokio::runtime::Handle;

use super::agents::{Agents, of_instance};

/// Speeds of ways that an agent is asked about at a time.
const MAX_WAYS: usize = 4;

/// Adds forecasts to the nodes of a plan that the machine fits on.
///
/// # Errors
/// There are none: a sentence says why.
pub(super) fn add(
    plan: &mut MigrationPlanStatus,
    world: &World,
    instance: &VirtualMachineInstance,
    agents: &Agents,
) -> Result<(), String> {
    let status = instance.status.clone().unwrap_or_default();
    if status.phase() != InstancePhase::Running {
        return Err("the machine does not run yet".to_owned());
    }
    // Its agent may still have a forecast of before.
    if is_moving(world, instance) {
        return Err("it is being migrated: its migration says how far that is".to_owned());
    }
    let values = &plan.migration_configuration;
    let here = status.node_name.clone().unwrap_or_default();
    let ways = Ways::from(world, &here);
    for node in plan.nodes.iter_mut().filter(|node| node.fits) {
        let way = ways.to(&node.name, values);
        node.bandwidth = Some(rounded(way.bandwidth));
        node.bandwidth_basis = Some(way.basis);
    }
    let speeds = asked(&plan.nodes, plan.target_node.as_deref());
    if speeds.is_empty() {
        return Err("no node fits".to_owned());
    }
    let listed: Vec<_> = speeds.iter().map(u64::to_string).collect();
    let limit = values.max_downtime_ms.map(|millis| format!("&downtime-limit={millis}"));
    let query = format!(
        "forecast?bandwidth={}&auto-converge={}&postcopy-ram={}{}",
        listed.join(","),
        values.allow_auto_converge,
        values.allow_post_copy,
        limit.unwrap_or_default()
    );
    let predicted = ask(world, instance, &query, agents)?;
    plan.machine = predicted.first().and_then(|first| first.machine).map(|machine| ForecastMachine {
        memory_bytes: machine.memory,
        empty_bytes: machine.empty,
        working_set_bytes: machine.working_set,
        dirty_rate: machine.dirty_rate,
    });
    for node in &mut plan.nodes {
        // Where its own was not asked about, the next slower one: nothing is foretold that is too good. The forecast is of that speed.
        let asked = node.bandwidth.and_then(|own| speeds.range(..=own).next_back().copied());
        if asked != node.bandwidth {
            (node.bandwidth, node.bandwidth_basis) = (asked, None);
        }
        if let Some(said) = predicted.iter().find(|said| said.bandwidth == node.bandwidth) {
            put(node, said);
        }
    }
    Ok(())
}

/// Whether a migration of the machine is under way.
fn is_moving(world: &World, instance: &VirtualMachineInstance) -> bool {
    world.migrations.iter().any(|migration| {
        let is_its = (migration.namespace(), &*migration.spec.vmi_name)
            == (instance.namespace(), &*instance.name_any());
        is_its && migration.status.as_ref().is_some_and(|status| status.phase().is_under_way())
    })
}

/// The speeds that an agent is asked about: that of the way to the target, the slowest, and those of most nodes.
fn asked(nodes: &[NodeFit], target: Option<&str>) -> BTreeSet<u64> {
    let mut counts = BTreeMap::<u64, usize>::new();
    for speed in nodes.iter().filter_map(|node| node.bandwidth) {
        *counts.entry(speed).or_default() += 1;
    }
    let of_target = nodes.iter().find(|node| Some(node.name.as_str()) == target);
    let first = of_target.and_then(|node| node.bandwidth).into_iter().chain(counts.keys().next().copied());
    let mut others: Vec<_> = counts.iter().collect();
    others.sort_by_key(|(_, count)| Reverse(**count));
    let mut asked = BTreeSet::new();
    for speed in first.chain(others.into_iter().map(|(speed, _)| *speed)) {
        if asked.len() < MAX_WAYS {
            asked.insert(speed);
        }
    }
    asked
}

fn put(node: &mut NodeFit, said: &PredictionInfo) {
    let forecasts = said.modes.iter().map(|mode| MigrationForecast {
        mode: mode.mode.clone(),
        chosen: said.choice.as_ref() == Some(&mode.mode),
        ends: mode.ends,
        total_ms: mode.total_time,
        downtime_ms: mode.downtime,
        transferred_bytes: mode.transferred,
        cpu_seconds: mode.cpu_seconds,
        loss_percent: mode.loss,
        forbidden: mode.forbidden.clone(),
    });
    node.forecasts = forecasts.collect();
    node.forecast_reason.clone_from(&said.reason);
}

/// What the agent of the node says on which the machine is.
fn ask(
    world: &World,
    instance: &VirtualMachineInstance,
    query: &str,
    agents: &Agents,
) -> Result<Vec<PredictionInfo>, String> {
    let errand = of_instance(instance, query)?;
    let is_it = |node: &&std::sync::Arc<_>| {
        let node: &k8s_openapi::api::core::v1::Node = node;
        node.metadata.name.as_ref() == Some(&errand.node)
    };
    let node = world.nodes.iter().find(is_it).and_then(|node| serde_json::to_value(&**node).ok());
    let call = Call::new(errand, node.as_ref(), agents).map_err(|error| error.message)?;
    let runtime = Handle::try_current().map_err(|error| error.to_string())?;
    let fetched = runtime.block_on(call.fetch()).map_err(|error| error.message)?;
    serde_json::from_slice(&fetched.bytes)
        .map_err(|error| format!("its agent says what is no forecast: {error}"))
}

/// To two digits: ways that differ by less are one way.
fn rounded(bandwidth: u64) -> u64 {
    let unit = 10_u64.pow(bandwidth.checked_ilog10().unwrap_or(0).saturating_sub(1));
    (bandwidth / unit * unit).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_and_the_slowest_way_are_asked_about_however_many_there_are() {
        let node = |name: &str, bandwidth| NodeFit {
            name: name.to_owned(),
            bandwidth: Some(bandwidth),
            ..NodeFit::default()
        };
        let all: Vec<_> = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 9), ("g", 4), ("h", 5)]
            .into_iter()
            .map(|(name, speed)| node(name, speed))
            .collect();
        assert_eq!(Vec::from_iter(asked(&all, Some("f"))), [1, 4, 5, 9]);
        assert_eq!(Vec::from_iter(asked(&all[..2], None)), [1, 2]);
        assert!(asked(&[], Some("f")).is_empty());
    }

    #[test]
    fn a_speed_keeps_two_digits_and_is_never_nothing() {
        let all = [0, 1, 99, 101, 250_000_000, 123_456_789, u64::MAX].map(rounded);
        assert_eq!(all, [1, 1, 99, 100, 250_000_000, 120_000_000, 18_000_000_000_000_000_000]);
    }
}
