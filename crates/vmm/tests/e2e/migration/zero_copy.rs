//! Pages that are sent without a copy, as far as that can be without a network card.

use std::process::Command;

use monitor::types::MigrationStatus;
use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, Story, capability, skipped, until};

const ZERO_COPY: &str = "zero-copy-send";

/// A process that may pin so much memory and no more; `None` and a loud word where none can be made.
fn with_memlock(spec: &Spec, bytes: u64) -> Option<Spec> {
    let mut words = vec!["prlimit".to_owned(), format!("--memlock={bytes}")];
    let effective = capabilities(None).unwrap().effective;
    if effective.contains(CapabilitySet::IPC_LOCK) || geteuid().is_root() {
        // The limit does not hold for it otherwise, and root has it again with each program that it starts.
        if !effective.contains(CapabilitySet::SETPCAP) {
            skipped("only who has CAP_SETPCAP can do without CAP_IPC_LOCK");
            return None;
        }
        let without = ["setpriv", "--inh-caps=-ipc_lock", "--bounding-set=-ipc_lock", "--"];
        words.extend(without.map(str::to_owned));
    }
    for program in words.iter().filter(|word| !word.starts_with('-')) {
        if let Err(error) = Command::new(program).arg("--version").output() {
            skipped(&format!("{program} of util-linux cannot be run: {error}"));
            return None;
        }
    }
    Some(spec.clone().prefix(&words))
}

#[test]
fn a_machine_whose_pages_the_kernel_copies_all_the_same_arrives_whole_and_it_is_said() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=60M order=random");
    for uri in ["tcp:127.0.0.1:0".to_owned(), format!("unix:{}", lab.path("moves").display())] {
        let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
        let mut story = Story::of(&source);
        story.filled();
        source.enable(ZERO_COPY);
        source.set(json!({ "whimbrel-digest": "full", "max-bandwidth": 40_000_000 }));
        source.migrate(&destination.listen_at(&uri));
        source.round_is(2);
        source.set(json!({ "max-bandwidth": 0, "downtime-limit": 2000 }));
        let done = source.migration_is(MigrationStatus::Completed);
        let (ram, own) = (done.ram.unwrap(), done.whimbrel.unwrap());
        let said = own.decisions.iter().find(|decision| decision.text.contains(ZERO_COPY)).unwrap();
        if uri.starts_with("tcp") {
            assert!(said.text.contains("the kernel copies all the same"), "{said:?}");
        } else {
            assert!(said.text.contains("no zero-copy for this kind of connection"), "{said:?}");
        }
        // All of its 16 MiB, in batches of 1 MiB at most.
        assert!(ram.dirty_sync_missed_zero_copy >= 16, "{}", ram.dirty_sync_missed_zero_copy);
        story.goes_on_at(&destination);
        story.goes_on(3);
        story.assert_intact();
    }
}

#[test]
fn a_process_that_may_not_pin_enough_is_told_before_anything_moves() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let Some(limited) = with_memlock(&spec, 1 << 20) else { return };
    let (source, destination) = (lab.boot(&limited), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "multifd-channels": 4 }));
    let refused = source.refused("migrate-set-capabilities", capability(ZERO_COPY, true));
    assert!(refused.contains("RLIMIT_MEMLOCK") && refused.contains("1024 KiB"), "{refused}");
    source.set(json!({ "multifd-channels": 2 }));
    source.enable(ZERO_COPY);
    let refused = source.refused("migrate-set-parameters", json!({ "multifd-channels": 64 }));
    assert!(refused.contains("fewer channels"), "{refused}");
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn who_cancels_or_loses_a_destination_with_pages_on_their_way_has_a_machine_that_moves_next_time() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=60M order=random");
    let source = lab.boot(&spec);
    let mut story = Story::of(&source);
    story.filled();
    source.enable(ZERO_COPY);
    source.set(json!({ "whimbrel-digest": "transfer", "max-bandwidth": 10_000_000 }));
    let killed = lab.vacancy(&spec);
    source.migrate(&killed.listen());
    source.round_is(1);
    killed.kill();
    source.migration_fails();
    let left = lab.vacancy(&spec);
    source.migrate(&left.listen());
    source.round_is(1);
    source.command("migrate_cancel", Value::Null);
    source.migration_is(MigrationStatus::Cancelled);
    source.set(json!({ "max-bandwidth": 0, "downtime-limit": 2000 }));
    let destination = lab.vacancy(&spec);
    until("the guest goes on", || (story.reports().len() > 3).then_some(()));
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}
