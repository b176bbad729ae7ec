//! What a node says of itself: by the word of its agent, which may have a kubelet beside it that speaks of pods.

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use objects::{AGENT_CONDITION, GROUP};

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

/// How much of a resource machines may have.
pub(crate) fn allocatable(node: &Node, resource: &str) -> u64 {
    let all = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let found = all.and_then(|all| all.get(&format!("{GROUP}/{resource}")).or_else(|| all.get(resource)));
    found.and_then(|quantity| objects::Quantity::from(quantity.0.as_str()).bytes().ok()).unwrap_or(0)
}

/// Whether nothing new is placed on a node.
pub(crate) fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

fn conditions(node: &Node) -> impl Iterator<Item = &NodeCondition> {
    node.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten()
}
