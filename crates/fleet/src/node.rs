use std::collections::HashMap;

use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::Time,
};
use objects::LEASE_LABEL;

use crate::{
    Intent, Note, World,
    kubelet::{agent_condition, is_ready},
    world::{name_of, uid_of},
};

/// How long an agent may be silent, in seconds, before its node counts as not ready. It renews its lease four times in that time.
pub const NODE_LEASE_SECONDS: i64 = 40;

/// A node whose agent is not heard of is not ready. That says nothing about its machines: they run on, and nothing of them is started
/// elsewhere.
pub(crate) fn decide(world: &World, now: &Time, intents: &mut Vec<Intent>) {
    let (own, others): (Vec<_>, Vec<_>) =
        world.leases.iter().map(|lease| &**lease).partition(|lease| is_agents(lease));
    // The last one of a name stays.
    let leases: HashMap<_, _> =
        others.into_iter().chain(own).map(|lease| (name_of(&lease.metadata), lease)).collect();
    let is_silent = |node: &Node| is_old(world, leases.get(name_of(&node.metadata)).copied(), now);
    for node in world.nodes.iter().filter(|node| is_ready(node) && is_silent(node)) {
        let mut silent = Node::clone(node);
        let ready = agent_condition(node);
        let conditions = silent.status.as_mut().and_then(|status| status.conditions.as_mut());
        for condition in conditions.into_iter().flatten().filter(|one| Some(one.type_.as_str()) == ready) {
            condition.status = "Unknown".to_owned();
            condition.reason = Some("NotReady".to_owned());
            condition.message = Some(format!(
                "Its agent has not been heard of for {NODE_LEASE_SECONDS} s. Its machines may run; nothing of them is started elsewhere."
            ));
            condition.last_transition_time = Some(now.clone());
        }
        intents.push(Intent::SetNodeStatus(Box::new(silent)));
        intents.push(Intent::Record(Note {
            kind: "Node",
            namespace: "default".to_owned(),
            name: name_of(&node.metadata).to_owned(),
            uid: uid_of(&node.metadata).to_owned(),
            reason: "NodeNotReady",
            message: format!("The agent of node {} is not heard of", name_of(&node.metadata)),
            is_warning: true,
        }));
    }
}

/// Whether the agent of a node of that name is heard of, by its condition and by its lease: the condition may be older.
pub(crate) fn is_heard(world: &World, name: Option<&str>, now: &Time) -> bool {
    let node = world.nodes.iter().find(|node| node.metadata.name.as_deref() == name);
    node.is_some_and(|node| is_ready(node) && !is_silent(world, node, now))
}

fn is_silent(world: &World, node: &Node, now: &Time) -> bool {
    let named = || world.leases.iter().filter(|lease| lease.metadata.name == node.metadata.name);
    let lease = named().find(|lease| is_agents(lease)).or_else(|| named().next());
    is_old(world, lease.map(|lease| &**lease), now)
}

/// Whether an agent says that it is its own: a kubelet's lease has the name of its node too. One of a release before has no label; where there is
/// no other, that is the agent's.
fn is_agents(lease: &Lease) -> bool {
    lease.metadata.labels.as_ref().is_some_and(|all| all.contains_key(LEASE_LABEL))
}

fn is_old(world: &World, lease: Option<&Lease>, now: &Time) -> bool {
    let said = lease.and_then(|lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0));
    let heard = lease.and_then(|lease| Some(world.heard.get(lease.metadata.uid.as_deref()?)?.0));
    // A clock that was set back makes nobody silent.
    heard.or(said).is_some_and(|renewed| now.0.duration_since(renewed).as_secs() > NODE_LEASE_SECONDS)
}
