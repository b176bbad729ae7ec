//! What `query-status` says is what the vCPUs do, also after a command that was not, or only half, done.

use monitor::types::RunState;
use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE, Spec, Story, Vmm, holds};

const NONE: Value = Value::Null;

/// CPU time that the vCPUs' threads have used, in nanoseconds (Linux, Documentation/scheduler/sched-stats.rst).
fn vcpu_time(vmm: &Vmm) -> u64 {
    let time = |text: String| text.split_whitespace().next().unwrap().parse::<u64>().unwrap();
    of_vcpus(vmm, "schedstat").into_iter().map(time).sum()
}

/// Whether all of them wait for something (proc(5), `/proc/pid/stat`).
fn vcpus_sleep(vmm: &Vmm) -> bool {
    let state = |text: &String| text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'));
    of_vcpus(vmm, "stat").iter().all(state)
}

/// What the kernel says of the vCPUs' threads.
fn of_vcpus(vmm: &Vmm, file: &str) -> Vec<String> {
    let cpus = vmm.command("query-cpus-fast", NONE);
    let path = |cpu: &Value| format!("/proc/{}/task/{}/{file}", vmm.pid(), cpu["thread-id"]);
    cpus.as_array().unwrap().iter().map(|cpu| std::fs::read_to_string(path(cpu)).unwrap()).collect()
}

/// Asserts that the state is this one, and that the vCPUs do accordingly. A guest that runs is busy.
fn is_truly(vmm: &Vmm, state: RunState) {
    assert_eq!(vmm.run_state(), state);
    if state == RunState::Running {
        let before = vcpu_time(vmm);
        holds("the vCPUs run", || vcpu_time(vmm) > before);
    } else {
        // A thread that has said that it is parked still has to go to sleep, and may have to wait for a processor to do so.
        holds("the vCPUs sleep", || vcpus_sleep(vmm));
        let before = vcpu_time(vmm);
        (0..50).for_each(|_| assert_eq!(vmm.run_state(), state));
        assert_eq!(vcpu_time(vmm), before, "it is {state}, and the vCPUs run");
    }
}

#[test]
fn a_reset_that_cannot_be_done_changes_nothing_and_can_be_done_later() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let story = Story::of(&vmm);
    story.filled();
    let kernel = std::fs::read(lab.kernel()).unwrap();
    std::fs::write(lab.kernel(), b"something else").unwrap();
    let events = vmm.events();
    let refused = |vmm: &Vmm| vmm.refused("system_reset", NONE);
    let why = refused(&vmm);
    for part in ["not reset", "as it was", "overwritten", &lab.kernel().display().to_string()] {
        assert!(why.contains(part), "{part}: {why}");
    }
    is_truly(&vmm, RunState::Running);
    story.goes_on(3);
    vmm.command("stop", NONE);
    assert!(events.wait_for("STOP", PATIENCE).is_some());
    refused(&vmm);
    is_truly(&vmm, RunState::Paused);
    vmm.command("cont", NONE);
    is_truly(&vmm, RunState::Running);
    story.goes_on(3);
    story.assert_intact();

    std::fs::write(lab.kernel(), &kernel).unwrap();
    vmm.command("system_reset", NONE);
    holds("it boots again", || {
        story.lines().iter().filter(|line| line.contains("whimbrel boot")).count() == 2
    });
    // What is put in its place is not what the machine boots.
    std::fs::remove_file(lab.kernel()).unwrap();
    std::fs::write(lab.kernel(), b"something else").unwrap();
    vmm.command("system_reset", NONE);
    holds("it boots once more", || {
        story.lines().iter().filter(|line| line.contains("whimbrel boot")).count() == 3
    });
    is_truly(&vmm, RunState::Running);
}

#[test]
fn a_guest_that_cannot_be_reset_as_it_wants_is_stopped_until_it_can() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm().typed());
    let story = Story::of(&vmm);
    story.filled();
    let kernel = std::fs::read(lab.kernel()).unwrap();
    std::fs::write(lab.kernel(), b"something else").unwrap();
    let events = vmm.events();
    vmm.types("reset\n");
    assert!(events.wait_for("STOP", PATIENCE).is_some());
    is_truly(&vmm, RunState::InternalError);
    let log = vmm.log();
    assert!(log.contains("overwritten") && log.contains("system_reset"), "{log}");
    vmm.command("stop", NONE);
    is_truly(&vmm, RunState::InternalError);
    for (command, arguments) in [("cont", NONE), ("migrate", json!({ "uri": "tcp:127.0.0.1:1" }))] {
        let why = vmm.refused(command, arguments);
        assert!(why.contains("reset it"), "{command}: {why}");
    }
    assert!(vmm.refused("system_reset", NONE).contains("overwritten"));
    is_truly(&vmm, RunState::InternalError);

    std::fs::write(lab.kernel(), &kernel).unwrap();
    vmm.command("system_reset", NONE);
    is_truly(&vmm, RunState::Paused);
    vmm.command("cont", NONE);
    holds("it boots again", || {
        story.lines().iter().filter(|line| line.contains("whimbrel boot")).count() == 2
    });
    is_truly(&vmm, RunState::Running);
}

#[test]
fn commands_that_are_refused_or_come_to_nothing_leave_the_machine_as_it_was() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm().disk(&lab.disk("one.img", 4)).flag("--balloon", "off");
    let vmm = lab.boot(&spec);
    let story = Story::of(&vmm);
    story.filled();
    for state in [RunState::Running, RunState::Paused] {
        let fruitless = [
            ("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" })),
            ("migrate", json!({ "uri": "tcp:192.0.2.1:4444" })),
            ("migrate-continue", json!({ "state": "pre-switchover" })),
            ("whimbrel-take-back", json!({ "force": true })),
            ("whimbrel-let-go", json!({ "force": true })),
            ("query-balloon", NONE),
            ("balloon", json!({ "value": 1 << 20 })),
        ];
        for (command, arguments) in fruitless {
            let outcome = vmm.client().execute(command, arguments);
            if command == "migrate" && outcome.is_ok() {
                vmm.migration_fails();
            } else {
                outcome.unwrap_err();
            }
            is_truly(&vmm, state);
        }
        vmm.migrate("tcp:127.0.0.1:1");
        vmm.migration_fails();
        is_truly(&vmm, state);
        vmm.command("migrate_cancel", NONE);
        is_truly(&vmm, state);
        vmm.command("stop", NONE);
        is_truly(&vmm, RunState::Paused);
    }
    vmm.command("cont", NONE);
    is_truly(&vmm, RunState::Running);
    story.goes_on(2);
    story.assert_intact();
}
