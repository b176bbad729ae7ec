//! Machines whose vCPUs write down in rings which pages they dirty.

use guests::Report;
use monitor::types::{MigrationStatus, RunState};
use serde_json::json;

use crate::harness::{Lab, PAUSE_BEFORE_SWITCHOVER, Spec, Story, until};

/// Bytes per second at which no machine of these tests converges.
const TOO_SLOW: u64 = 30_000_000;

fn busy() -> Spec {
    Spec::new("work=24M rate=200M order=random cpus=2").cpus(2)
}

#[test]
fn a_machine_with_rings_moves_there_and_back_and_is_the_same() {
    let Some(lab) = Lab::new() else { return };
    // Either side has its own way of finding out what is written.
    let spec = busy();
    let here = lab.boot(&spec.clone().flag("--dirty-log", "ring"));
    let mut story = Story::of(&here);
    story.filled();
    let there = lab.vacancy(&spec.clone().flag("--dirty-log", "bitmap"));
    here.set(json!({ "whimbrel-digest": "full", "downtime-limit": 1000 }));
    here.moves_to(&there, &there.listen());
    story.goes_on_at(&there);
    story.goes_on(2);
    let back = lab.vacancy(&spec.flag("--dirty-log", "ring=8192"));
    there.set(json!({ "whimbrel-digest": "full", "downtime-limit": 1000 }));
    there.moves_to(&back, &back.listen());
    story.goes_on_at(&back);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn cancelled_attempts_leave_rings_that_the_next_ones_use() {
    let Some(lab) = Lab::new() else { return };
    let spec = busy().flag("--dirty-log", "ring");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    for round in [1, 3, 2] {
        source.set(json!({ "max-bandwidth": TOO_SLOW, "downtime-limit": 1, "whimbrel-digest": "transfer" }));
        source.migrate(&uri);
        source.round_is(round);
        source.command("migrate_cancel", json!({}));
        source.migration_is(MigrationStatus::Cancelled);
        story.goes_on(1);
    }
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 1000, "whimbrel-digest": "full" }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn rings_that_are_too_small_cost_an_attempt_at_most_and_never_a_write() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=24M rate=max order=random cpus=2").cpus(2).flag("--dirty-log", "ring=1024");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    let mut moved = false;
    for _ in 0..4 {
        source.set(json!({ "downtime-limit": 2000, "whimbrel-digest": "full" }));
        source.migrate(&uri);
        let info = until("it is over", || {
            Some(source.query_migrate()).filter(|info| info.status.is_some_and(MigrationStatus::is_final))
        });
        moved = info.status == Some(MigrationStatus::Completed);
        if moved {
            break;
        }
        let why = info.error_desc.expect("a reason");
        assert!(why.contains("larger ring"), "{why}");
        assert_eq!(source.run_state(), RunState::Running);
        story.goes_on(1);
    }
    if moved {
        story.goes_on_at(&destination);
    }
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn only_the_vcpu_that_writes_is_slowed_down() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=32M rate=300M order=random touch=page cpus=2 writers=1").cpus(2);
    for log in ["ring", "bitmap"] {
        let spec = spec.clone().flag("--dirty-log", log);
        let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
        let mut story = Story::of(&source);
        story.filled();
        source.enable("auto-converge");
        source.set(json!({
            "max-bandwidth": TOO_SLOW, "avail-switchover-bandwidth": TOO_SLOW, "whimbrel-digest": "transfer"
        }));
        source.migrate(&destination.listen());
        let done = source.migration_is(MigrationStatus::Completed);
        let throttle = done.whimbrel.unwrap().throttle.expect("it was slowed down");
        let [writer, reader] = &throttle.vcpus[..] else { panic!("{throttle:?}") };
        assert!(writer.taken_ms > 10.0, "{log}: {throttle:?}");
        // What is read for the first time since the log is on may count as written.
        assert!(reader.taken_ms * 4.0 < writer.taken_ms, "{log}: {throttle:?}");
        story.goes_on_at(&destination);
        story.goes_on(2);
        story.assert_intact();
    }
}

#[test]
fn a_dirty_limit_holds_writers_alone_and_until_the_attempt_ends() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=32M rate=300M order=random touch=page cpus=2 writers=1").cpus(2);
    let (source, destination) = (lab.boot(&spec.clone().flag("--dirty-log", "ring")), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.enable("dirty-limit");
    // However soon the limit is enough, the machine does not leave.
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    source.set(json!({
        "max-bandwidth": TOO_SLOW, "avail-switchover-bandwidth": TOO_SLOW, "downtime-limit": 100,
        "vcpu-dirty-limit": 1, "x-vcpu-dirty-limit-period": 100, "whimbrel-digest": "transfer",
    }));
    let uri = destination.listen();
    source.migrate(&uri);
    let vcpus = || source.query_migrate().whimbrel.and_then(|own| own.throttle).map(|own| own.vcpus);
    let held = until("the writer is held", || vcpus().filter(|vcpus| vcpus[0].taken_ms > 100.0));
    assert!(held[1].taken_ms * 4.0 < held[0].taken_ms, "{held:?}");
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);
    let left = vcpus().unwrap();
    assert!(left.iter().all(|vcpu| vcpu.percentage == 0.0), "{left:?}");
    story.goes_on(2);
    assert_eq!(vcpus().unwrap(), left, "it is held for an attempt that is over");
    // With more time to stop, what may be dirtied fits.
    source.set(json!({ "downtime-limit": 500, "vcpu-dirty-limit": 5 }));
    source.migrate(&uri);
    source.migration_is(MigrationStatus::PreSwitchover);
    source.command("migrate-continue", json!({ "state": "pre-switchover" }));
    let done = source.migration_is(MigrationStatus::Completed);
    let decided = done.whimbrel.unwrap().decisions;
    assert!(
        decided.iter().any(|decision| decision.text.contains("No vCPU dirties more than")),
        "{decided:?}"
    );
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}

/// Pages that the vCPU which only reads has read each second, from one report to another.
fn read_rate(from: &Report, to: &Report) -> f64 {
    let read = |report: &Report| report.count("read").unwrap() as f64;
    (read(to) - read(from)) / (to.tsc_ms - from.tsc_ms).max(1) as f64 * 1e3
}

#[test]
#[ignore = "says something of a host with four CPUs and nothing else to do: make reader"]
fn a_vcpu_that_only_reads_keeps_its_speed_while_another_is_slowed_down() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=256M rate=2000M order=random verify=90 cpus=2 writers=1 report=100")
        .memory_mib(1024)
        .cpus(2);
    let mut kept = Vec::new();
    for log in ["ring", "bitmap"] {
        let spec = spec.clone().flag("--dirty-log", log);
        let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
        let mut story = Story::of(&source);
        story.filled();
        let before = (story.goes_on(10), story.goes_on(20));
        // 1 GB/s on the wire for a writer of 2 GB/s, and less where this host has the writer do less while its pages are logged.
        let mut wire =
            (before.1.dirtied - before.0.dirtied) * 500 / (before.1.tsc_ms - before.0.tsc_ms).max(1);
        let uri = destination.listen();
        source.enable("auto-converge");
        source.enable(PAUSE_BEFORE_SWITCHOVER);
        let throttle = || source.query_migrate().whimbrel.and_then(|own| own.throttle);
        loop {
            assert!(wire > 10_000_000, "{log}: this host is too slow for the writer");
            source.set(json!({
                "max-bandwidth": wire, "avail-switchover-bandwidth": wire, "downtime-limit": 20
            }));
            source.migrate(&uri);
            let is_slowed = until("it is slowed down, or needs not be", || {
                let is_enough = source.query_migrate().status == Some(MigrationStatus::PreSwitchover);
                let is_slowed = throttle().is_some_and(|throttle| throttle.vcpus[0].taken_ms > 0.0);
                (is_slowed || is_enough).then_some(is_slowed)
            });
            if is_slowed {
                break;
            }
            source.command("migrate_cancel", json!({}));
            source.migration_is(MigrationStatus::Cancelled);
            wire /= 2;
        }
        let first = story.goes_on(1);
        source.migration_is(MigrationStatus::PreSwitchover);
        let last = story.reports().last().cloned().unwrap();
        source.command("migrate-continue", json!({ "state": "pre-switchover" }));
        let done = source.migration_is(MigrationStatus::Completed);
        let (free, held) = (read_rate(&before.0, &before.1), read_rate(&first, &last));
        let dirtied =
            (last.dirtied - first.dirtied) as f64 / (last.tsc_ms - first.tsc_ms).max(1) as f64 / 1e3;
        let vcpus = done.whimbrel.unwrap().throttle.unwrap().vcpus;
        println!(
            "{log}, {} MB/s on the wire: reader {free:.0} pages/s before, {held:.0} while the other was slowed down ({:.1} %), for {} ms; the writer dirtied \
             {dirtied:.0} MB/s; taken {:.0} ms and {:.0} ms; {} ms in all",
            wire / 1_000_000,
            held / free * 100.0,
            last.tsc_ms.saturating_sub(first.tsc_ms),
            vcpus[0].taken_ms,
            vcpus[1].taken_ms,
            done.total_time.unwrap()
        );
        kept.push(held / free);
        story.goes_on_at(&destination);
        story.goes_on(2);
        story.assert_intact();
    }
    assert!(kept.iter().all(|kept| *kept >= 0.95), "{kept:?}");
}
