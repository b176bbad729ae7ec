//! What a client is told when it asks agrees with the events before it, in whatever order things happen.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use monitor::types::{MigrationStatus, RunState};
use serde_json::{Value, json};

use crate::harness::{
    Lab, MIGRATION_EVENTS, PATIENCE, PAUSE_BEFORE_SWITCHOVER, Spec, Story, Vmm, capability, until,
};

const NONE: Value = Value::Null;

/// A client that takes lines in the order in which they come.
struct Line {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// By the last STOP or RESUME.
    running: Option<bool>,
    /// By the last MIGRATION.
    status: Option<Value>,
    /// How often something changed.
    news: u32,
}

impl Line {
    fn new(vmm: &Vmm) -> Self {
        let writer = UnixStream::connect(vmm.monitor_path()).unwrap();
        writer.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(writer.try_clone().unwrap());
        let mut line = Self { reader, writer, running: None, status: None, news: 0 };
        line.next();
        line.ask("qmp_capabilities");
        line
    }

    fn next(&mut self) -> Value {
        let mut text = String::new();
        assert!(self.reader.read_line(&mut text).unwrap() > 0, "the monitor has closed the connection");
        serde_json::from_str(&text).unwrap()
    }

    /// What a command returns; events before that are heard.
    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.writer, "{}", json!({ "execute": command })).unwrap();
        loop {
            let mut said = self.next();
            match said["event"].as_str() {
                Some("STOP") => self.running = Some(false),
                Some("RESUME") => self.running = Some(true),
                Some("MIGRATION") => self.status = Some(said["data"]["status"].take()),
                Some(_) => continue,
                None => return said["return"].take(),
            }
            self.news += 1;
        }
    }

    /// Asks, and compares.
    fn look(&mut self) {
        let told = self.ask("query-status");
        assert!(self.running.is_none_or(|running| told["running"] == running), "{:?}: {told}", self.running);
        let is_running = told["status"] == "running";
        assert_eq!(told["running"], is_running, "{told}");
        let told = self.ask("query-migrate");
        let agrees = self.status.as_ref().is_none_or(|status| told["status"] == *status);
        assert!(agrees, "{:?}: {}", self.status, told["status"]);
    }
}

/// Has somebody look all the time while `work` is done; says how many events that one has heard.
fn while_looking(vmms: &[&Vmm], work: impl FnOnce()) -> u32 {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let lookers: Vec<_> = vmms
            .iter()
            .map(|vmm| {
                let mut line = Line::new(vmm);
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        line.look();
                    }
                    line.look();
                    line.news
                })
            })
            .collect();
        work();
        is_over.store(true, Ordering::Relaxed);
        lookers.into_iter().map(|looker| looker.join().unwrap()).sum()
    })
}

#[test]
fn what_is_told_of_the_machine_agrees_with_stop_and_resume_however_fast_they_come() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let story = Story::of(&vmm);
    story.filled();
    let heard = while_looking(&[&vmm, &vmm], || {
        let mut others = [vmm.another_client(), vmm.another_client()];
        thread::scope(|scope| {
            for (client, commands) in others.iter_mut().zip([["stop", "cont"], ["cont", "stop"]]) {
                scope.spawn(move || {
                    for command in commands.into_iter().cycle().take(300) {
                        client.execute(command, NONE).unwrap();
                    }
                });
            }
        });
    });
    assert!(heard > 100, "it was hardly stopped: {heard}");
    vmm.command("cont", NONE);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn what_is_told_of_a_migration_agrees_with_its_events_whatever_becomes_of_it() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=8M own=16M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.enable(MIGRATION_EVENTS);
    destination.enable(MIGRATION_EVENTS);
    // However fast it is, none ends before it is cancelled.
    source.enable(PAUSE_BEFORE_SWITCHOVER);
    let heard = while_looking(&[&source, &source, &destination], || {
        let uri = destination.listen();
        let is_over = || source.query_migrate().status.filter(|status| status.is_final());
        for attempt in 0..6 {
            // Nobody is there, or it is cancelled at once, in a round, or in the switchover.
            let to = if attempt % 3 == 0 { "tcp:127.0.0.1:1" } else { &uri };
            let bandwidth = if attempt == 5 { 0 } else { 20_000_000 };
            source.set(json!({ "max-bandwidth": bandwidth }));
            source.migrate(to);
            if attempt % 3 == 1 {
                source.round_is(1);
            }
            source.command("stop", NONE);
            source.command("migrate_cancel", NONE);
            let ended = until("the attempt is over", is_over);
            assert!(matches!(ended, MigrationStatus::Cancelled | MigrationStatus::Failed), "{ended}");
            source.command("cont", NONE);
        }
        source.command("migrate-set-capabilities", capability(PAUSE_BEFORE_SWITCHOVER, false));
        until("it can be moved", || {
            source.migrate(&uri);
            (until("the attempt is over", is_over) == MigrationStatus::Completed).then_some(())
        });
        assert_eq!(source.run_state(), RunState::Postmigrate);
        until("it runs there", || (destination.run_state() == RunState::Running).then_some(()));
    });
    assert!(heard > 40, "hardly anything happened: {heard}");
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}
