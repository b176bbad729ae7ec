//! What the monitor says of a migration: events, figures, the text of `info migrate`.

use std::time::{Duration, Instant};

use monitor::{
    EventQueue,
    types::{MigrationInfo, MigrationStatus},
};
use serde_json::json;

use crate::harness::{Lab, MIGRATION_EVENTS, PATIENCE, Spec, Story, until};

/// The names of the events up to a status of the migration. The status stands for the event MIGRATION, and `pass` for the next
/// MIGRATION_PASS.
fn told(events: &EventQueue, last: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while told.last().is_none_or(|name| name != last) {
        let event = events.next(deadline.saturating_duration_since(Instant::now()));
        let event = event.unwrap_or_else(|| panic!("'{last}' was not told: {told:?}"));
        let data = event.data.unwrap_or_default();
        let passes = told.iter().filter(|name| *name == "pass").count();
        told.push(match (data["status"].as_str(), data["pass"].as_u64()) {
            (Some(status), _) => status.to_owned(),
            (_, Some(pass)) if pass == passes as u64 + 1 => "pass".to_owned(),
            (_, Some(pass)) => panic!("pass {pass} after {passes}"),
            _ => event.event,
        });
    }
    told
}

#[test]
fn events_tell_of_both_sides_in_order() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=20M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    source.enable(MIGRATION_EVENTS);
    destination.enable(MIGRATION_EVENTS);
    let uri = destination.listen();
    let (here, there) = (source.events(), destination.events());
    while here.next(Duration::ZERO).is_some() {}
    source.moves_to(&destination, &uri);

    let told_here = told(&here, "completed");
    let rounds = told_here.iter().filter(|name| *name == "pass").count() - 2;
    let expected: Vec<&str> = ["setup", "pass", "active"]
        .into_iter()
        .chain(std::iter::repeat_n("pass", rounds))
        // The set of the last pass is made when the machine is stopped.
        .chain(["device", "STOP", "pass", "completed"])
        .collect();
    assert_eq!(told_here, expected);
    assert_eq!(source.query_migrate().ram.unwrap().dirty_sync_count, rounds as u64 + 2);
    let told_there = told(&there, "completed");
    assert_eq!(told_there, ["setup", "active", "device", "RESUME", "completed"]);
}

#[test]
fn a_cancelled_migration_tells_that_the_machine_runs_again() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    source.command(
        "migrate-set-capabilities",
        json!({ "capabilities": [{ "capability": "events", "state": true },
                                 { "capability": "pause-before-switchover", "state": true }] }),
    );
    let events = source.events();
    while events.next(Duration::ZERO).is_some() {}
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::PreSwitchover);
    source.command("migrate_cancel", json!({}));
    let told = told(&events, "cancelled");
    let end = told.len() - 3;
    assert_eq!(told[end..], ["cancelling", "RESUME", "cancelled"], "{told:?}");
    assert!(told[..end].ends_with(&["device".into(), "STOP".into(), "pre-switchover".into()]), "{told:?}");
}

#[test]
fn the_figures_of_a_migration_fit_together() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=20M own=48M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    assert_eq!(source.query_migrate(), MigrationInfo::default());
    source.set(json!({ "max-bandwidth": 60_000_000, "multifd-channels": 2 }));
    source.migrate(&destination.listen());
    let mut seen: Vec<MigrationInfo> = Vec::new();
    let done = until("the migration is completed", || {
        let info = source.query_migrate();
        seen.push(info.clone());
        info.status.is_some_and(MigrationStatus::is_final).then_some(info)
    });
    assert_eq!(done.status, Some(MigrationStatus::Completed), "{done:?}");
    while_it_ran(&seen);
    in_the_end(&done, 96 << 20);

    // What the destination counted is what the source sent.
    let there = destination.query_migrate();
    assert_eq!((there.ram, there.error_desc), (None, None));
    let arrived = there.whimbrel.unwrap().arrived.unwrap();
    let sent = done.ram.unwrap();
    assert_eq!((arrived.pages, arrived.zero_pages), (sent.normal, sent.duplicate));
    assert_eq!((arrived.bytes, arrived.memory_bytes), (sent.normal_bytes, sent.total));
}

/// Between two looks nothing runs backwards that must not, and what does says why.
fn while_it_ran(seen: &[MigrationInfo]) {
    for pair in seen.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert!(after.total_time >= before.total_time, "{pair:#?}");
        let (Some(more_before), Some(more)) = (&before.whimbrel, &after.whimbrel) else { continue };
        assert!(more.cpu_seconds >= more_before.cpu_seconds, "{pair:#?}");
        assert!(more.rounds.len() >= more_before.rounds.len(), "{pair:#?}");
        if more.percentage < more_before.percentage {
            assert!(more.eta_note.is_some(), "it ran backwards and does not say why: {pair:#?}");
        }
        let (Some(ram_before), Some(ram)) = (&before.ram, &after.ram) else { continue };
        assert!(ram.transferred >= ram_before.transferred, "{pair:#?}");
        assert!(ram.normal >= ram_before.normal && ram.duplicate >= ram_before.duplicate, "{pair:#?}");
        assert!(ram.dirty_sync_count >= ram_before.dirty_sync_count, "{pair:#?}");
    }
    let active: Vec<_> = seen.iter().filter(|info| info.status == Some(MigrationStatus::Active)).collect();
    assert!(active.len() > 10, "only {} looks at a migration that took a second", active.len());
    for info in active {
        let (ram, more) = (info.ram.as_ref().unwrap(), info.whimbrel.as_ref().unwrap());
        assert!(ram.remaining <= ram.total && info.expected_downtime.is_some(), "{info:#?}");
        assert!((0.0..100.0).contains(&more.percentage.unwrap()), "{info:#?}");
        assert!(
            more.eta_ms.is_some() || more.eta_note.is_some() || more.percentage == Some(0.0),
            "{info:#?}"
        );
        assert!((info.downtime, more.channels) == (None, Some(2)), "{info:#?}");
    }
}

/// What a migration that is over has done.
fn in_the_end(done: &MigrationInfo, memory: u64) {
    let (ram, more) = (done.ram.as_ref().unwrap(), done.whimbrel.as_ref().unwrap());
    assert_eq!((ram.remaining, ram.total, ram.page_size), (0, memory, 4096));
    assert_eq!(ram.normal_bytes, ram.normal * 4096);
    assert_eq!(ram.transferred, ram.precopy_bytes + ram.downtime_bytes);
    assert_eq!((ram.transferred, ram.postcopy_bytes), (ram.multifd_bytes, 0));
    assert!(ram.normal + ram.duplicate >= memory / 4096, "not every page was sent: {ram:?}");
    assert!(ram.mbps > 0.0 && ram.pages_per_second > 0, "{ram:?}");

    let sum = |count: fn(&monitor::types::RoundInfo) -> u64| more.rounds.iter().map(count).sum::<u64>();
    assert_eq!(sum(|round| round.bytes), ram.transferred);
    assert_eq!(sum(|round| round.pages), ram.normal + ram.duplicate);
    assert_eq!(sum(|round| round.zero_pages), ram.duplicate);
    // One for each round, and one when the machine is stopped.
    assert_eq!(more.rounds.len() as u64 + 1, ram.dirty_sync_count);
    let numbers: Vec<_> = more.rounds.iter().map(|round| round.round).collect();
    assert_eq!(numbers, (1..=more.rounds.len() as u32).collect::<Vec<_>>());
    for pair in more.rounds.windows(2) {
        let last = pair[1].round == more.rounds.len() as u32;
        // What was found dirty after a round is the work of the next; more is found when the machine is stopped.
        assert!(last || pair[1].pages == pair[0].dirty_pages, "{pair:?}");
        assert!(last || pair[1].decision.is_some(), "{pair:?}");
    }

    let downtime = done.downtime.unwrap() as f64;
    let phases = more.downtime_phases.as_ref().unwrap();
    let parts: f64 = phases.measured().map(|(_, ms)| ms).sum();
    // Saving goes on beside the last pages, so the parts may be more than the whole by that much.
    let beside = phases.save_ms.unwrap_or(0.0).min(phases.last_pages_ms.unwrap_or(0.0));
    assert!(parts - beside <= downtime + 2.0 && downtime <= parts + 20.0, "{downtime} ms are {phases:?}");
    let rounds: u64 = more.rounds.iter().map(|round| round.duration_ms).sum();
    assert!(done.total_time.unwrap() + 5 >= rounds + done.setup_time.unwrap(), "{done:#?}");
    assert_eq!((more.percentage, more.eta_ms), (Some(100.0), None));
    assert!(more.cpu_seconds.unwrap() > 0.0);
    assert!(more.session.as_ref().is_some_and(|session| session.len() == 36), "{:?}", more.session);
}

#[test]
fn info_migrate_tells_the_whole_story() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=10M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    Story::of(&source).filled();
    let uri = destination.listen();
    let listening = destination.client().human("info migrate").unwrap();
    let port = uri.rsplit(':').next().unwrap();
    assert!(listening.contains(port), "{listening}");
    source.moves_to(&destination, &uri);
    let text = source.client().human("info migrate").unwrap();
    for part in [
        "Migration status: completed",
        "total time",
        "downtime",
        "setup",
        "transferred ram",
        "remaining ram",
        "after round 1",
    ] {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
    }
    assert!(text.contains("ms"), "{text}");
    let there = destination.client().human("info migrate").unwrap();
    assert!(there.contains("completed"), "{there}");
}

#[test]
fn the_session_is_in_the_logs_of_both_sides() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let info = source.moves_to(&destination, &destination.listen());
    let session = info.whimbrel.unwrap().session.unwrap();
    for vmm in [&source, &destination] {
        assert!(
            vmm.log().contains(&session),
            "{session} is not in the log of {}:\n{}",
            vmm.name(),
            vmm.log()
        );
    }
}
