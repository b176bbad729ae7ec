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

/// One vCPU writes, the other only reads.
fn writer_and_reader() -> Spec {
    Spec::new("work=64M rate=100M order=seq cpus=2 writers=1").cpus(2).flag("--dirty-log", "ring")
}

#[test]
fn rings_tell_what_each_vcpu_writes() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&writer_and_reader());
    let story = Story::of(&source);
    story.filled();
    let rate = measured(&source, json!({ "calc-time": 2, "mode": "dirty-ring" }));
    let vcpus = info(&source).vcpu_dirty_rate.unwrap();
    let [writer, reader] = vcpus[..] else { panic!("{vcpus:?}") };
    // What is read for the first time since the log is on may count as written. Pages that are written once in a second, at no more than the guest is told to: a slow host has it write less.
    assert!((8..=110).contains(&writer.dirty_rate) && rate >= writer.dirty_rate, "{vcpus:?}");
    assert!((writer.id, reader.id) == (0, 1) && reader.dirty_rate * 2 < writer.dirty_rate, "{vcpus:?}");
    // Bits tell the same of both together.
    measured(&source, json!({ "calc-time": 1, "mode": "dirty-bitmap" }));
    assert_eq!(info(&source).vcpu_dirty_rate, None);
    story.goes_on(1);
    story.assert_intact();
}

#[test]
fn a_limit_holds_for_the_vcpu_that_writes_and_is_lifted() {
    let Some(lab) = Lab::new() else { return };
    let spec = writer_and_reader();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let free = story.goes_on(3).rate;
    source.command("set-vcpu-dirty-limit", json!({ "dirty-rate": 4 }));
    until("it writes less", || (story.goes_on(1).rate < free / 3).then_some(()));
    let limits = source.command("query-vcpu-dirty-limit", Value::Null);
    assert_eq!((&limits[0]["limit-rate"], &limits[1]["cpu-index"]), (&json!(4), &json!(1)), "{limits}");
    // A migration uses the rings beside it.
    source.set(json!({ "whimbrel-digest": "full", "max-bandwidth": 20_000_000, "downtime-limit": 1 }));
    let uri = destination.listen();
    source.migrate(&uri);
    source.round_is(2);
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);
    source.command("cancel-vcpu-dirty-limit", Value::Null);
    assert_eq!(source.command("query-vcpu-dirty-limit", Value::Null), json!([]));
    until("it writes as before", || (story.goes_on(1).rate > free / 2).then_some(()));
    source.command("set-vcpu-dirty-limit", json!({ "dirty-rate": 50, "cpu-index": 0 }));
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 1000 }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
    assert!(source.refused("set-vcpu-dirty-limit", json!({ "dirty-rate": 4, "cpu-index": 2 })).len() > 10);
}

#[test]
fn a_machine_with_a_bitmap_says_what_it_lacks() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&Spec::new("work=8M rate=10M"));
    for (command, arguments) in [
        ("calc-dirty-rate", json!({ "calc-time": 1, "mode": "dirty-ring" })),
        ("set-vcpu-dirty-limit", json!({ "dirty-rate": 4 })),
    ] {
        let why = source.refused(command, arguments);
        assert!(why.contains("--dirty-log ring"), "{why}");
    }
    assert_eq!(source.command("query-vcpu-dirty-limit", Value::Null), json!([]));
}
