//! The time of a guest that is stopped, and of one that is moved while it is.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Lab, Spec, Story, Vmm, until};

/// How long the guest is stopped; more than it misses on the busiest host.
const STOPPED: Duration = Duration::from_secs(4);

fn waits(what: &str) {
    let since = Instant::now();
    until(what, || (since.elapsed() >= STOPPED).then_some(()));
}

fn stop_for_long(vmm: &Vmm) {
    vmm.command("stop", Value::Null);
    waits("it was stopped for long");
}

#[test]
fn both_clocks_go_on_for_a_guest_that_is_stopped_here_or_moved_meanwhile() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm().cpus(2);
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    stop_for_long(&source);
    source.command("cont", Value::Null);
    story.goes_on(3);
    let once = story.assert_intact();
    assert!(once.max_clock_gap >= STOPPED, "{once:?}");

    stop_for_long(&source);
    source.moves_to(&destination, &destination.listen());
    waits("it stays stopped there");
    destination.command("cont", Value::Null);
    story.goes_on_at(&destination);
    story.goes_on(3);
    let twice = story.assert_intact();
    assert!(twice.max_clock_gap >= 2 * STOPPED, "{twice:?}");
}
