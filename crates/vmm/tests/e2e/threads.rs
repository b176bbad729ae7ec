//! The threads of a process are known by name and id, so that they can be pinned to CPUs before they matter.

use std::collections::BTreeMap;

use monitor::types::{MigrationStatus, RunState};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, Story, Vmm, holds, until};

const NONE: Value = Value::Null;

/// Ids of the vCPUs' threads, as the monitor says; each is checked to be one.
fn vcpus(vmm: &Vmm) -> Vec<i32> {
    let cpus = vmm.command("query-cpus-fast", NONE);
    let check = |(index, cpu): (usize, &Value)| {
        let id = cpu["thread-id"].as_i64().unwrap();
        assert_eq!(name(vmm, id).unwrap(), format!("vcpu{index}"));
        i32::try_from(id).unwrap()
    };
    cpus.as_array().unwrap().iter().enumerate().map(check).collect()
}

/// The name of a thread, if it is there.
fn name(vmm: &Vmm, id: i64) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{}/task/{id}/comm", vmm.pid())).ok()?;
    Some(name.trim_end().to_owned())
}

/// All threads by name, as the monitor says.
fn threads(vmm: &Vmm) -> BTreeMap<String, i64> {
    let threads = vmm.command("query-whimbrel-threads", NONE);
    let entry =
        |thread: &Value| (thread["name"].as_str().unwrap().into(), thread["thread-id"].as_i64().unwrap());
    threads.as_array().unwrap().iter().map(entry).collect()
}

fn pinned_to(id: i32) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(id)).unwrap();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[test]
fn vcpus_are_pinned_before_their_machine_comes_and_stay_so_after_failures() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm().cpus(2);
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let ids = vcpus(&destination);
    assert_eq!(ids.len(), 2);
    let one = pinned_to(ids[0])[0];
    let mut set = CpuSet::new();
    set.set(one);
    ids.iter().for_each(|id| sched_setaffinity(Pid::from_raw(*id), &set).unwrap());

    let uri = destination.listen();
    for _ in 0..2 {
        source.set(json!({ "max-bandwidth": 1_000_000 }));
        source.migrate(&uri);
        source.round_is(1);
        source.command("migrate_cancel", NONE);
        source.migration_is(MigrationStatus::Cancelled);
        until("the attempt is over", || destination.query_migrate().error_desc);
    }
    source.set(json!({ "max-bandwidth": 0 }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    assert_eq!(vcpus(&destination), ids);
    ids.iter().for_each(|id| assert_eq!(pinned_to(*id), [one]));
    story.goes_on(3);
    story.assert_intact();
    assert!(vcpus(&source).is_empty(), "its threads are gone with the machine");
}

#[test]
fn threads_are_listed_with_their_names_while_a_machine_moves_and_otherwise() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    for vmm in [&source, &destination] {
        let listed = threads(vmm);
        for expected in ["whimbrel-vmm", "vcpu0", "launcher", "monitor"] {
            assert!(listed.contains_key(expected), "{expected}: {listed:?}");
        }
    }
    source.set(json!({ "max-bandwidth": 1_000_000, "multifd-channels": 2 }));
    source.migrate(&destination.listen());
    source.round_is(1);
    let wanted = [
        (&source, vec!["migration", "mig-control", "mig-send-0", "mig-send-1"]),
        (&destination, vec!["migration", "mig-control", "mig-recv-0", "mig-recv-1", "mig-accept"]),
    ];
    for (vmm, wanted) in wanted {
        // A thread is started, and then it has a name.
        holds("the threads are there", || {
            let listed = threads(vmm);
            wanted.iter().all(|expected| listed.contains_key(*expected))
        });
        let listed = threads(vmm);
        for expected in wanted {
            let id = *listed.get(expected).unwrap_or_else(|| panic!("{expected}: {listed:?}"));
            assert_eq!(name(vmm, id).as_deref(), Some(expected));
            let text = vmm.client().human("info threads").unwrap();
            assert!(text.contains(&format!("{expected}: thread_id={id}")), "{text}");
        }
    }
    source.set(json!({ "max-bandwidth": 0 }));
    source.migration_is(MigrationStatus::Completed);
    assert_eq!(destination.run_state(), RunState::Running);
    holds("the threads of the migration are gone", || {
        threads(&source).keys().all(|name| !name.starts_with("mig"))
    });
    story.goes_on_at(&destination);
    story.goes_on(2);
}
