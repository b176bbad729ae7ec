//! What the VMM needs beyond the guest's memory.

use std::fmt::Write as _;

use monitor::types::MigrationStatus;
use serde_json::json;

use crate::harness::{Lab, Spec, Story, Vmm, holds};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What a process holds in memory beyond the guest's, in bytes, and what that consists of.
fn beyond_the_guest(vmm: &Vmm, guest_bytes: u64) -> (u64, String) {
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", vmm.pid())).unwrap();
    let (mut resident, mut parts) = (0, String::new());
    let mut guests = 0;
    let mut mapping = "";
    let mut is_guest = false;
    for line in smaps.lines() {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let kib = value.trim().strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok());
        match (key, kib) {
            // The kernel joins neighbours of a kind, so that the mapping may be a little larger.
            ("Size", Some(kib)) => {
                is_guest = kib * KIB >= guest_bytes;
                guests += u32::from(is_guest);
            }
            ("Rss", Some(kib)) if !is_guest => {
                resident += kib * KIB;
                if kib > 512 {
                    let _ = write!(parts, "\n{kib} KiB: {mapping}");
                }
            }
            (_, Some(_)) => {}
            _ if line.contains('-') => mapping = line,
            _ => {}
        }
    }
    assert_eq!(guests, 1, "guest memory is one mapping:\n{smaps}");
    (resident, parts)
}

/// What a process holds in memory, in bytes.
fn resident(vmm: &Vmm) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vmm.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * KIB
}

/// The limit: 30 MiB, and two bits for each page of the guest.
fn assert_within_limit(vmm: &Vmm, spec: &Spec, when: &str) {
    let guest_bytes = spec.memory_mib * MIB;
    let limit = 30 * MIB + guest_bytes / 4096 * 2 / 8;
    let (resident, parts) = beyond_the_guest(vmm, guest_bytes);
    assert!(
        resident < limit,
        "{} holds {} KiB {when}, over {} KiB:{parts}",
        vmm.name(),
        resident / KIB,
        limit / KIB
    );
}

fn stays_within_limit(spec: &Spec, channels: u32) {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(spec), lab.vacancy(spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    assert_within_limit(&source, spec, "before a migration");
    assert_within_limit(&destination, spec, "before a migration");
    source.set(json!({ "max-bandwidth": 100_000_000, "multifd-channels": channels, "downtime-limit": 1 }));
    source.migrate(&uri);
    for round in 1..4 {
        source.round_is(round);
        assert_within_limit(&source, spec, "during a migration");
        assert_within_limit(&destination, spec, "during a migration");
    }
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 1000 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(2);
    assert_within_limit(&destination, spec, "after a migration");
    story.assert_intact();
    holds("the source gives the memory of the machine back", || resident(&source) < 30 * MIB);
}

#[test]
fn a_machine_needs_little_beyond_its_memory() {
    stays_within_limit(&Spec::new("work=16M rate=60M order=random").memory_mib(256), 4);
}

#[test]
fn a_large_machine_with_many_channels_needs_little_beyond_its_memory() {
    // Of 2 GiB the guest uses a little; the tables for them are there nevertheless.
    let spec = Spec::new("work=16M rate=60M order=random own=64M").memory_mib(2048).cpus(4);
    stays_within_limit(&spec.flag("--memory-backing", "memfd"), 16);
}

#[test]
fn memory_that_was_never_touched_is_not_made_by_a_migration_whatever_its_size_and_make() {
    let Some(lab) = Lab::new() else { return };
    for (mib, there, here) in
        [(66, "memfd", "anonymous"), (3074, "anonymous", "memfd"), (4102, "memfd", "anonymous")]
    {
        let spec = |make| Spec::new("work=8M rate=8M own=32M").memory_mib(mib).flag("--memory-backing", make);
        let (source, destination) = (lab.boot(&spec(there)), lab.vacancy(&spec(here)));
        let mut story = Story::of(&source);
        story.filled();
        let uri = destination.listen();
        let before = resident(&source);
        source.set(json!({ "max-bandwidth": 100_000_000, "downtime-limit": 1 }));
        source.migrate(&uri);
        source.round_is(3);
        let after = resident(&source);
        // What the migration itself needs, and what the guest does meanwhile.
        assert!(after < before + 24 * MIB, "{mib} MiB: {} KiB became {} KiB", before / KIB, after / KIB);
        source.set(json!({ "max-bandwidth": 0, "downtime-limit": 2000 }));
        source.migration_is(MigrationStatus::Completed);
        assert!(
            resident(&destination) < after + 24 * MIB,
            "{mib} MiB: {} KiB there",
            resident(&destination) / KIB
        );
        story.goes_on_at(&destination);
        story.goes_on(2);
        story.assert_intact();
    }
}
