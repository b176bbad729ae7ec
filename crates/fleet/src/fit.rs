//! Whether a machine can run on a node, with every reason why not.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use objects::{AGENT_CONDITION, GROUP, VirtualMachineInstance};

use crate::{
    World,
    world::{name_of, uid_of},
};

/// One reason why a machine cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Its agent is not heard of.
    NotReady,
    /// Nothing new shall come here.
    Cordoned,
    /// The machine runs there already.
    IsThere,
    /// A label that is asked for is another one, or is missing.
    Label {
        /// Its name.
        name: String,
        /// What is asked for.
        wanted: String,
        /// What the node has.
        found: Option<String>,
    },
    /// There is too little memory; of huge pages where the machine wants these.
    Memory {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that nobody has.
        free: u64,
        /// Whether it is about huge pages.
        huge: bool,
    },
    /// There are too few processors for a machine of this size.
    Cpus {
        /// That it has.
        needed: u64,
        /// That the node has.
        there: u64,
    },
    /// As many migrations as may come are coming.
    InboundLimit(u32),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("its agent is not heard of"),
            Self::Cordoned => f.write_str("it is cordoned"),
            Self::IsThere => f.write_str("the machine runs there"),
            Self::Label { name, wanted, found: None } => write!(f, "it has no label {name}={wanted}"),
            Self::Label { name, wanted, found: Some(found) } => {
                write!(f, "its label {name} is {found}, not {wanted}")
            }
            Self::Memory { needed, free, huge } => {
                let what = if *huge { "memory in huge pages" } else { "memory" };
                write!(f, "{} MiB of {what} are free, {} MiB are needed", free >> 20, needed >> 20)
            }
            Self::Cpus { needed, there } => write!(f, "it has {there} processors, {needed} are needed"),
            Self::InboundLimit(limit) => write!(f, "{limit} migrations come there already"),
        }
    }
}

/// How a machine fits on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The node.
    pub node: String,
    /// Why not; it fits if there is nothing here.
    pub misfits: Vec<Misfit>,
    /// Bytes of memory that are free there now.
    pub free: u64,
}

/// How a machine fits on each node, with labels that are asked for beside its own.
pub fn fits(world: &World, instance: &VirtualMachineInstance, added: &BTreeMap<String, String>) -> Vec<Fit> {
    world.nodes.iter().map(|node| fit(world, node, instance, added)).collect()
}

fn fit(
    world: &World,
    node: &Node,
    instance: &VirtualMachineInstance,
    added: &BTreeMap<String, String>,
) -> Fit {
    let name = name_of(&node.metadata);
    let mut misfits = Vec::new();
    if !is_ready(node) {
        misfits.push(Misfit::NotReady);
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        misfits.push(Misfit::Cordoned);
    }
    if instance.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(name) {
        misfits.push(Misfit::IsThere);
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (label, wanted) in instance.spec.node_selector.iter().chain(added) {
        let found = labels.get(label);
        if found != Some(wanted) {
            misfits.push(Misfit::Label {
                name: label.clone(),
                wanted: wanted.clone(),
                found: found.cloned(),
            });
        }
    }
    let huge = instance.spec.domain.memory.hugepages.is_some();
    let needed = memory_of(instance);
    let free = capacity(node, if huge { "hugepages-2Mi" } else { "memory" })
        .saturating_sub(taken(world, name, huge));
    if needed > free {
        misfits.push(Misfit::Memory { needed, free, huge });
    }
    let there = capacity(node, "cpu");
    let cores = u64::from(instance.spec.domain.cpu.cores);
    // More machines than processors is a matter of taste, a machine with more of them than its node has is not.
    if cores > there {
        misfits.push(Misfit::Cpus { needed: cores, there });
    }
    Fit { node: name.to_owned(), misfits, free }
}

/// Every node with all its reasons, as one sentence.
pub fn explain(fits: &[Fit]) -> String {
    if fits.is_empty() {
        return "There are no nodes.".to_owned();
    }
    let nodes = fits.iter().map(|fit| {
        let reasons: Vec<_> = fit.misfits.iter().map(ToString::to_string).collect();
        format!("{}: {}", fit.node, if reasons.is_empty() { "fits".to_owned() } else { reasons.join(", ") })
    });
    format!("{}.", nodes.collect::<Vec<_>>().join("; "))
}

/// Bytes of memory that a machine has.
pub fn memory_of(instance: &VirtualMachineInstance) -> u64 {
    instance.spec.domain.memory.guest.bytes().unwrap_or(0)
}

/// Whether a node's agent is heard of.
pub fn is_ready(node: &Node) -> bool {
    let Some(kind) = agent_condition(node) else { return false };
    conditions(node).any(|condition| condition.type_ == kind && condition.status == "True")
}

/// The condition of a node that says whether its agent lives; `None` where there was never one: a kubelet's node says of the kubelet only
/// whether it is ready.
pub(crate) fn agent_condition(node: &Node) -> Option<&'static str> {
    if conditions(node).any(|condition| condition.type_ == AGENT_CONDITION) {
        return Some(AGENT_CONDITION);
    }
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    // Versions of a kubelet are as `v1.33.1`, ours are as `whimbrel-0.1.0`.
    let is_kubelets = info.is_some_and(|info| info.kubelet_version.starts_with('v'));
    (!is_kubelets).then_some("Ready")
}

fn conditions(node: &Node) -> impl Iterator<Item = &NodeCondition> {
    node.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten()
}

/// How much of a resource machines may have: by the word of the agent where there is a kubelet, which speaks of pods, beside it.
fn capacity(node: &Node, resource: &str) -> u64 {
    let all = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let found = all.and_then(|all| all.get(&format!("{GROUP}/{resource}")).or_else(|| all.get(resource)));
    found.and_then(|quantity| objects::Quantity::from(quantity.0.as_str()).bytes().ok()).unwrap_or(0)
}

/// Bytes that machines on a node have, and those that are on their way there.
fn taken(world: &World, node: &str, huge: bool) -> u64 {
    let counts = |instance: &VirtualMachineInstance| instance.spec.domain.memory.hugepages.is_some() == huge;
    let there = world.instances.iter().filter(|instance| {
        instance
            .status
            .as_ref()
            .is_some_and(|status| status.node_name.as_deref() == Some(node) && !status.phase().is_final())
    });
    let coming = world.migrations.iter().filter_map(|migration| {
        let status = migration.status.as_ref().filter(|status| status.phase().is_under_way())?;
        let state =
            status.migration_state.as_ref().filter(|state| state.target_node.as_deref() == Some(node))?;
        let namespace = crate::world::namespace_of(&migration.metadata);
        let instance = world.instance(namespace, &migration.spec.vmi_name)?;
        // Once it has arrived it is counted there.
        let is_there = instance.status.as_ref().and_then(|status| status.node_name.as_ref())
            == state.target_node.as_ref();
        (!is_there && !uid_of(&instance.metadata).is_empty()).then_some(instance)
    });
    there.chain(coming).filter(|instance| counts(instance)).map(memory_of).fold(0, u64::saturating_add)
}
