//! Who may run the machine: the agreement at the heart of a migration, and nothing else.
//!
//! The rule is that at every moment at most one side may run the machine:
//!
//! * The source may run it until it has said *go*; after that only if the destination said that it did not run it and
//!   never will.
//! * The destination may run it only after it heard *go*, and only if it did not give the session up before.
//!
//! The last message of an agreement can always be lost, and no time-out can then tell what the other side did (the two
//! generals' problem). So a source that has said *go* and heard nothing is in [`SourceSide::Committed`], runs nothing, and
//! asks again; a destination that loses its link before *go* gives up for good, so that the answer to the question is always
//! one of the two.

/// What the source may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceSide {
    /// The machine is the source's, running or stopped.
    Owner,
    /// *Go* was said; what the destination made of it is not known yet.
    Committed,
    /// The destination runs it. Final.
    Released,
}

/// What the destination may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationSide {
    /// Not everything is here, or not loaded.
    Preparing,
    /// Loaded, checked, locked: *ready* was said.
    Ready,
    /// *Go* was heard: it runs the machine. Final, unless the machine cannot be started at all.
    Owner,
    /// It gave the session up, and will never run the machine in it. Final.
    GivenUp,
}

/// What the source learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The destination runs it.
    Running,
    /// The destination does not, and never will.
    NotRunning,
    /// The destination does not know.
    Unknown,
}

impl SourceSide {
    /// Whether the machine may run at the source.
    #[must_use]
    pub fn may_run(self) -> bool {
        self == Self::Owner
    }

    /// Says *go*. Returns the new side, or `None` when *go* must not be said now: it is said once.
    #[must_use]
    pub fn commit(self) -> Option<Self> {
        (self == Self::Owner).then_some(Self::Committed)
    }

    /// Hears what the destination did.
    #[must_use]
    pub fn learn(self, answer: Answer) -> Self {
        match (self, answer) {
            (Self::Committed, Answer::Running) => Self::Released,
            (Self::Committed, Answer::NotRunning) => Self::Owner,
            (side, _) => side,
        }
    }
}

impl DestinationSide {
    /// Whether the machine may run at the destination.
    #[must_use]
    pub fn may_run(self) -> bool {
        self == Self::Owner
    }

    /// Everything is here, loaded and locked.
    #[must_use]
    pub fn ready(self) -> Self {
        if self == Self::Preparing { Self::Ready } else { self }
    }

    /// Hears *go*.
    #[must_use]
    pub fn go(self) -> Self {
        if self == Self::Ready { Self::Owner } else { self }
    }

    /// The link was lost, the attempt was aborted, or this side failed.
    #[must_use]
    pub fn give_up(self) -> Self {
        if self == Self::Owner { Self::Owner } else { Self::GivenUp }
    }

    /// Could not start the machine after *go*. Only true while not a single instruction of it ran here.
    #[must_use]
    pub fn could_not_start(self) -> Self {
        if self == Self::Owner { Self::GivenUp } else { self }
    }

    /// Is asked what became of the session. Whoever asks has lost the link, so a side that does not run gives up first:
    /// otherwise a *go* that is still on its way could make the answer untrue.
    #[must_use]
    pub fn asked(self) -> (Self, Answer) {
        match self.give_up() {
            Self::Owner => (Self::Owner, Answer::Running),
            side => (side, Answer::NotRunning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct World {
        source: SourceSide,
        destination: DestinationSide,
        go_on_its_way: bool,
        ready_on_its_way: bool,
        answer_on_its_way: Option<Answer>,
    }

    /// Everything that can happen next: any message in flight is delivered, lost, or a side acts on its own.
    fn next(world: World) -> Vec<World> {
        let mut worlds = Vec::new();
        worlds.push(World { destination: world.destination.ready(), ready_on_its_way: true, ..world });
        worlds.push(World { destination: world.destination.give_up(), ..world });
        worlds.push(World {
            go_on_its_way: false,
            ready_on_its_way: false,
            answer_on_its_way: None,
            ..world
        });
        if world.ready_on_its_way
            && let Some(source) = world.source.commit()
        {
            worlds.push(World { source, ready_on_its_way: false, go_on_its_way: true, ..world });
        }
        if world.go_on_its_way {
            worlds.push(World { destination: world.destination.go(), go_on_its_way: false, ..world });
        }
        // A question may overtake a go that is still on its way on the old connection.
        if world.source == SourceSide::Committed {
            let (destination, answer) = world.destination.asked();
            worlds.push(World { destination, answer_on_its_way: Some(answer), ..world });
        }
        if let Some(answer) = world.answer_on_its_way {
            worlds.push(World { source: world.source.learn(answer), answer_on_its_way: None, ..world });
        }
        worlds
    }

    fn reachable() -> std::collections::HashSet<World> {
        let start = World {
            source: SourceSide::Owner,
            destination: DestinationSide::Preparing,
            go_on_its_way: false,
            ready_on_its_way: false,
            answer_on_its_way: None,
        };
        let (mut seen, mut todo) = (std::collections::HashSet::from([start]), vec![start]);
        while let Some(world) = todo.pop() {
            for world in next(world) {
                if seen.insert(world) {
                    todo.push(world);
                }
            }
        }
        seen
    }

    #[test]
    fn in_every_reachable_world_at_most_one_side_may_run() {
        let worlds = reachable();
        assert!(worlds.len() > 20, "the exploration must reach more than {} worlds", worlds.len());
        for world in worlds {
            assert!(!(world.source.may_run() && world.destination.may_run()), "{world:?}");
        }
    }

    #[test]
    fn while_they_can_talk_exactly_one_side_comes_to_run() {
        for world in reachable().into_iter().filter(|world| world.source == SourceSide::Committed) {
            let (destination, answer) = world.destination.asked();
            let source = world.source.learn(answer);
            assert!(
                source.may_run() ^ destination.may_run(),
                "{world:?} ended as {source:?}, {destination:?}"
            );
        }
    }
}
