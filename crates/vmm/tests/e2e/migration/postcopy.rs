//! Machines that run at the destination before their memory is there.

use monitor::types::{MigrationStatus, RunState};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    dump::{Core, dump_to},
    harness::{ControlGroup, HugePages, Lab, Spec, Story, Vmm, chain},
};

/// Switches postcopy on at the source.
fn by_postcopy(source: &Vmm, when: &str) {
    source.enable("postcopy-ram");
    source.set(json!({ "whimbrel-postcopy": when }));
}

/// A machine that runs at the destination and lacks pages, for a minute or more unless it is let have them: the guest touches little.
/// Returns both sides, what the guest says, and where the destination listens.
fn lacking_pages(lab: &Lab, spec: &Spec) -> (Vmm, Vmm, Story, String) {
    let (source, destination) = (lab.boot(spec), lab.vacancy(spec));
    let story = Story::of(&source);
    story.filled();
    by_postcopy(&source, "immediate");
    source.set(json!({ "max-postcopy-bandwidth": 1_000_000 }));
    let uri = destination.listen();
    source.migrate(&uri);
    source.migration_is(MigrationStatus::PostcopyActive);
    (source, destination, story, uri)
}

/// There and back again, both ways from the start.
fn goes_and_comes(spec: &Spec) {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(spec), lab.vacancy(spec));
    let mut story = Story::of(&source);
    story.filled();
    by_postcopy(&source, "immediate");
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(3);
    let back = lab.vacancy(spec);
    by_postcopy(&destination, "immediate");
    destination.moves_to(&back, &back.listen());
    story.goes_on_at(&back);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_machine_of_anonymous_memory_goes_and_comes_by_postcopy() {
    goes_and_comes(&Spec::new("work=32M rate=200M"));
}

#[test]
fn a_machine_of_memfd_memory_goes_and_comes_by_postcopy() {
    goes_and_comes(&Spec::new("work=32M rate=200M").flag("--memory-backing", "memfd"));
}

#[test]
fn a_machine_of_huge_pages_goes_and_comes_by_postcopy() {
    let Some(_pages) = HugePages::reserve(3 * 48) else { return };
    goes_and_comes(&Spec::new("work=32M rate=200M").cpus(2).flag("--memory-backing", "hugetlb"));
}

#[test]
fn a_machine_that_is_too_busy_for_rounds_moves_on_request() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=32M rate=400M").flag("--memory-backing", "memfd");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    by_postcopy(&source, "request");
    source.set(json!({ "max-bandwidth": 20_000_000, "downtime-limit": 1 }));
    source.migrate(&destination.listen());
    source.round_is(2);
    source.command("migrate-start-postcopy", json!({}));
    source.migration_is(MigrationStatus::Completed);
    assert_eq!(source.run_state(), RunState::Postmigrate);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_postcopy_is_paused_and_resumed_by_hand_and_neither_side_lets_go_meanwhile() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, mut story, uri) = lacking_pages(&lab, &Spec::calm());
    source.command("migrate-pause", json!({}));
    source.migration_is(MigrationStatus::PostcopyPaused);
    destination.migration_is(MigrationStatus::PostcopyPaused);
    for refused in ["quit", "migrate_cancel", "cont"] {
        source.refused(refused, json!({}));
    }
    destination.refused("migrate", json!({ "uri": "tcp:127.0.0.1:1" }));
    source.set(json!({ "max-postcopy-bandwidth": 0 }));
    destination.command("migrate-recover", json!({ "uri": uri }));
    source.command("migrate", json!({ "uri": uri, "resume": true }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_source_that_is_halted_is_taken_for_lost_and_found_again_when_it_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, mut story, _) = lacking_pages(&lab, &Spec::calm());
    source.signal(Signal::STOP);
    destination.migration_is(MigrationStatus::PostcopyPaused);
    assert_eq!(destination.run_state(), RunState::Running);
    source.signal(Signal::CONT);
    source.set(json!({ "max-postcopy-bandwidth": 0 }));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_destination_that_is_halted_has_its_pages_when_it_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, mut story, _) = lacking_pages(&lab, &Spec::calm());
    destination.signal(Signal::STOP);
    source.set(json!({ "max-postcopy-bandwidth": 0 }));
    // The source keeps what it has, and answers.
    assert!(source.query_migrate().status.is_some_and(MigrationStatus::is_postcopy));
    source.refused("quit", json!({}));
    destination.signal(Signal::CONT);
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_destination_whose_source_died_says_so_answers_and_ends() {
    let Some(lab) = Lab::new() else { return };
    let disk = lab.disk("disk", 8);
    let (source, destination, ..) = lacking_pages(&lab, &Spec::calm().disk(&disk));
    source.kill();
    destination.migration_is(MigrationStatus::PostcopyPaused);
    assert_eq!(destination.run_state(), RunState::Running);
    let missing = destination.query_migrate().whimbrel.unwrap().faults.unwrap().missing_pages;
    assert!(missing > 0, "pages went with the source");
    // No device waits for a page, and a vCPU that does comes out of the guest; but not where KVM itself touches the page for it. Then
    // the machine is not stopped, and says so.
    let stopped = destination.client().execute("stop", json!({}));
    let state = if stopped.is_ok() { RunState::Paused } else { RunState::Running };
    assert_eq!(destination.run_state(), state, "{stopped:?}");
    let why = stopped.err().map_or_else(|| "vCPU".to_owned(), |error| chain(&error));
    assert!(why.contains("vCPU"), "{why}");
    destination.command("quit", json!({}));
    assert!(destination.end().success());
}

/// With the source, what it had is gone; what is here of the machine can be looked at.
#[test]
fn a_machine_whose_source_died_can_be_dumped_without_what_it_lacks() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, ..) = lacking_pages(&lab, &Spec::calm());
    source.kill();
    destination.migration_is(MigrationStatus::PostcopyPaused);
    let path = lab.path("core");
    match destination.client().execute("dump-guest-memory", dump_to(&path)) {
        Ok(_) => {}
        // KVM itself waits for a page, and cannot be stopped.
        Err(error) => return assert!(chain(&error).contains("vCPU"), "{error}"),
    }
    let info = destination.query_migrate();
    let missing = info.whimbrel.unwrap().faults.unwrap().missing_pages;
    let memory = destination.command("query-dump", json!({}))["total"].as_u64().unwrap();
    let core = Core::read(&path);
    assert_eq!(core.bytes(), memory);
    assert_eq!(memory + missing * 4096, Spec::calm().memory_mib << 20);
    assert!(!core.notes.is_empty());
    assert_eq!(destination.run_state(), RunState::Running);
}

/// As after a power failure: what memory had is not needed, and the disk is here.
#[test]
fn a_machine_whose_source_died_can_be_reset() {
    let Some(lab) = Lab::new() else { return };
    let disk = lab.disk("disk", 8);
    let (source, destination, ..) = lacking_pages(&lab, &Spec::calm().disk(&disk));
    source.kill();
    destination.migration_is(MigrationStatus::PostcopyPaused);
    destination.command("system_reset", json!({}));
    destination.migration_is(MigrationStatus::Completed);
    assert_eq!(destination.run_state(), RunState::Running);
    let story = Story::of(&destination);
    story.says("whimbrel boot");
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_reset_while_pages_come_frees_the_source() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, ..) = lacking_pages(&lab, &Spec::calm());
    destination.command("system_reset", json!({}));
    source.migration_is(MigrationStatus::Completed);
    assert_eq!(source.run_state(), RunState::Postmigrate);
    let mut story = Story::of(&destination);
    story.says("whimbrel boot");
    story.filled();
    // All of its memory is its own again: it moves on.
    let third = lab.vacancy(&Spec::calm());
    destination.moves_to(&third, &third.listen());
    story.goes_on_at(&third);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_machine_that_ends_while_pages_come_frees_the_source() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, ..) = lacking_pages(&lab, &Spec::calm());
    destination.command("quit", json!({}));
    assert!(destination.end().success());
    source.migration_is(MigrationStatus::Completed);
    assert_eq!(source.run_state(), RunState::Postmigrate);
}

#[test]
fn a_source_whose_destination_died_starts_nothing_and_lets_go_when_it_is_told() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination, ..) = lacking_pages(&lab, &Spec::calm());
    destination.kill();
    source.migration_is(MigrationStatus::PostcopyPaused);
    assert_eq!(source.run_state(), RunState::FinishMigrate);
    source.refused("whimbrel-take-back", json!({ "force": true }));
    source.refused("cont", json!({}));
    // Between two tries it may be looking for the destination.
    source.command("whimbrel-let-go", json!({ "force": true }));
    source.migration_is(MigrationStatus::Completed);
    source.command("quit", json!({}));
    assert!(source.end().success());
}

#[test]
fn a_destination_without_memory_for_what_is_to_come_takes_no_machine() {
    let Some(lab) = Lab::new() else { return };
    let Some(group) = ControlGroup::limited("room", 64 << 20) else { return };
    for backing in ["anonymous", "memfd"] {
        let spec = Spec::new("work=32M rate=100M").flag("--memory-backing", backing);
        let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec.clone().prefix(&group.prefix())));
        let mut story = Story::of(&source);
        story.filled();
        by_postcopy(&source, "immediate");
        let uri = destination.listen();
        source.migrate(&uri);
        let failed = source.migration_is(MigrationStatus::Failed);
        let why = failed.error_desc.unwrap();
        assert!(why.contains("its control group has"), "{why}");
        assert!(destination.is_alive());
        story.goes_on(2);
        // Where there is room, it moves as ever.
        let roomy = lab.vacancy(&spec);
        source.moves_to(&roomy, &roomy.listen());
        story.goes_on_at(&roomy);
        story.goes_on(2);
        story.assert_intact();
    }
}
