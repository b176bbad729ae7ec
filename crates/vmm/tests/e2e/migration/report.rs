//! The report that each side leaves of every migration.

use std::{
    fs,
    path::{Path, PathBuf},
};

use monitor::types::{MigrationStatus, RunState};
use report::{Outcome, Report, Side};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Lab, PAUSE_BEFORE_SWITCHOVER, Spec, Story, until};

/// A directory for reports, and a machine that leaves them there.
fn reporting(lab: &Lab, guest: &str) -> (PathBuf, Spec) {
    let directory = lab.path("reports");
    fs::create_dir(&directory).unwrap();
    let spec = Spec::new(guest).flag("--report-dir", directory.to_str().unwrap());
    (directory, spec)
}

/// Waits until there are that many reports, and reads them in the order of their names.
fn reports(directory: &Path, count: usize) -> Vec<Report> {
    let names = until(&format!("{count} reports"), || {
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.filter(|path| !hidden(path)).collect();
        names.sort();
        (names.len() >= count).then_some(names)
    });
    assert_eq!(names.len(), count, "{names:?}");
    assert!(
        !fs::read_dir(directory).unwrap().any(|entry| hidden(&entry.unwrap().path())),
        "something is left over"
    );
    names.iter().map(|path| read(path)).collect()
}

fn hidden(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with('.')
}

/// Reads a report, which must be as the schema in the documentation says.
fn read(path: &Path) -> Report {
    let bytes = fs::read(path).unwrap();
    assert_valid(&serde_json::from_slice(&bytes).unwrap());
    let report = Report::read(&bytes).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let side = if report.side == Side::Source { "source" } else { "destination" };
    let session = report.session.as_ref().unwrap();
    assert!(name.ends_with(&format!("-{session}-{side}.json")), "{name}");
    report
}

fn assert_valid(report: &Value) {
    let schema: Value = serde_json::from_str(include_str!("../../../../../docs/report.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(report).map(|error| format!("{error}")).collect();
    assert!(errors.is_empty(), "{errors:#?} in {report:#}");
}

/// The two reports of one migration: the source's and the destination's.
fn both(directory: &Path) -> (Report, Report) {
    let mut reports = reports(directory, 2);
    reports.sort_by_key(|report| report.side == Side::Destination);
    let [source, destination] = <[Report; 2]>::try_from(reports).unwrap();
    assert_eq!((source.side, destination.side), (Side::Source, Side::Destination));
    assert_eq!(source.session, destination.session);
    (source, destination)
}

#[test]
fn both_sides_report_a_migration_that_goes_well() {
    let Some(lab) = Lab::new() else { return };
    let (directory, spec) = reporting(&lab, "work=16M rate=20M own=32M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    let refused = source.refused("query-whimbrel-report", Value::Null);
    assert!(refused.contains("There is no report"), "{refused}");
    source.moves_to(&destination, &destination.listen());

    let (here, there) = both(&directory);
    assert_eq!((here.outcome, there.outcome), (Outcome::Completed, Outcome::Completed));
    let sum = |count: fn(&report::Round) -> u64| here.rounds.iter().map(count).sum::<u64>();
    assert_eq!(sum(|round| round.bytes), here.totals.bytes);
    assert_eq!(sum(|round| round.raw_pages), here.totals.raw_pages);
    assert_eq!(
        (there.totals.raw_pages, there.totals.zero_pages),
        (here.totals.raw_pages, here.totals.zero_pages)
    );
    assert_eq!(there.totals.bytes - greetings(&there), here.totals.bytes, "each byte sent has arrived");
    assert!(here.rounds.iter().all(|round| round.last == (round.round as usize == here.rounds.len())));
    let switched = here.decisions.last().unwrap();
    assert!(switched.text.starts_with("Switched after round") && switched.text.contains('≤'), "{switched:?}");
    let downtime = here.downtime.as_ref().unwrap();
    let parts: f64 = downtime.phases.iter().filter(|phase| !phase.beside).map(|phase| phase.ms).sum();
    assert!(parts <= downtime.total_ms.unwrap() + 2.0, "{downtime:?}");
    assert!(there.arrived.as_ref().unwrap().channels.iter().all(|channel| channel.error.is_none()));
    assert_eq!(here.destination.release, there.destination.release);

    // The monitor has them too.
    for (vmm, file) in [(&source, &here), (&destination, &there)] {
        let said = vmm.command("query-whimbrel-report", Value::Null);
        assert_valid(&said);
        let said = Report::read(said.to_string().as_bytes()).unwrap();
        assert_eq!((said.outcome, &said.totals, &said.rounds), (file.outcome, &file.totals, &file.rounds));
    }
}

/// Bytes of the greetings on the channels: the source does not count them, as they belong to no round.
fn greetings(report: &Report) -> u64 {
    report.arrived.as_ref().unwrap().channels.len() as u64 * wire::GREETING_BYTES as u64
}

#[test]
fn a_cancelled_migration_is_reported_on_both_sides() {
    let Some(lab) = Lab::new() else { return };
    let (directory, spec) = reporting(&lab, "work=4M rate=2M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PreSwitchover);
    let under_way = source.command("query-whimbrel-report", Value::Null);
    assert_valid(&under_way);
    assert_eq!(under_way["outcome"], "under-way");
    source.command("migrate_cancel", json!({}));
    source.migration_is(MigrationStatus::Cancelled);

    let (here, there) = both(&directory);
    assert_eq!((here.outcome, there.outcome), (Outcome::Cancelled, Outcome::Failed));
    // The word and the end of the connections are on different connections: either comes first.
    let reason = there.reason.unwrap();
    assert!(reason.contains("cancelled by the user") || reason.contains("closed the connection"), "{reason}");
    assert!(here.downtime.unwrap().total_ms.is_none());
    let said = destination.command("query-whimbrel-report", Value::Null);
    assert_eq!(said["session"], json!(here.session));
}

#[test]
fn a_machine_that_is_refused_is_reported_with_every_reason() {
    let Some(lab) = Lab::new() else { return };
    let (directory, spec) = reporting(&lab, "work=4M rate=2M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec.clone().memory_mib(64)));
    source.migrate(&destination.listen());
    source.migration_fails();
    let (here, there) = both(&directory);
    assert_eq!((here.outcome, there.outcome), (Outcome::Failed, Outcome::Failed));
    assert!(there.reason.unwrap().contains("give both the same memory size"));
    let arrived = there.arrived.unwrap();
    assert_eq!(
        (arrived.messages, arrived.last_message.as_deref(), arrived.channels.len()),
        (1, Some("Hello"), 0)
    );
    assert!(here.downtime.is_none());
}

#[test]
fn what_arrived_of_a_source_that_died_is_reported() {
    let Some(lab) = Lab::new() else { return };
    let (directory, spec) = reporting(&lab, "work=16M rate=20M own=48M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    source.set(json!({ "max-bandwidth": 20_000_000, "multifd-channels": 2 }));
    source.migrate(&destination.listen());
    until("pages arrive", || {
        destination.query_migrate().whimbrel?.arrived.is_some_and(|arrived| arrived.pages > 100).then_some(())
    });
    source.kill();
    let report = reports(&directory, 1).remove(0);
    assert_eq!((report.side, report.outcome), (Side::Destination, Outcome::Failed));
    let arrived = report.arrived.unwrap();
    assert_eq!(arrived.channels.len(), 2);
    let pages: u64 = arrived.channels.iter().map(|channel| channel.raw_pages).sum();
    assert!(pages >= 100 && pages == report.totals.raw_pages, "{arrived:?}");
    // One channel may have taken every chunk so far: there is a bandwidth limit.
    for channel in arrived.channels.iter().filter(|channel| channel.raw_pages > 0) {
        assert!(channel.frames > 1 && channel.last_frame.as_deref() == Some("Pages"), "{channel:?}");
        // Each whole batch: header, table, contents.
        assert!(channel.bytes > channel.raw_pages * 4096 + channel.frames * 16, "{channel:?}");
    }
    let broken = arrived.channels.iter().filter(|channel| channel.error.is_some()).count();
    assert!(broken > 0 || arrived.error.is_some(), "{arrived:?}");
}

#[test]
fn a_process_that_ends_in_the_middle_of_a_switchover_reports_it() {
    let Some(lab) = Lab::new() else { return };
    let (directory, spec) = reporting(&lab, "work=4M rate=2M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PreSwitchover);
    destination.signal(Signal::STOP);
    source.command("migrate-continue", json!({ "state": "pre-switchover" }));
    // Before *go* the end of the process is a cancel.
    source.command("quit", json!({}));
    assert!(source.end().success());
    let report = reports(&directory, 1).remove(0);
    assert_eq!((report.side, report.outcome), (Side::Source, Outcome::Cancelled));
    destination.signal(Signal::CONT);
}

#[test]
fn reports_that_cannot_be_written_fail_no_migration() {
    let Some(lab) = Lab::new() else { return };
    let (directory, spec) = reporting(&lab, "work=4M rate=2M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    fs::remove_dir(&directory).unwrap();
    source.moves_to(&destination, &destination.listen());
    until("the source says so", || source.log().contains("cannot be written to").then_some(()));
    assert_eq!(destination.run_state(), RunState::Running);
}

#[test]
fn how_pages_followed_a_machine_is_told_by_both_sides() {
    let Some(lab) = Lab::new() else { return };
    let (directory, spec) = reporting(&lab, "work=32M rate=200M");
    let spec = spec.cpus(2);
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.enable("postcopy-ram");
    source.set(json!({ "whimbrel-postcopy": "immediate" }));
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(1);
    story.assert_intact();

    let mut reports = reports(&directory, 2);
    reports.sort_by_key(|report| report.side == Side::Destination);
    let followed = |report: &Report| report.following.clone().unwrap();
    let (left, came) = (followed(&reports[0]), followed(&reports[1]));
    assert_eq!((left.missing_pages, came.missing_pages), (0, 0));
    assert!(left.bytes.unwrap() > 32 << 20 && left.requests.unwrap() > 0, "{left:?}");
    let waits = came.waits.unwrap();
    assert!(waits.count > 0 && waits.histogram.iter().sum::<u64>() == waits.count, "{waits:?}");
    let (faults, last) =
        (waits.steps.iter().map(|step| step.faults).sum::<u64>(), waits.steps.last().unwrap());
    assert!(faults >= waits.count && last.missing_pages < 32 << 8, "{waits:?}");
    // Both write all over their memory. All of them stood still for no longer than any did, and each no longer than all accesses took.
    let [one, two] = waits.vcpu_block_ms[..] else { panic!("{waits:?}") };
    let total = waits.mean_ms.unwrap() * waits.count as f64;
    assert!(
        one > 0.0 && two > 0.0 && waits.block_ms <= one.min(two) && one.max(two) <= total * 1.001,
        "{waits:?}"
    );
    // Where the time went is known of all waits but those for pages that came before they were heard of.
    let stages = [waits.under_way_ms, waits.receiving_ms, waits.placing_ms];
    assert!(
        stages.iter().all(|part| *part > 0.0) && stages.iter().sum::<f64>() <= total * 1.001,
        "{waits:?}"
    );
    assert!(waits.pushed <= waits.count, "{waits:?}");
    let info = destination.query_migrate();
    assert_eq!(info.postcopy_vcpu_blocktime.unwrap().len(), 2);
    assert_eq!(info.postcopy_blocktime.unwrap(), waits.block_ms as u64);
}
