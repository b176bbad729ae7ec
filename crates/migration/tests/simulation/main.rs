//! Both sides of a migration against each other, without a socket or a clock: a network that delays, cuts, stalls and parts,
//! sides that are killed, machines that fail, users who cancel. What must hold is checked after every step, see
//! `World::must_hold` and `World::end`.
//!
//! A run is the same for the same plan. To watch one: `SIMULATION_TRACE=1 cargo test -p whimbrel-migration --test simulation NAME`.

mod destination;
mod network;
mod plan;
mod rng;
mod source;
mod world;

use std::time::Duration;

use plan::{BLOWS, Plan, Trigger};
use world::{End, World};

fn survive(plan: Plan) -> (End, u64) {
    World::run(plan).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn a_calm_migration_arrives() {
    for seed in 0..200 {
        assert_eq!(survive(Plan::calm(seed)).0, End::AtDestination);
    }
}

#[test]
fn whatever_strikes_at_whichever_step_one_side_has_the_machine() {
    let steps = survive(Plan::calm(0)).1;
    for &blow in BLOWS {
        for step in 1..=steps {
            survive(Plan::calm(0).with(Trigger::Step(step), blow));
        }
    }
}

#[test]
fn many_faults_in_many_migrations_leave_one_machine() {
    let ends: Vec<End> = (0..1_500).map(|seed| survive(Plan::random(seed)).0).collect();
    // The faults must not be so many that hardly anything else is seen.
    let arrived = ends.iter().filter(|end| **end == End::AtDestination).count();
    assert!(arrived * 2 > ends.len(), "only {arrived} of {} arrived", ends.len());
}

#[test]
fn a_user_who_takes_his_time_before_the_switchover_loses_nothing() {
    for seed in 0..20 {
        let plan = Plan { wait: Some(Duration::from_secs(100)), ..Plan::calm(seed) };
        assert_eq!(survive(plan).0, End::AtDestination);
    }
}
