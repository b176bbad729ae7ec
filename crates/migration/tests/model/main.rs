//! A model of the hand-over: every order in which the steps of both sides, the network, the disk and the people can come is
//! tried, and what `claims` says is looked at in every world that comes about. The state machines in it are the real ones; what
//! the `engine` crate and the monitor do around them is written down in `origin` and `arrival`. `docs/hand-over.md` tells what is
//! assumed.
//!
//! Counts and counterexamples are printed: `cargo test -p whimbrel-migration --test model -- --nocapture`. Larger
//! explorations take long: `make model`.

mod arrival;
mod broken;
mod claims;
mod network;
mod origin;
mod source;
mod words;
mod world;

use std::{collections::HashMap, time::Instant};

use broken::Broken;
use stateright::{Checker, HasDiscoveries, Model as _};
use whimbrel_migration::Postcopy;
use words::{Packet, Word};
use world::Model;

/// Explores `model`: everything, or, if `claim` is not to hold, until it is seen not to. Returns which claims were seen not to hold,
/// and how it came to that.
fn explore(name: &str, model: Model, claim: Option<&'static str>) -> HashMap<&'static str, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let until = match claim {
        None => HasDiscoveries::AnyFailures,
        Some(claim) => HasDiscoveries::AnyOf([claim].into()),
    };
    let began = Instant::now();
    let checker = model.checker().threads(threads).finish_when(until).spawn_bfs().join();
    let (worlds, steps, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{name}: {worlds} worlds, {steps} steps, {depth} deep, {:.1?}", began.elapsed());
    let found = checker.discoveries();
    let is_claim = |name: &&'static str| checker.model().property(name).expectation.discovery_is_failure();
    let failed: HashMap<_, _> = found
        .keys()
        .copied()
        .filter(is_claim)
        .map(|name| {
            let path = found[name].clone();
            let end = path.last_state().clone();
            (name, format!("not so: {name}: {:#?}\n{end:#?}", path.into_actions()))
        })
        .collect();
    for property in checker.model().properties() {
        let is_seen = found.contains_key(property.name) || is_claim(&property.name);
        assert!(
            is_seen || !failed.is_empty(),
            "{name} says little: it never comes to this: {}",
            property.name
        );
    }
    failed
}

fn must_hold(name: &str, model: Model) {
    if let Some(how) = explore(name, model, None).into_values().next() {
        panic!("{name}: {how}");
    }
}

#[test]
fn one_migration_keeps_the_machine_at_one_side_whatever_strikes() {
    let model = Model {
        attempts: 1,
        kills: 2,
        rounds: 1,
        source_dies: true,
        locks: true,
        others: true,
        pauses: true,
        asks_before_switchover: true,
        ..Model::default()
    };
    must_hold("one migration, with everything", model);
}

#[test]
fn two_migrations_keep_the_machine_at_one_side_with_a_disk_that_is_locked() {
    must_hold(
        "two migrations, with a lock",
        Model { attempts: 2, kills: 1, locks: true, ..Model::default() },
    );
}

#[test]
fn two_migrations_keep_the_machine_at_one_side_without_any_lock() {
    must_hold("two migrations, without a lock", Model { attempts: 2, kills: 1, ..Model::default() });
}

#[test]
#[ignore = "takes minutes"]
fn two_migrations_keep_the_machine_at_one_side_whatever_strikes() {
    let model =
        Model { attempts: 2, kills: 2, source_dies: true, locks: true, others: true, ..Model::default() };
    must_hold("two migrations, with everything", model);
}

#[test]
fn a_machine_that_is_slowed_down_is_let_go_however_the_attempt_ends() {
    let model = Model { attempts: 1, kills: 1, rounds: 2, throttles: true, ..Model::default() };
    must_hold("a machine is slowed down", model);
    let model = Model {
        attempts: 1,
        rounds: 2,
        throttles: true,
        postcopy: Postcopy::OnRequest,
        partings: 1,
        ..Model::default()
    };
    must_hold("a machine is slowed down, and pages follow", model);
}

#[test]
fn without_its_rule_a_machine_stays_slow() {
    let broken = Some(Broken::SlowsAMachineThatStays);
    let model = Model { attempts: 1, rounds: 2, throttles: true, broken, ..Model::default() };
    let failed = explore("SlowsAMachineThatStays", model, Some(claims::AT_FULL_SPEED));
    assert!(failed.contains_key(claims::AT_FULL_SPEED));
}

#[test]
fn every_page_is_whole_at_a_side_that_lives_whatever_strikes() {
    let model = Model {
        attempts: 1,
        kills: 1,
        source_dies: true,
        postcopy: Postcopy::Immediate,
        partings: 1,
        parts: true,
        ..Model::default()
    };
    must_hold("pages follow, and processes die", model);
}

#[test]
fn a_machine_that_starts_anew_needs_no_page_and_its_source_is_let_go() {
    let model = Model {
        attempts: 1,
        source_dies: true,
        postcopy: Postcopy::Immediate,
        partings: 1,
        forgets: true,
        ..Model::default()
    };
    must_hold("pages follow, and are forgotten", model);
}

#[test]
fn every_page_comes_however_often_the_link_is_lost() {
    let model = Model {
        attempts: 1,
        postcopy: Postcopy::Immediate,
        pages: 2,
        partings: 2,
        parts: true,
        ..Model::default()
    };
    must_hold("pages follow, and links are lost again and again", model);
}

#[test]
fn rounds_that_give_way_to_postcopy_keep_the_machine_at_one_side() {
    let model = Model {
        attempts: 1,
        rounds: 1,
        locks: true,
        asks_before_switchover: true,
        postcopy: Postcopy::OnRequest,
        partings: 1,
        ..Model::default()
    };
    must_hold("rounds, then pages follow", model);
}

#[test]
#[ignore = "takes minutes"]
fn whatever_strikes_a_machine_that_starts_anew_needs_no_page() {
    let model = Model {
        attempts: 1,
        kills: 1,
        source_dies: true,
        postcopy: Postcopy::Immediate,
        pages: 2,
        partings: 1,
        forgets: true,
        ..Model::default()
    };
    must_hold("pages follow, and are forgotten, with everything", model);
}

#[test]
#[ignore = "takes minutes"]
fn every_page_is_whole_however_often_whatever_strikes() {
    let model = Model {
        attempts: 2,
        kills: 1,
        source_dies: true,
        locks: true,
        postcopy: Postcopy::Immediate,
        pages: 2,
        partings: 3,
        parts: true,
        ..Model::default()
    };
    must_hold("pages follow, with everything", model);
}

/// The same of the rules that pages need.
#[test]
fn without_any_one_of_its_rules_pages_are_lost() {
    for (broken, partings, claim) in RULES_OF_PAGES {
        let model = Model {
            attempts: 1,
            kills: u8::from(*broken == Broken::LetsGoOfPagesWithoutLooking),
            postcopy: Postcopy::Immediate,
            pages: 2,
            partings: *partings,
            broken: Some(*broken),
            ..Model::default()
        };
        let name = format!("{broken:?}");
        let failed = explore(&name, model, Some(*claim));
        assert!(failed.contains_key(claim), "{name} is not noticed by: {claim}");
    }
}

const RULES_OF_PAGES: &[(Broken, u8, &str)] = &[
    (Broken::LetsGoOfPagesWithoutLooking, 1, claims::KEPT),
    (Broken::EndsWithPagesMissing, 1, claims::KEPT),
    (Broken::CancelsWithPagesMissing, 1, claims::KEPT),
    (Broken::SaysWholeTooEarly, 1, claims::TRULY_WHOLE),
    (Broken::SaysNothingOfAnEarlyWhole, 1, claims::SETTLES),
    (Broken::ForgetsWhatArrived, 1, claims::SETTLES),
    (Broken::TakesWhatItHas, 3, claims::ONCE),
    (Broken::CountsOnWhatItSent, 1, claims::SETTLES),
    (Broken::DoesNotLookForIt, 1, claims::SETTLES),
    (Broken::WaitsOnWithoutALink, 1, claims::SETTLES),
];

/// For each rule a claim that does not hold without it.
#[test]
fn without_any_one_of_its_rules_the_hand_over_fails() {
    for (broken, attempts, locks, claim) in RULES {
        let model =
            Model { attempts: *attempts, kills: 1, locks: *locks, broken: Some(*broken), ..Model::default() };
        let name = format!("{broken:?}");
        let failed = explore(&name, model, Some(*claim));
        assert!(failed.contains_key(claim), "{name} is not noticed by: {claim}");
    }
}

const RULES: &[(Broken, u8, bool, &str)] = &[
    (Broken::WaitsOnWhenAsked, 1, false, claims::NEVER_TWO),
    (Broken::TakesSilenceForNo, 1, false, claims::NEVER_TWO),
    (Broken::TakesABrokenLinkForNo, 1, false, claims::NEVER_TWO),
    (Broken::CancelsAfterGo, 1, false, claims::NEVER_TWO),
    (Broken::SaysGoAgain, 1, false, claims::GO_ONCE),
    (Broken::DoesNotWaitForGo, 1, false, claims::NEVER_TWO),
    (Broken::HearsThePast, 2, false, claims::NEVER_TWO),
    (Broken::DeniesWhatItDoesNotKnow, 1, false, claims::NO_WAY_BACK),
    (Broken::ForgetsWhatItGaveUp, 1, false, claims::SETTLES),
    (Broken::WaitsOnWithoutALink, 1, false, claims::SETTLES),
    (Broken::RanBeforeItFailedToStart, 1, false, claims::NO_WAY_BACK),
    (Broken::DoesNotAsk, 1, false, claims::SETTLES),
    (Broken::DoesNotHearAFarewell, 1, false, claims::SETTLES),
    (Broken::DecidesWithoutLooking, 1, false, claims::NEVER_TWO),
    (Broken::ResumesWithoutTheLock, 1, true, claims::LOCKED),
    (Broken::IsPausedBeforeItHasTheLock, 1, true, claims::SETTLES),
    (Broken::RunsByCommandWithoutTheLock, 1, true, claims::LOCKED),
    (Broken::LoadsWithoutTheLock, 1, true, claims::LOCKED),
    (Broken::KeepsTheLock, 1, true, claims::SETTLES),
];

#[test]
fn words_stand_for_messages() {
    let words = [
        Word::Hello(2),
        Word::Accept,
        Word::Refuse,
        Word::ChannelsOpen,
        Word::Ping,
        Word::Pong,
        Word::Switchover,
        Word::Device,
        Word::Complete { run: false, to_come: 0 },
        Word::Complete { run: true, to_come: 2 },
        Word::Ready,
        Word::Go,
        Word::Running,
        Word::NotRunning,
        Word::UnknownSession,
        Word::Ask(3),
        Word::Bye,
        Word::Abort,
        Word::Missing(3),
        Word::Whole,
        Word::Recover,
        Word::Recovering { missing: 0 },
        Word::Recovering { missing: 2 },
    ];
    for word in words {
        assert_eq!(Word::of(&word.message()), word);
        assert_ne!(Packet::Word(word), Packet::LastRound);
    }
}
