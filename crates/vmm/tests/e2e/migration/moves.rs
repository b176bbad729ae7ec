//! What arrives is what left: idle, busy, on many CPUs, in every kind of memory, over every kind of socket, any number of times.

use std::time::SystemTime;

use monitor::types::RunState;
use serde_json::json;

use crate::harness::{HugePages, Lab, Spec, Story, Vmm};

/// Moves the machine of `spec` once, to where `uri` says, and returns both sides and what the guest printed.
fn move_once(lab: &Lab, spec: &Spec, uri: &str, digest: bool) -> (Vmm, Vmm, Story) {
    let (source, destination) = (lab.boot(spec), lab.vacancy(spec));
    let mut story = Story::of(&source);
    story.filled();
    story.goes_on(2);
    source.set(json!({ "whimbrel-digest": digest }));
    let uri = destination.listen_at(uri);
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(5);
    story.assert_intact();
    (source, destination, story)
}

#[test]
fn an_idle_machine_moves_over_a_unix_socket() {
    let Some(lab) = Lab::new() else { return };
    let uri = format!("unix:{}", lab.path("migration").display());
    move_once(&lab, &Spec::new("rate=0"), &uri, false);
    assert!(!lab.path("migration").exists(), "the destination left its socket behind");
}

#[test]
fn a_machine_of_zeros_moves() {
    let Some(lab) = Lab::new() else { return };
    let (source, ..) =
        move_once(&lab, &Spec::new("fill=zero rate=0").memory_mib(256), "tcp:127.0.0.1:0", true);
    let ram = source.query_migrate().ram.unwrap();
    assert!(ram.duplicate > 60_000, "{ram:?}");
    assert!(ram.transferred < 16 << 20, "zero pages are not sent with their contents: {ram:?}");
}

#[test]
fn a_busy_machine_moves_with_all_its_memory() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=32M rate=60M order=random touch=page fill=text").memory_mib(128);
    let (_source, _destination, story) = move_once(&lab, &spec, "tcp:127.0.0.1:0", true);
    let moved = story.reports().last().unwrap().clone();
    let later = story.goes_on(3);
    assert!(later.dirtied > moved.dirtied && later.verified > moved.verified, "{later:?}");
}

#[test]
fn a_machine_with_two_cpus_moves() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=32M rate=40M order=random touch=part").cpus(2).memory_mib(128);
    move_once(&lab, &spec, "tcp:[::1]:0", true);
}

#[test]
fn a_machine_with_four_cpus_moves() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=32M rate=20M order=random verify=10").cpus(4).memory_mib(128);
    let (.., story) = move_once(&lab, &spec, "tcp:127.0.0.1:0", true);
    assert_eq!(story.reports().last().unwrap().cpus, 4);
}

#[test]
fn a_machine_in_a_memfd_moves() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=20M").flag("--memory-backing", "memfd");
    move_once(&lab, &spec, "tcp:127.0.0.1:0", true);
}

#[test]
fn a_machine_in_huge_pages_moves() {
    let Some(lab) = Lab::new() else { return };
    // Two machines of 64 MiB.
    let Some(_pages) = HugePages::reserve(64) else { return };
    let spec = Spec::new("work=16M rate=20M").memory_mib(64).flag("--memory-backing", "hugetlb");
    move_once(&lab, &spec, "tcp:127.0.0.1:0", true);
}

#[test]
fn a_machine_moves_between_different_kinds_of_memory() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=20M");
    let source = lab.boot(&spec);
    let destination = lab.vacancy(&spec.clone().flag("--memory-backing", "memfd"));
    let mut story = Story::of(&source);
    story.filled();
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn one_channel_and_many_channels_carry_a_machine() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=20M");
    let mut here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    for channels in [1, 64] {
        let there = lab.vacancy(&spec);
        here.set(json!({ "multifd-channels": channels, "whimbrel-digest": true }));
        let info = here.moves_to(&there, &there.listen());
        assert_eq!(info.whimbrel.unwrap().channels, Some(channels));
        story.goes_on_at(&there);
        story.goes_on(2);
        here = there;
    }
    story.assert_intact();
}

#[test]
fn a_machine_moves_ten_times_and_nothing_is_lost() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=30M order=random touch=page").memory_mib(64).cpus(2);
    let mut here = lab.boot(&spec);
    let mut story = Story::of(&here);
    story.filled();
    for _ in 0..10 {
        let there = lab.vacancy(&spec);
        here.set(json!({ "whimbrel-digest": true }));
        here.moves_to(&there, &there.listen());
        story.goes_on_at(&there);
        story.goes_on(2);
        here = there;
    }
    let passes = story.reports().last().unwrap().passes;
    // All memory is looked at once more after the last move.
    story.wait_for("all memory was checked again", |report| report.passes >= passes + 2);
    story.assert_intact();

    // Time went on while it was nowhere: its wall clock is the host's.
    let host_ms = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let before = host_ms();
    // What was made before is still on its way: a report is made when the last one has left the guest.
    let told = story.goes_on(3).wall_ms;
    let (earliest, latest) = (before - 1000, host_ms() + 1000);
    assert!((earliest..latest).contains(&told), "the guest says {told}, the host {before}");
}

#[test]
fn a_machine_with_memory_above_the_hole_for_devices_moves() {
    let Some(lab) = Lab::new() else { return };
    // 3 GiB are below the hole. The guest owns what is there too, and leaves it untouched.
    let spec = Spec::new("fill=zero work=16M rate=20M").memory_mib(3072 + 64);
    let (source, ..) = move_once(&lab, &spec, "tcp:127.0.0.1:0", true);
    let ram = source.query_migrate().ram.unwrap();
    assert_eq!(ram.total, (3072 + 64) << 20);
}

#[test]
fn a_paused_machine_moves_and_stays_paused() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.command("stop", json!({}));
    let printed = story.lines();
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    assert_eq!(destination.run_state(), RunState::Paused);
    assert_eq!(story.lines(), printed, "it ran although it was paused");
    destination.command("cont", json!({}));
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_machine_that_never_ran_moves_and_boots_there() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let source = lab.boot(&spec.clone().with(&["-S"]));
    let destination = lab.vacancy(&spec);
    assert_eq!(source.run_state(), RunState::Prelaunch);
    source.moves_to(&destination, &destination.listen());
    destination.command("cont", json!({}));
    let story = Story::of(&destination);
    story.filled();
    story.goes_on(2);
    story.assert_intact();
}
