//! What is claimed of every world that can come about, and what must come about for the claims to mean something.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use stateright::{Expectation, Property};
use whimbrel_migration::{
    Status,
    custody::{DestinationPages, SourcePages},
    handover::{DestinationSide, SourceSide},
    source::State,
};

use crate::{
    arrival::{Arrival, There},
    network::Side,
    origin::Guest,
    source::{Duty, Ending},
    words::{Packet, Word},
    world::{Lock, Model, NO_PANIC, World},
};

pub(crate) const NEVER_TWO: &str = "never is the machine at both sides";
pub(crate) const NO_WAY_BACK: &str = "what ran at the destination never runs at the source again";
pub(crate) const LOCKED: &str = "whoever runs the machine holds its disk";
pub(crate) const GO_ONCE: &str = "go is said once in a session";
pub(crate) const AS_DECIDED: &str = "a side has the machine only if the state machine says that it may";
pub(crate) const HONEST: &str = "a machine that is stopped has a migration that says so";
pub(crate) const KEPT: &str = "what the machine lacks is kept at the source while its process lives";
pub(crate) const TRULY_WHOLE: &str = "the destination says that it has every page only when it has";
pub(crate) const ONCE: &str = "no page is written over that the machine has";
pub(crate) const AT_FULL_SPEED: &str = "a machine is slowed down only while rounds of it are sent";
pub(crate) const SETTLES: &str = "left alone, both alive, exactly one side comes to have the machine";

/// Everything that `model` is explored for.
pub(crate) fn of(model: &Model) -> Vec<Property<Model>> {
    let mut all = claims();
    all.extend(examples());
    if model.attempts > 1 {
        all.push(sometime("a second attempt arrives after a first that failed", |_, world| {
            world.sessions == 2 && world.there() == There::Running
        }));
    }
    if model.kills > 0 {
        all.push(sometime("a destination that was started anew does not know the session", |_, world| {
            is_on_its_way_to_source(world, Word::UnknownSession) && world.history.is_forgotten
        }));
    }
    if model.postcopy.is_possible() {
        all.extend(examples_with_postcopy());
    }
    if model.throttles {
        all.push(sometime("a machine that is slowed down moves", |_, world| {
            state_is(world, |state| matches!(state, State::Sending(rounds) if rounds.round == 2))
                && is_slowed(world)
        }));
    }
    if model.partings > 1 {
        all.push(sometime("a channel of one recovery comes in the next", a_channel_comes_late));
    }
    if model.forgets {
        all.push(sometime("a machine that starts anew needs no page, and its source is gone", |_, world| {
            world.there() == There::Running
                && is_gone(world)
                && world.arrival.as_ref().is_some_and(|arrival| arrival.has_forgotten)
        }));
    }
    if model.postcopy.is_possible() && model.kills > 0 {
        all.push(sometime("a destination with pages missing dies", |_, world| {
            state_is(world, |state| matches!(state, State::Recovering { .. })) && world.history.is_forgotten
        }));
    }
    if model.locks {
        all.push(sometime("the source waits for its disk", |_, world| {
            state_is(world, |state| matches!(state, State::Resuming { retry_at: Some(_), .. }))
                && world.lock == Lock::Held(Side::Destination)
        }));
    }
    all
}

fn claims() -> Vec<Property<Model>> {
    vec![
        always(NEVER_TWO, |_, world| !(world.source_has() && world.destination_has())),
        always(NO_WAY_BACK, |_, world| !(world.source_has() && world.history.ran_there)),
        always(LOCKED, who_runs_holds_the_lock),
        always(GO_ONCE, |_, world| world.history.goes <= 1),
        always(AS_DECIDED, is_as_decided),
        always(HONEST, is_honest),
        always(KEPT, |_, world| !lacks_pages(world) || world.origin.is_none() || is_kept(world)),
        always(TRULY_WHOLE, |_, world| !lacks_pages(world) || !is_said_to_be_whole(world)),
        always(ONCE, |_, world| !world.history.is_overwritten),
        always(AT_FULL_SPEED, is_at_full_speed),
        always(SETTLES, settles),
    ]
}

/// Without these the claims would hold of a migration that never gets anywhere.
fn examples() -> Vec<Property<Model>> {
    vec![
        sometime("it moves", |_, world| world.there() == There::Running && is_gone(world)),
        sometime("a cancel comes after ready", |_, world| {
            ending(world) == Some(Ending::Cancelled)
                && destination_side(world) == Some(DestinationSide::Ready)
        }),
        sometime("an answer to go is lost, and asked for", |_, world| {
            state_is(world, |state| matches!(state, State::Asking { .. })) && world.destination_has()
        }),
        sometime("a question overtakes go", a_question_overtakes_go),
        sometime("a go is lost, and the machine taken back", |_, world| {
            world.history.goes == 1 && world.source_has()
        }),
    ]
}

fn examples_with_postcopy() -> Vec<Property<Model>> {
    vec![
        sometime("pages follow, and all arrive", |_, world| {
            world.there() == There::Running
                && is_gone(world)
                && world.arrival.as_ref().is_some_and(Arrival::was_lacking)
        }),
        sometime("the last page comes before go", |_, world| {
            destination_side(world) == Some(DestinationSide::Ready)
                && world.arrival.as_ref().is_some_and(|arrival| arrival.was_lacking() && arrival.lacks == 0)
        }),
        sometime("the link is lost with a page on its way", |_, world| {
            state_is(world, |state| matches!(state, State::Parted { .. })) && is_page_on_its_way(world)
        }),
        sometime("that the machine is whole is said, and lost", |_, world| {
            state_is(world, |state| matches!(state, State::Parted { .. }))
                && world.destination_has()
                && !lacks_pages(world)
        }),
    ]
}

/// Whether a machine that runs lacks pages.
fn lacks_pages(world: &World) -> bool {
    world.arrival.as_ref().is_some_and(|arrival| arrival.has_the_machine() && arrival.lacks != 0)
}

fn is_kept(world: &World) -> bool {
    world.origin.as_ref().is_some_and(|origin| origin.guest == Guest::Stopped && origin.attempt.is_some())
}

fn is_said_to_be_whole(world: &World) -> bool {
    [Word::Whole, Word::Recovering { missing: 0 }]
        .into_iter()
        .any(|word| is_on_its_way_to_source(world, word))
}

fn is_page_on_its_way(world: &World) -> bool {
    world
        .network
        .numbers()
        .any(|link| matches!(world.network.next(link, Side::Destination), Some(Packet::Page(_))))
}

/// Two connections say that they are the page channel, and pages are missing.
fn a_channel_comes_late(_: &Model, world: &World) -> bool {
    let next = |link| world.network.next(link, Side::Destination);
    let channels = world.network.numbers().filter(|&link| matches!(next(link), Some(Packet::Channel(_))));
    lacks_pages(world) && channels.count() > 1
}

fn is_slowed(world: &World) -> bool {
    world.origin.as_ref().is_some_and(|origin| origin.is_slowed)
}

/// Whatever is to be done yet comes first.
fn is_at_full_speed(_: &Model, world: &World) -> bool {
    let attempt = world.origin.as_ref().and_then(|origin| origin.attempt.as_ref());
    let is_sent =
        |state: &State| matches!(state, State::Sending(_) | State::Fetching(_) | State::Resting { .. });
    !is_slowed(world)
        || attempt.is_some_and(|attempt| {
            is_sent(attempt.source.state()) || attempt.todo.contains(&Duty::Throttle { on: false })
        })
}

type Condition = fn(&Model, &World) -> bool;

fn always(name: &'static str, condition: Condition) -> Property<Model> {
    Property { expectation: Expectation::Always, name, condition }
}

fn sometime(name: &'static str, condition: Condition) -> Property<Model> {
    Property { expectation: Expectation::Sometimes, name, condition }
}

fn who_runs_holds_the_lock(model: &Model, world: &World) -> bool {
    let runs_here = world.origin.as_ref().is_some_and(|origin| origin.guest == Guest::Running);
    !model.locks
        || (!runs_here || world.lock == Lock::Held(Side::Source))
            && (!world.destination_has() || world.lock == Lock::Held(Side::Destination))
}

fn is_as_decided(_: &Model, world: &World) -> bool {
    let attempt = world.origin.as_ref().and_then(|origin| origin.attempt.as_ref());
    let source_may = attempt.is_none_or(|attempt| attempt.source.side().may_run());
    let destination_may = destination_side(world).is_some_and(DestinationSide::may_run);
    let pages = world.arrival.as_ref().map_or(DestinationPages::Nothing, |it| it.destination.pages());
    let is_postcopy = attempt.is_some_and(|attempt| attempt.source.status().is_postcopy());
    let is_needed = attempt.is_some_and(|attempt| attempt.source.pages() == SourcePages::Needed);
    (source_may || !world.source_has())
        && (destination_may || !world.destination_has())
        && is_postcopy == is_needed
        && (pages != DestinationPages::All || !lacks_pages(world))
}

fn is_honest(_: &Model, world: &World) -> bool {
    let Some(origin) = &world.origin else { return true };
    let Some(attempt) = &origin.attempt else {
        return match origin.guest {
            Guest::Stopped => false,
            Guest::Gone => origin.last == Some(Ending::Completed) && (world.history.ran_there),
            Guest::Running | Guest::Paused => origin.last != Some(Ending::Completed),
        };
    };
    let asks = matches!(
        attempt.source.state(),
        State::Unknown { .. } | State::Reconnecting(_) | State::Asking { .. }
    );
    // Whoever looks sees it: unknown means unknown, nothing else does, and it is not over while the machine is stopped.
    asks == (attempt.source.status() == Status::Unknown)
        && (!asks || attempt.source.side() == SourceSide::Committed)
        && (!attempt.source.status().is_postcopy()
            || attempt.source.side() == SourceSide::Released && world.history.ran_there)
        && (origin.guest != Guest::Stopped
            || attempt.source.status().is_under_way()
            || !attempt.todo.is_empty())
}

/// Whether the world comes to rest with one machine at one side, if from now on nobody interferes and time passes. Each
/// step in peace is one that the model knows, so this is what can always still happen; under a scheduler that is fair it will.
fn settles(model: &Model, world: &World) -> bool {
    let mut path = Vec::new();
    let mut seen = HashSet::new();
    let mut world = world.clone();
    loop {
        let print = fingerprint(&world);
        if model.settled.lock().expect(NO_PANIC).contains(&print) {
            break;
        }
        let step = world.step_in_peace(model).filter(|_| seen.insert(print));
        let Some(step) = step else {
            // It asks again and again, or nothing happens any more.
            if is_settled(&world) {
                break;
            }
            return false;
        };
        path.push(print);
        world.take(model, step);
    }
    model.settled.lock().expect(NO_PANIC).extend(path);
    true
}

fn is_settled(world: &World) -> bool {
    let free = |world: &World| world.lock != Lock::Held(Side::Destination);
    let vacant = world
        .arrival
        .as_ref()
        .is_none_or(|arrival| !arrival.destination.is_busy() && arrival.guest == There::Nothing);
    let Some(origin) = &world.origin else { return world.destination_has() || vacant && free(world) };
    let Some(attempt) = &origin.attempt else {
        return match origin.guest {
            Guest::Running => vacant && free(world),
            Guest::Paused => vacant && free(world) && world.history.paused,
            Guest::Gone => world.destination_has() && !lacks_pages(world) || world.history.is_forgotten,
            Guest::Stopped => false,
        };
    };
    // Only death makes somebody forget, and who forgets does not run it.
    (attempt.source.status() == Status::Unknown || attempt.source.status().is_postcopy())
        && (world.arrival.is_none() || world.history.is_forgotten)
        && vacant
        && free(world)
}

fn a_question_overtakes_go(_: &Model, world: &World) -> bool {
    let arrives = |word| {
        world
            .network
            .numbers()
            .any(|link| world.network.is_on_its_way(link, Side::Destination, Packet::Word(word)))
    };
    destination_side(world) == Some(DestinationSide::Ready)
        && arrives(Word::Go)
        && arrives(Word::Ask(world.sessions))
}

fn is_on_its_way_to_source(world: &World, word: Word) -> bool {
    world.network.numbers().any(|link| world.network.is_on_its_way(link, Side::Source, Packet::Word(word)))
}

fn is_gone(world: &World) -> bool {
    world.origin.as_ref().is_some_and(|origin| origin.guest == Guest::Gone)
}

fn state_is(world: &World, is: impl Fn(&State) -> bool) -> bool {
    let attempt = world.origin.as_ref().and_then(|origin| origin.attempt.as_ref());
    attempt.is_some_and(|attempt| is(attempt.source.state()))
}

fn ending(world: &World) -> Option<Ending> {
    world.origin.as_ref()?.attempt.as_ref()?.source.ending()
}

fn destination_side(world: &World) -> Option<DestinationSide> {
    world.arrival.as_ref().map(|arrival| arrival.destination.side())
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}
