//! How nodes are emptied.
//!
//! A drain makes migrations, and never moves anything itself: limits, policies and the way of a migration are as for any other. What it has
//! done is in its status and in labels of its migrations, so that nothing is forgotten when whoever decides is killed. Nodes are begun in
//! order, as many as leave enough that are schedulable; from each as many migrations are asked for as may leave it at a time,
//! and no more, so that what people ask for has its turn in the queue.
//!
//! `step`: what is next for one drain. `floor`: how many nodes stay in use. `reason`: why one is given up. `end`: how one comes to its end. `obstacle`: why a machine cannot move. `outlook`: the moves to come with their
//! times. `forecast`: how long a move takes. [`plan`]: what would become of a drain that was asked for now.

mod end;
mod floor;
mod forecast;
mod next_runs;
mod obstacle;
mod outlook;
mod plan;
mod reason;
mod scene;
mod step;
mod words;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{NodeDrain, VirtualMachineInstance, VirtualMachineInstanceMigration};

use crate::{
    Intent, World, admission,
    index::{Index, coming_to, leaving, runs_on},
    world::name_of,
};

pub use plan::plan;

use scene::Scene;

/// Seconds after which a drain that cannot be begun as things are is refused.
const REFUSE_SECONDS: i64 = 10;

/// Takes each drain a step further.
pub(crate) fn decide(index: &mut Index<'_>, now: &Time, intents: &mut Vec<Intent>) {
    let world = index.world;
    let mut drains: Vec<&NodeDrain> = world.drains.iter().map(|drain| &**drain).collect();
    drains.sort_by_cached_key(|drain| place(drain));
    let (over, active): (Vec<_>, Vec<_>) = drains.into_iter().partition(|drain| is_over(drain));
    for drain in over {
        end::let_go(world, drain, now, intents);
    }
    if active.is_empty() {
        return;
    }
    let active = admitted(world, active, now, intents);
    next_runs::take_room(index, intents);
    let mut scene = Scene::new(index, &active, now);
    for drain in active {
        match reason::reason(drain, now) {
            Some(reason) => end::give_up(index, &scene, drain, reason, now, intents),
            None => step::advance(index, &mut scene, drain, now, intents),
        }
    }
}

/// Drains that are held and have nothing wrong with them. One that was begun is admitted, whatever becomes of its nodes; of others those that
/// came first have the nodes that they name.
fn admitted<'a>(
    world: &World,
    drains: Vec<&'a NodeDrain>,
    now: &Time,
    intents: &mut Vec<Intent>,
) -> Vec<&'a NodeDrain> {
    let is_begun =
        |drain: &&NodeDrain| drain.status.as_ref().is_some_and(|status| status.start_timestamp.is_some());
    let mut admitted: Vec<_> = drains.iter().copied().filter(is_begun).collect();
    for drain in drains.into_iter().filter(|drain| !is_begun(drain)) {
        let is_ending = reason::reason(drain, now).is_some();
        if !is_ending && !admission::is_drain_held(drain) {
            continue;
        }
        match admission::refused_drain(world, drain, &admitted).filter(|_| !is_ending) {
            None => admitted.push(drain),
            Some(why) if is_old(drain, now) => end::refuse(drain, &why, now, intents),
            Some(_) => {}
        }
    }
    admitted.sort_by_cached_key(|drain| place(drain));
    admitted
}

/// Whether everything is heard of that was there when a drain was made: a node may be heard of after the drain that names it.
fn is_old(drain: &NodeDrain, now: &Time) -> bool {
    let age = |made: &Time| now.0.duration_since(made.0).as_secs();
    drain.metadata.creation_timestamp.as_ref().is_none_or(|made| age(made) >= REFUSE_SECONDS)
}

/// Who came first has the nodes that both need.
fn place(drain: &NodeDrain) -> (Option<Time>, String) {
    (drain.metadata.creation_timestamp.clone(), name_of(&drain.metadata).to_owned())
}

/// The first of some nodes that a machine is on, or that a migration under way comes from or goes to.
///
/// Each kind of object is heard of by itself, so that a node may be seen cordoned before a machine that was put there is seen. To be sure
/// of a node that is found empty and cordoned, objects are to be read that are not older than its cordon.
pub fn occupied<'n>(
    nodes: &'n [String],
    instances: &[VirtualMachineInstance],
    migrations: &[VirtualMachineInstanceMigration],
) -> Option<&'n str> {
    let is_occupied = |node: &str| {
        instances.iter().any(|instance| runs_on(instance) == Some(node))
            || migrations.iter().any(|one| [leaving(one), coming_to(one)].contains(&Some(node)))
    };
    nodes.iter().map(String::as_str).find(|node| is_occupied(node))
}

fn is_over(drain: &NodeDrain) -> bool {
    drain.status.as_ref().is_some_and(|status| status.phase().is_final())
}
