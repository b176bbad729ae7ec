//! How fast a guest writes its memory, as the monitor measures it.

use monitor::types::{DirtyRateInfo, DirtyRateStatus, MigrationStatus};
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, Story, Vmm, until};

fn info(vmm: &Vmm) -> DirtyRateInfo {
    let info = vmm.command("query-dirty-rate", json!({ "calc-time-unit": "millisecond" }));
    serde_json::from_value(info).unwrap()
}

/// Measures, and returns MiB/s.
fn measured(vmm: &Vmm, arguments: Value) -> u64 {
    vmm.command("calc-dirty-rate", arguments);
    let done = until("the dirty rate is measured", || {
        Some(info(vmm)).filter(|info| info.status == DirtyRateStatus::Measured)
    });
    done.dirty_rate.unwrap()
}

#[test]
fn both_modes_find_what_the_guest_writes_and_leave_it_alone() {
    let Some(lab) = Lab::new() else { return };
    // Every page of the working set is written more than once in the time.
    let source = lab.boot(&Spec::new("work=32M rate=200M"));
    let story = Story::of(&source);
    story.filled();
    assert_eq!(info(&source).status, DirtyRateStatus::Unstarted);
    let calc_time = json!({ "calc-time": 1000, "calc-time-unit": "millisecond" });
    for mode in ["page-sampling", "dirty-bitmap"] {
        let mut arguments = calc_time.clone();
        arguments["mode"] = mode.into();
        if mode == "page-sampling" {
            arguments["sample-pages"] = 4096.into();
        }
        let rate = measured(&source, arguments);
        // 32 MiB in at least a second: a slow host measures longer. What checks memory writes as well.
        assert!((8..=48).contains(&rate), "{mode}: {rate} MiB/s");
    }
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_migration_has_the_dirty_log_and_is_not_disturbed_by_a_look_at_pages() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=40M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "max-bandwidth": 3_000_000, "whimbrel-digest": "full" }));
    // One that begins takes the log from a measurement.
    source.command("calc-dirty-rate", json!({ "calc-time": 60, "mode": "dirty-bitmap" }));
    source.refused("calc-dirty-rate", json!({ "calc-time": 1 }));
    let uri = destination.listen();
    source.migrate(&uri);
    assert_eq!(info(&source).status, DirtyRateStatus::Unstarted);
    source.round_is(1);
    let why = source.refused("calc-dirty-rate", json!({ "calc-time": 1, "mode": "dirty-bitmap" }));
    assert!(why.contains("dirty log, which the migration under way uses"), "{why}");
    measured(&source, json!({ "calc-time": 1 }));
    assert_eq!(source.query_migrate().status, Some(MigrationStatus::Active));
    source.set(json!({ "max-bandwidth": 0 }));
    // One that outlasts the machine keeps nothing of it.
    source.command("calc-dirty-rate", json!({ "calc-time": 3 }));
    source.migration_is(MigrationStatus::Completed);
    until("the measurement comes to nothing", || {
        (info(&source).status == DirtyRateStatus::Unstarted).then_some(())
    });
    source.refused("calc-dirty-rate", json!({ "calc-time": 1 }));
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}
