//! Migrations that do not come to their end by rounds alone.

use monitor::types::{MigrationInfo, MigrationStatus};
use serde_json::json;

use crate::harness::{Lab, Spec, Story, Vmm, until};

/// A guest that dirties its memory many times as fast as it is sent at [`SLOW`], and would have to stand still for a second.
fn busy() -> Spec {
    Spec::new("work=32M rate=300M order=random touch=page")
}

/// Bytes per second.
const SLOW: u64 = 30_000_000;

fn begin(lab: &Lab, spec: &Spec) -> (Vmm, Vmm, Story) {
    let (source, destination) = (lab.boot(spec), lab.vacancy(spec));
    let story = Story::of(&source);
    story.filled();
    // Rounds, and what is foretold of the last pass, go at this speed.
    source.set(
        json!({ "max-bandwidth": SLOW, "avail-switchover-bandwidth": SLOW, "whimbrel-digest": "transfer" }),
    );
    (source, destination, story)
}

fn taken_ms(info: &MigrationInfo) -> f64 {
    let throttle = info.whimbrel.as_ref().unwrap().throttle.clone().unwrap_or_default();
    throttle.vcpus.iter().map(|vcpu| vcpu.taken_ms).sum()
}

/// Waits until time is taken from vCPUs.
fn is_slowed(source: &Vmm) -> MigrationInfo {
    until("time is taken from vCPUs", || {
        let info = source.query_migrate();
        assert!(!info.status.is_some_and(MigrationStatus::is_final), "{info:?}");
        info.cpu_throttle_percentage.is_some().then_some(info)
    })
}

#[test]
fn auto_converge_ends_what_would_not_end_and_gives_the_time_back() {
    let Some(lab) = Lab::new() else { return };
    for way in ["computed", "steps"] {
        let (source, destination, mut story) = begin(&lab, &busy());
        source.enable("auto-converge");
        source.set(
            json!({ "whimbrel-throttle": way, "cpu-throttle-initial": 60, "cpu-throttle-increment": 20 }),
        );
        source.migrate(&destination.listen());
        let slowed = is_slowed(&source);
        let decided = &slowed.whimbrel.as_ref().unwrap().decisions;
        assert!(decided.iter().any(|it| it.text.contains("% of vCPU time is taken")), "{way}: {decided:?}");
        let done = source.migration_is(MigrationStatus::Completed);
        assert!(taken_ms(&done) > 10.0, "{way}: {:?}", done.whimbrel.unwrap().throttle);
        assert_eq!(done.cpu_throttle_percentage, None, "{way}");
        story.goes_on_at(&destination);
        story.goes_on(3);
        story.assert_intact();
    }
}

#[test]
fn a_machine_that_converges_by_itself_is_not_slowed_down() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, mut story) = begin(&lab, &Spec::new("work=16M rate=5M order=random"));
    source.enable("auto-converge");
    source.set(json!({ "whimbrel-deadline": 60 }));
    source.migrate(&destination.listen());
    let done = source.migration_is(MigrationStatus::Completed);
    assert_eq!(done.whimbrel.unwrap().throttle, None);
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn whoever_cancels_has_a_machine_at_full_speed() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, story) = begin(&lab, &busy());
    let free = story.goes_on(5).rate;
    source.enable("auto-converge");
    source.set(json!({ "whimbrel-throttle": "steps", "cpu-throttle-initial": 90, "max-cpu-throttle": 90, "downtime-limit": 20 }));
    source.migrate(&destination.listen());
    is_slowed(&source);
    // Now it takes longer than the test.
    source.set(json!({ "max-bandwidth": 500_000, "avail-switchover-bandwidth": 500_000 }));
    until("the guest is slow", || (story.goes_on(1).rate < free / 2).then_some(()));
    source.command("migrate_cancel", json!({}));
    let info = source.migration_is(MigrationStatus::Cancelled);
    let taken = taken_ms(&info);
    until("the guest is as fast as before", || (story.goes_on(1).rate > free / 2).then_some(()));
    assert!((taken_ms(&source.query_migrate()) - taken).abs() < 0.1, "nothing is taken any more");
    story.assert_intact();
}

#[test]
fn without_a_way_to_its_end_it_says_what_would_end_it() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, _story) = begin(&lab, &busy());
    source.migrate(&destination.listen());
    let advice = until("there is advice", || source.query_migrate().whimbrel.unwrap().advice);
    for means in ["auto-converge", "downtime-limit=", "postcopy-ram", "whimbrel-deadline"] {
        assert!(advice.contains(means), "{advice}");
    }
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);
}

#[test]
fn a_deadline_is_met_by_each_means() {
    let Some(lab) = Lab::new() else { return };
    for means in ["throttle", "postcopy", "downtime,throttle"] {
        let (source, destination, mut story) = begin(&lab, &busy());
        source.enable("postcopy-ram");
        source.set(json!({
            "whimbrel-deadline": 20, "whimbrel-means": means, "whimbrel-downtime-max": 600, "whimbrel-digest": "off",
        }));
        source.migrate(&destination.listen());
        let done = source.migration_is(MigrationStatus::Completed);
        let own = done.whimbrel.as_ref().unwrap();
        // On a host that others use as well, what was foretold may be late.
        assert!(done.total_time.unwrap() < 40_000, "{means}: {:?}", own.decisions);
        assert!(
            own.decisions.iter().any(|it| it.text.starts_with("Deadline: ")),
            "{means}: {:?}",
            own.decisions
        );
        if means == "postcopy" {
            assert_eq!(own.throttle, None, "{means} alone is allowed");
        }
        story.goes_on_at(&destination);
        story.goes_on(3);
        story.assert_intact();
    }
}

#[test]
fn a_deadline_and_its_means_can_be_changed_while_it_runs() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, mut story) = begin(&lab, &busy());
    source.enable("postcopy-ram");
    // Not foretold to be met by what is allowed.
    source.set(json!({ "whimbrel-deadline": 600, "whimbrel-means": "none" }));
    source.migrate(&destination.listen());
    let late = until("it is told that the deadline is missed", || {
        source.query_migrate().whimbrel.unwrap().deadline.filter(|deadline| deadline.in_time == Some(false))
    });
    assert_eq!(late.seconds, 600);
    source.set(json!({ "whimbrel-means": "throttle", "whimbrel-deadline": 5 }));
    is_slowed(&source);
    // No deadline, and nothing that may be taken: it is given back.
    source.set(json!({ "whimbrel-deadline": 0 }));
    until("nothing is taken any more", || {
        source.query_migrate().cpu_throttle_percentage.is_none().then_some(())
    });
    source.set(json!({ "whimbrel-deadline": 5, "whimbrel-means": "postcopy" }));
    let done = source.migration_is(MigrationStatus::Completed);
    assert!(done.ram.unwrap().postcopy_bytes > 0);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}
