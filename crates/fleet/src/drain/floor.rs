//! How many nodes must stay in use.

use objects::{MIN_AVAILABLE, NodeDrain};

use crate::world::name_of;

/// Nodes of the fleet that stay ready and schedulable, and by whose word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Floor<'a> {
    /// How many.
    pub(super) nodes: usize,
    /// The other drain that asks for so many; `None` where the drain itself does.
    pub(super) asked_by: Option<&'a str>,
}

impl<'a> Floor<'a> {
    /// What holds for a drain that asks for `own` in a fleet of so many nodes: the most that it or one of the others asks for. What cannot be is
    /// no word for others: with as many nodes as the fleet has, or more, not one could ever be begun.
    pub(super) fn of(own: u32, others: impl Iterator<Item = &'a NodeDrain>, fleet: usize) -> Self {
        let own = Self { nodes: wide(own), asked_by: None };
        let others = others
            .map(|other| Self { nodes: min_available(other), asked_by: Some(name_of(&other.metadata)) });
        let possible = others.filter(|other| other.nodes < fleet);
        // Of several that ask for the same the drain itself is named, then the first.
        possible.fold(own, |most, other| if other.nodes > most.nodes { other } else { most })
    }

    /// Whether the fleet has too few nodes for one of them to be begun, even if all of them were in use.
    pub(super) fn is_impossible(self, fleet: usize) -> bool {
        self.nodes >= fleet
    }

    /// By whose word, as the rest of a sentence.
    pub(super) fn whose(self) -> String {
        self.asked_by.map(|drain| format!(", as drain {drain} asks")).unwrap_or_default()
    }
}

/// Nodes that a drain asks to stay ready and schedulable while it goes on.
fn min_available(drain: &NodeDrain) -> usize {
    wide(drain.spec.min_available.unwrap_or(MIN_AVAILABLE))
}

fn wide(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
