//! Each side is killed in each phase, and asked to end in each phase; the next good attempt succeeds.

use monitor::types::{MigrationStatus, RunState};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Lab, PAUSE_BEFORE_SWITCHOVER, Spec, Story, Vmm, until};

/// How far a migration is when something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Connected, nothing agreed.
    Setup,
    FirstRound,
    LaterRound,
    /// The machine is stopped and waits.
    PreSwitchover,
    /// The machine is stopped, everything is sent, the destination has not answered.
    Device,
}

impl Phase {
    /// Whether the destination is held in this phase: it must be let go to see anything.
    fn holds_destination(self) -> bool {
        matches!(self, Self::Setup | Self::Device)
    }
}

/// Two sides, of which one migrates to the other and is held in a phase.
struct Scene {
    lab: Lab,
    source: Vmm,
    destination: Vmm,
    story: Story,
    uri: String,
}

fn spec() -> Spec {
    Spec::new("work=16M rate=40M order=random own=32M")
}

impl Scene {
    /// Begins a migration and holds it there.
    fn held_in(phase: Phase) -> Option<Self> {
        let lab = Lab::new()?;
        let (source, destination) = (lab.boot(&spec()), lab.vacancy(&spec()));
        let story = Story::of(&source);
        story.filled();
        let uri = destination.listen_at(&format!("unix:{}", lab.path("migration").display()));
        let scene = Self { lab, source, destination, story, uri };
        scene.go_to(phase);
        Some(scene)
    }

    fn go_to(&self, phase: Phase) {
        match phase {
            Phase::Setup => {
                self.destination.signal(Signal::STOP);
                self.source.migrate(&self.uri);
                assert_eq!(self.source.query_migrate().status, Some(MigrationStatus::Setup));
            }
            Phase::FirstRound => {
                self.source.set(json!({ "max-bandwidth": 3_000_000 }));
                self.source.migrate(&self.uri);
                self.source.round_is(1);
            }
            Phase::LaterRound => {
                self.source.set(json!({ "max-bandwidth": 60_000_000, "downtime-limit": 1 }));
                self.source.migrate(&self.uri);
                self.source.round_is(3);
            }
            Phase::PreSwitchover | Phase::Device => {
                self.source.enable(PAUSE_BEFORE_SWITCHOVER);
                self.source.migrate(&self.uri);
                self.source.migration_is(MigrationStatus::PreSwitchover);
            }
        }
        if phase == Phase::Device {
            self.destination.signal(Signal::STOP);
            self.source.command("migrate-continue", json!({ "state": "pre-switchover" }));
            self.source.migration_is(MigrationStatus::Device);
        }
    }

    /// The source is gone: the destination has run nothing, and takes another machine.
    fn the_destination_takes_another_machine(mut self, phase: Phase) {
        if phase.holds_destination() {
            self.destination.signal(Signal::CONT);
        }
        // In the setup, the source may have gone before it had said who it is.
        if phase != Phase::Setup {
            until("the destination has given up", || self.destination.query_migrate().whimbrel?.reason);
        }
        assert_eq!(self.destination.run_state(), RunState::Inmigrate);
        assert_eq!(std::fs::read(self.destination.serial()).unwrap(), b"", "it ran");
        self.source = self.lab.boot(&spec());
        self.story = Story::of(&self.source);
        self.story.filled();
        self.moves();
    }

    /// The destination is gone: the machine runs on where it was, and moves to another place.
    fn the_machine_moves_elsewhere(mut self) {
        assert_eq!(self.source.run_state(), RunState::Running);
        self.story.goes_on(3);
        self.destination = self.lab.vacancy(&spec());
        self.uri = self.destination.listen();
        self.moves();
    }

    fn moves(mut self) {
        self.source.set(json!({ "max-bandwidth": 0, "downtime-limit": 300, "whimbrel-digest": true }));
        self.source
            .command("migrate-set-capabilities", crate::harness::capability(PAUSE_BEFORE_SWITCHOVER, false));
        self.source.moves_to(&self.destination, &self.uri);
        self.story.goes_on_at(&self.destination);
        self.story.goes_on(3);
        self.story.assert_intact();
    }
}

fn source_is_killed(phase: Phase) {
    let Some(scene) = Scene::held_in(phase) else { return };
    scene.source.kill();
    scene.the_destination_takes_another_machine(phase);
}

fn destination_is_killed(phase: Phase) {
    let Some(scene) = Scene::held_in(phase) else { return };
    scene.destination.kill();
    scene.source.migration_fails();
    scene.the_machine_moves_elsewhere();
}

fn source_is_asked_to_end(phase: Phase) {
    let Some(scene) = Scene::held_in(phase) else { return };
    scene.source.signal(Signal::TERM);
    assert_eq!(scene.source.end().code(), Some(0));
    assert!(!scene.source.monitor_path().exists(), "it left its socket behind");
    scene.the_destination_takes_another_machine(phase);
}

fn destination_is_asked_to_end(phase: Phase) {
    let Some(scene) = Scene::held_in(phase) else { return };
    scene.destination.signal(Signal::TERM);
    if phase.holds_destination() {
        scene.destination.signal(Signal::CONT);
    }
    assert_eq!(scene.destination.end().code(), Some(0));
    assert!(!scene.destination.monitor_path().exists(), "it left its monitor's socket behind");
    assert!(!scene.lab.path("migration").exists(), "it left its migration socket behind");
    let status = until("the source knows what became of it", || {
        scene.source.query_migrate().status.filter(|status| status.is_final())
    });
    if phase == Phase::Device && status == MigrationStatus::Completed {
        // The machine had arrived before the destination looked at the signal, and ended there.
        assert_eq!(scene.source.run_state(), RunState::Postmigrate);
        return;
    }
    assert_eq!(status, MigrationStatus::Failed);
    scene.the_machine_moves_elsewhere();
}

/// The same for every phase, each a test of its own.
macro_rules! in_each_phase {
    ($($module:ident: $happens:ident;)*) => {$(
        mod $module {
            use super::{Phase, $happens};

            #[test]
            fn in_setup() {
                $happens(Phase::Setup);
            }

            #[test]
            fn in_the_first_round() {
                $happens(Phase::FirstRound);
            }

            #[test]
            fn in_a_later_round() {
                $happens(Phase::LaterRound);
            }

            #[test]
            fn before_the_switchover() {
                $happens(Phase::PreSwitchover);
            }

            #[test]
            fn while_device_states_move() {
                $happens(Phase::Device);
            }
        }
    )*};
}

in_each_phase! {
    a_source_that_is_killed_leaves_a_destination_that_takes_the_next: source_is_killed;
    a_destination_that_is_killed_leaves_the_machine_where_it_was: destination_is_killed;
    a_source_that_is_asked_to_end_ends_in_good_order: source_is_asked_to_end;
    a_destination_that_is_asked_to_end_ends_in_good_order: destination_is_asked_to_end;
}

#[test]
fn a_source_that_hangs_does_not_keep_the_machine() {
    let Some(scene) = Scene::held_in(Phase::Device) else { return };
    // The destination wakes up when it is all over for the source.
    scene.source.command("migrate_cancel", json!({}));
    scene.source.migration_is(MigrationStatus::Cancelled);
    assert_eq!(scene.source.run_state(), RunState::Running);
    scene.destination.signal(Signal::CONT);
    until("the destination has given up", || scene.destination.query_migrate().whimbrel?.reason);
    assert_eq!(scene.destination.run_state(), RunState::Inmigrate);
    scene.story.goes_on(3);
    scene.moves();
}

#[test]
fn each_side_ends_in_good_order_after_a_migration() {
    let Some(lab) = Lab::new() else { return };
    let (source, destination) = (lab.boot(&spec()), lab.vacancy(&spec()));
    source.moves_to(&destination, &destination.listen());
    for (vmm, signal) in [(&source, Signal::INT), (&destination, Signal::HUP)] {
        let events = vmm.events();
        vmm.signal(signal);
        let event = events.wait_for("SHUTDOWN", crate::harness::PATIENCE).expect("SHUTDOWN");
        assert_eq!(event.data.unwrap(), json!({ "guest": false, "reason": "host-signal" }));
        assert_eq!(vmm.end().code(), Some(0));
        assert!(!vmm.monitor_path().exists());
    }
}
