//! How nodes are emptied.
//!
//! A drain makes migrations, and never moves anything itself: limits, policies and the way of a migration are as for any other. What it has
//! done is in its status and in labels of its migrations, so that nothing is forgotten when whoever decides is killed. Nodes are begun in
//! order, as many as leave enough that are schedulable; from each as many migrations are asked for as may leave it at a time,
//! and no more, so that what people ask for has its turn in the queue.
//!
//! `step`: what is next for one drain. `end`: how one comes to its end. `obstacle`: why a machine cannot move. `outlook`: the moves to come with their
//! times. `forecast`: how long a move takes. [`plan`]: what would become of a drain that was asked for now.

mod end;
mod forecast;
mod obstacle;
mod outlook;
mod plan;
mod scene;
mod step;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::NodeDrain;

use crate::{Intent, index::Index, world::name_of};

pub use plan::plan;

use scene::Scene;

/// Takes each drain a step further.
pub(crate) fn decide(index: &mut Index<'_>, now: &Time, intents: &mut Vec<Intent>) {
    let world = index.world;
    let mut drains: Vec<&NodeDrain> = world.drains.iter().map(|drain| &**drain).collect();
    // Who came first has the nodes that both need.
    drains.sort_by_key(|drain| (drain.metadata.creation_timestamp.clone(), name_of(&drain.metadata)));
    let (over, active): (Vec<_>, Vec<_>) = drains.into_iter().partition(|drain| is_over(drain));
    for drain in over {
        end::let_go(world, drain, now, intents);
    }
    if active.is_empty() {
        return;
    }
    let mut scene = Scene::new(index, &active);
    for drain in active {
        match end::reason(drain, now) {
            Some(reason) => end::give_up(index, drain, reason, now, intents),
            None => step::advance(index, &mut scene, drain, now, intents),
        }
    }
}

fn is_over(drain: &NodeDrain) -> bool {
    drain.status.as_ref().is_some_and(|status| status.phase().is_final())
}
