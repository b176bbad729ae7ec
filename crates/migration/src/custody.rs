//! Who has the pages of a machine: beside [`handover`](crate::handover), which says who may run it.
//!
//! Every page is whole on at least one side whose process lives, until the end:
//!
//! * The source has all of them, as they were when the machine was stopped, and gives none up before the destination has said that
//!   it has every one.
//! * The destination says so only when the last one has come. Until then its machine waits where it touches one that is missing.
//!
//! Nobody counts on what was sent: a page that was on its way when a link was lost may have come or not. Which ones are missing is
//! known to the destination alone, and said anew on each new connection.

/// What the source knows of the pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourcePages {
    /// All are here, and no machine at the destination is known to need them.
    #[default]
    All,
    /// The destination runs the machine, which lacks pages that are here.
    Needed,
    /// The destination has every page, or an operator said that no machine needs them. Final.
    Released,
}

/// What the destination has of the pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DestinationPages {
    /// No machine is here that would need them.
    #[default]
    Nothing,
    /// There is one, and some follow.
    Lacking,
    /// There is one, and all are here. Final as long as the machine is here.
    All,
}

impl SourcePages {
    /// The destination runs the machine. `to_come` pages were to follow.
    #[must_use]
    pub fn runs_there(self, to_come: u64) -> Self {
        match self {
            Self::All if to_come > 0 => Self::Needed,
            Self::All => Self::Released,
            side => side,
        }
    }

    /// The destination says that it has every page, or an operator that no machine needs what is here.
    #[must_use]
    pub fn not_needed(self) -> Self {
        if self == Self::Needed { Self::Released } else { self }
    }
}

impl DestinationPages {
    /// A machine is made of what came. `to_come` pages will follow.
    #[must_use]
    pub fn loaded(self, to_come: u64) -> Self {
        match self {
            Self::Nothing if to_come > 0 => Self::Lacking,
            Self::Nothing => Self::All,
            side => side,
        }
    }

    /// The last page has come.
    #[must_use]
    pub fn last_came(self) -> Self {
        if self == Self::Lacking { Self::All } else { self }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Pages are bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct World {
        source: SourcePages,
        destination: DestinationPages,
        /// What the source believes to be missing, and has not sent.
        to_send: u8,
        on_their_way: u8,
        missing: u8,
        running_on_its_way: bool,
        whole_on_its_way: bool,
    }

    const ALL: u8 = 0b11;

    fn start() -> World {
        World {
            source: SourcePages::All,
            destination: DestinationPages::Nothing.loaded(2),
            to_send: ALL,
            on_their_way: 0,
            missing: ALL,
            running_on_its_way: true,
            whole_on_its_way: false,
        }
    }

    /// Everything that can happen next to a machine that runs at the destination.
    fn next(world: World) -> Vec<World> {
        let mut worlds = Vec::new();
        let lost = World { on_their_way: 0, running_on_its_way: false, whole_on_its_way: false, ..world };
        // The destination is found again, and asked.
        let source = world.source.runs_there(2);
        worlds.push(World { source, to_send: world.missing, ..lost });
        worlds.push(lost);
        if world.running_on_its_way {
            worlds.push(World { source, running_on_its_way: false, ..world });
        }
        for page in [0b01, 0b10] {
            if world.to_send & page != 0 {
                let on_their_way = world.on_their_way | page;
                worlds.push(World { to_send: world.to_send & !page, on_their_way, ..world });
            }
            if world.on_their_way & page != 0 {
                let missing = world.missing & !page;
                let destination =
                    if missing == 0 { world.destination.last_came() } else { world.destination };
                let on_their_way = world.on_their_way & !page;
                worlds.push(World { on_their_way, missing, destination, ..world });
            }
        }
        if world.destination == DestinationPages::All {
            worlds.push(World { whole_on_its_way: true, ..world });
        }
        if world.whole_on_its_way {
            worlds.push(World { source: world.source.not_needed(), whole_on_its_way: false, ..world });
        }
        worlds
    }

    fn reachable() -> HashSet<World> {
        let (mut seen, mut todo) = (HashSet::from([start()]), vec![start()]);
        while let Some(world) = todo.pop() {
            todo.extend(next(world).into_iter().filter(|world| seen.insert(*world)));
        }
        seen
    }

    #[test]
    fn in_every_reachable_world_what_is_missing_is_at_the_source() {
        let worlds = reachable();
        assert!(worlds.len() > 40, "the exploration must reach more than {} worlds", worlds.len());
        for world in &worlds {
            assert!(world.missing == 0 || world.source != SourcePages::Released, "{world:?}");
            assert_eq!(world.destination == DestinationPages::All, world.missing == 0, "{world:?}");
        }
        assert!(worlds.iter().any(|world| world.source == SourcePages::Released));
    }

    #[test]
    fn from_every_reachable_world_all_pages_come_once_the_sides_can_talk() {
        for world in reachable() {
            let asked = World { source: world.source.runs_there(2), to_send: world.missing, ..world };
            let mut world = World { missing: world.missing & !asked.to_send, ..asked };
            if world.missing == 0 {
                world.destination = world.destination.last_came();
            }
            assert_eq!(world.destination, DestinationPages::All);
            assert_eq!(world.source.not_needed(), SourcePages::Released);
        }
    }

    #[test]
    fn what_no_machine_at_the_destination_is_known_to_need_is_not_released_by_its_word() {
        assert_eq!(SourcePages::All.not_needed(), SourcePages::All);
        assert_eq!(DestinationPages::Nothing.last_came(), DestinationPages::Nothing);
    }
}
