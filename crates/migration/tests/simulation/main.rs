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
    for &blow in BLOWS {
        for seed in 0..3 {
            let steps = survive(Plan::calm(seed)).1;
            for step in 1..=steps {
                survive(Plan::calm(seed).with(Trigger::Step(step), blow));
            }
        }
    }
}

#[test]
fn many_faults_in_many_migrations_leave_one_machine() {
    let mut ends = std::collections::HashMap::new();
    for seed in 0..4_000 {
        *ends.entry(format!("{:?}", survive(Plan::random(seed)).0)).or_insert(0) += 1;
    }
    println!("{ends:?}");
}
