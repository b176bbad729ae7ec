//! What is seen of a hand-over from outside, in the engine and in the model, and whether the model can do it.

use std::collections::HashSet;

use stateright::Model as _;

use crate::{
    arrival::Chore,
    source::{Duty, Ending},
    world::{How, Model, Step, World},
};

/// What a machine was asked, and what it answered; in the order in which it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Seen {
    Starts,
    Stops {
        well: bool,
    },
    /// Device states are saved and sent, and the disk is given up.
    GivesTheDiskUp,
    IsTakenBack {
        well: bool,
    },
    Ends(Ending),
    IsChecked {
        well: bool,
    },
    /// States are loaded, and the disk is held.
    IsLoaded {
        well: bool,
    },
    Runs {
        well: bool,
    },
    IsDiscarded,
}

/// How `step` is seen in `world`, if at all.
fn seen(world: &World, step: Step) -> Option<Seen> {
    match step {
        Step::OperatorStarts => Some(Seen::Starts),
        Step::SourceDoes(how) => {
            let well = how == How::Well;
            match world.origin.as_ref()?.attempt.as_ref()?.todo.front()? {
                Duty::Stop => Some(Seen::Stops { well }),
                Duty::SaveDevices => well.then_some(Seen::GivesTheDiskUp),
                Duty::Resume { .. } => Some(Seen::IsTakenBack { well }),
                Duty::End(ending) => Some(Seen::Ends(*ending)),
                _ => None,
            }
        }
        Step::DestinationDoes(how) => {
            let well = how == How::Well;
            match world.arrival.as_ref()?.todo.front()? {
                Chore::Check(_) => Some(Seen::IsChecked { well }),
                Chore::Load { .. } => Some(Seen::IsLoaded { well }),
                Chore::Run { .. } => Some(Seen::Runs { well }),
                Chore::Discard => Some(Seen::IsDiscarded),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Follows `trail` through the model, in all ways at once. Returns how many worlds it may have led to.
///
/// # Errors
/// No way goes on: how much of the trail can be followed.
pub(crate) fn follow(model: &Model, trail: &[Seen]) -> Result<usize, usize> {
    let mut worlds: HashSet<World> = model.init_states().into_iter().collect();
    for (index, &next) in trail.iter().enumerate() {
        worlds = after(model, &unseen(model, worlds), next);
        if worlds.is_empty() {
            return Err(index);
        }
    }
    Ok(worlds.len())
}

/// All worlds that `worlds` may become without anything being seen.
fn unseen(model: &Model, worlds: HashSet<World>) -> HashSet<World> {
    let mut todo: Vec<_> = worlds.iter().cloned().collect();
    let mut known = worlds;
    while let Some(world) = todo.pop() {
        for (step, next) in model.next_steps(&world) {
            if seen(&world, step).is_none() && known.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
    known
}

fn after(model: &Model, worlds: &HashSet<World>, what: Seen) -> HashSet<World> {
    let steps =
        worlds.iter().flat_map(|world| model.next_steps(world).into_iter().map(move |step| (world, step)));
    steps.filter(|(world, (step, _))| seen(world, *step) == Some(what)).map(|(_, (_, next))| next).collect()
}
