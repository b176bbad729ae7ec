//! Two releases that meet: they migrate, or refuse by name.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod machine;

use machine::{
    Machine, ram_of,
    travel::{assert_arrived_whole, destination_as, loopback, migrate_as},
};
use migration::{Outcome, Params};
use wire::{Features, Offer};

fn release(oldest: u16, newest: u16, features: u64, name: &str) -> Offer {
    Offer { newest, oldest, features: Features::from_bits(features), release: name.into() }
}

/// Releases of the past, of today and to come. All speak today's protocol in this test: only what they offer differs.
fn releases() -> [Offer; 5] {
    [
        release(1, 1, 0, "first"),
        release(1, 2, 0b101, "next"),
        release(1, 9, u64::MAX, "late"),
        release(2, 3, 0b110, "without-the-first"),
        release(9, 12, 1 << 62, "far"),
    ]
}

#[test]
fn any_two_releases_migrate_or_refuse_each_other_by_name() {
    for ours in releases() {
        for theirs in releases() {
            let machine = Machine::new(ram_of(64), 10);
            let destination = destination_as(&theirs, &loopback(), &machine);
            let params = Params::default().channels(2);
            let (handle, notes) = migrate_as(&ours, machine.clone(), destination.address(), params);
            let common = ours.newest.min(theirs.newest);
            if common >= ours.oldest && common >= theirs.oldest {
                assert_arrived_whole(&machine, &destination, &notes);
                let greeted = handle.snapshot().statistics.destination.clone().unwrap();
                assert_eq!((greeted.agreed.version, &greeted.release), (common, &theirs.release));
                assert!(ours.features.has(greeted.agreed.features), "{greeted:?}");
                assert!(theirs.features.has(greeted.agreed.features), "{greeted:?}");
            } else {
                let Outcome::Failed(reason) = notes.outcome() else { panic!("{ours:?} moved to {theirs:?}") };
                for name in [&ours.release, &theirs.release] {
                    assert!(reason.contains(&format!("(release {name})")), "{reason}");
                }
                destination.handle.stop();
            }
        }
    }
}
