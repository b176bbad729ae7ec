use monitor::types::{MigrationInfo, MigrationStatus, SocketAddress, WhimbrelInfo};
use objects::FailureReason;
use serde_json::json;

use super::*;
use crate::folder::Attempt;

fn now() -> Time {
    Time(jiff::Timestamp::from_second(1_800_000_000).unwrap())
}

fn instance(status: &serde_json::Value) -> VirtualMachineInstance {
    serde_json::from_value(json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance",
        "metadata": { "name": "db", "namespace": "default", "uid": "1" },
        "spec": { "domain": { "memory": { "guest": "1Gi" }, "firmware": { "kernelBoot": {} } } },
        "status": status,
    }))
    .unwrap()
}

fn migration(phase: &str) -> VirtualMachineInstanceMigration {
    serde_json::from_value(json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": { "name": "m", "namespace": "default", "uid": "7" },
        "spec": { "vmiName": "db" },
        "status": { "phase": phase, "migrationState": {
            "sourceNode": "a", "sourceVmm": "db-1", "targetNode": "b", "targetVmm": "db-1.7",
            "targetNodeAddress": "tcp:127.0.0.1:1",
        }},
    }))
    .unwrap()
}

fn vmm(state: VmmState) -> Vmm {
    Vmm { state, process: Some(1), attempt: None }
}

const SESSION: &str = "4c5d";

fn attempt(uid: &str, before: Option<&str>) -> Attempt {
    Attempt { uid: uid.to_owned(), before: before.map(str::to_owned) }
}

fn up(run: RunState, status: Option<MigrationStatus>) -> VmmState {
    let session = status.map(|_| SESSION.to_owned());
    let whimbrel = Some(WhimbrelInfo { session, ..WhimbrelInfo::default() });
    VmmState::Up { run, migration: Box::new(MigrationInfo { status, whimbrel, ..MigrationInfo::default() }) }
}

fn ended() -> VmmState {
    VmmState::Ended { words: "no memory".to_owned(), success: None }
}

fn on(
    node: &str,
    instances: &[VirtualMachineInstance],
    migrations: &[VirtualMachineInstanceMigration],
    vmms: &[(&str, Vmm)],
) -> Vec<Action> {
    let vmms = vmms.iter().map(|(name, vmm)| ((*name).to_owned(), vmm.clone())).collect();
    let instances: Vec<_> = instances.iter().cloned().map(Arc::new).collect();
    let migrations: Vec<_> = migrations.iter().cloned().map(Arc::new).collect();
    decide(&Here { node, instances: &instances, migrations: &migrations, vmms: &vmms }, &now()).actions
}

fn scheduled() -> VirtualMachineInstance {
    instance(&json!({ "phase": "Scheduled", "nodeName": "a", "vmm": "db-1" }))
}

fn running() -> VirtualMachineInstance {
    instance(&json!({ "phase": "Running", "nodeName": "a", "vmm": "db-1" }))
}

fn phase_of(actions: &[Action]) -> Option<InstancePhase> {
    actions.iter().find_map(|action| match action {
        Action::SetInstance(instance) => instance.status.as_ref()?.phase,
        _ => None,
    })
}

fn failure_of(actions: &[Action]) -> Option<FailureReason> {
    actions.iter().find_map(|action| match action {
        Action::SetMigration { migration, .. } => {
            Some(migration.status.as_ref()?.migration_state.as_ref()?.failure.as_ref()?.reason)
        }
        _ => None,
    })
}

#[test]
fn what_is_placed_here_is_started_once() {
    let starts = |vmms: &[(&str, Vmm)]| {
        on("a", &[scheduled()], &[], vmms).iter().any(|action| matches!(action, Action::Start { .. }))
    };
    assert!(starts(&[]) && starts(&[("db-1", vmm(VmmState::Prepared))]));
    assert!(!starts(&[("db-1", vmm(VmmState::Silent))]) && !starts(&[("db-1", vmm(ended()))]));
    assert_eq!(on("b", &[scheduled()], &[], &[]), [], "it is another node's");
    assert_eq!(
        phase_of(&on("a", &[scheduled()], &[], &[("db-1", vmm(ended()))])),
        Some(InstancePhase::Failed)
    );
}

#[test]
fn a_machine_that_runs_is_ended_only_where_its_object_is_deleted() {
    let live = vmm(up(RunState::Running, None));
    assert_eq!(on("a", &[], &[], &[("x", live.clone())]), [Action::Wonder { vmm: "x".to_owned() }]);
    for run in [RunState::Inmigrate, RunState::Postmigrate] {
        let left_over = vmm(up(run, None));
        assert!(matches!(on("a", &[], &[], &[("x", left_over)])[..], [Action::Quit { .. }]), "{run}");
    }
    assert_eq!(on("a", &[], &[], &[("x", vmm(ended()))]), [Action::Remove { vmm: "x".to_owned() }]);
    let mut deleted = running();
    deleted.metadata.deletion_timestamp = Some(now());
    let deleted = [deleted];
    assert!(matches!(on("a", &deleted, &[], &[("db-1", live.clone())])[..], [Action::Quit { .. }]));
    assert!(matches!(on("a", &deleted, &[], &[("db-1", vmm(ended()))])[..], [Action::Remove { .. }]));
    assert!(matches!(on("a", &deleted, &[], &[])[..], [Action::Release(_)]));
    // One that moves is brought to a stop first: else it could arrive when its object is gone.
    let mut live = live;
    live.state = up(RunState::Running, Some(MigrationStatus::Active));
    live.attempt = Some(attempt("7", None));
    let actions = on("a", &deleted, &[migration("Running")], &[("db-1", live)]);
    assert!(matches!(actions[0], Action::Tell { what: Word::Cancel, .. }), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Quit { .. })), "{actions:?}");
}

#[test]
fn running_is_written_before_memory_moves_and_memory_moves_once() {
    let ready = vmm(up(RunState::Running, None));
    let actions = on("a", &[running()], &[migration("TargetReady")], &[("db-1", ready.clone())]);
    assert!(!actions.iter().any(|action| matches!(action, Action::Migrate { .. })), "{actions:?}");
    let begins = |noted: Option<Attempt>, status| {
        let vmm = Vmm { attempt: noted, ..vmm(up(RunState::Running, status)) };
        let actions = on("a", &[running()], &[migration("Running")], &[("db-1", vmm)]);
        actions.iter().any(|action| matches!(action, Action::Migrate { .. }))
    };
    assert!(begins(None, None));
    let before = Some(attempt("6", None));
    assert!(begins(before, Some(MigrationStatus::Failed)), "the attempt before was another");
    let cut_off = Some(attempt("7", Some(SESSION)));
    assert!(
        begins(cut_off, Some(MigrationStatus::Completed)),
        "what the engine says is about how the machine came here"
    );
    for status in [MigrationStatus::Active, MigrationStatus::Failed] {
        assert!(!begins(Some(attempt("7", None)), Some(status)));
    }
}

#[test]
fn a_cancel_is_said_as_long_as_the_engine_would_do_it() {
    let says = |status| {
        let mut unwanted = migration("Running");
        unwanted.spec.cancel = true;
        let vmm = Vmm { attempt: Some(attempt("7", None)), ..vmm(up(RunState::Running, Some(status))) };
        on("a", &[running()], &[unwanted], &[("db-1", vmm)])
    };
    let is_told =
        |status| says(status).iter().any(|action| matches!(action, Action::Tell { what: Word::Cancel, .. }));
    assert!(is_told(MigrationStatus::Setup) && is_told(MigrationStatus::Active));
    for late in [MigrationStatus::PostcopyActive, MigrationStatus::Cancelling, MigrationStatus::Device] {
        assert!(!is_told(late), "{late:?}");
    }
}

#[test]
fn a_source_that_ends_after_the_hand_over_makes_nobody_start_the_machine_again() {
    let migrations = [migration("Running")];
    let source = on("a", &[running()], &migrations, &[("db-1", vmm(ended()))]);
    assert_eq!(phase_of(&source), None, "the other VMM may have it: {source:?}");
    let target = on("b", &[running()], &migrations, &[("db-1.7", vmm(up(RunState::Running, None)))]);
    let [Action::SetMigration { migration: said, .. }] = &target[..] else { panic!("{target:?}") };
    let state = said.status.clone().unwrap().migration_state.unwrap();
    assert!(state.target_node_domain_ready_timestamp.is_some());
    let waits = on("b", &[running()], &migrations, &[("db-1.7", vmm(up(RunState::Inmigrate, None)))]);
    assert_eq!(waits, []);
}

#[test]
fn a_side_that_ends_ends_the_migration_with_its_reason() {
    let target = on("b", &[running()], &[migration("PreparingTarget")], &[("db-1.7", vmm(ended()))]);
    assert_eq!(failure_of(&target), Some(FailureReason::TargetFailed));
    let source = on("a", &[], &[migration("Running")], &[("db-1", vmm(ended()))]);
    assert_eq!(failure_of(&source), Some(FailureReason::SourceGone));
    let silent = on("a", &[], &[migration("Running")], &[("db-1", vmm(VmmState::Silent))]);
    assert_eq!(failure_of(&silent), None, "nobody concludes from silence that a machine has stopped");
}

#[test]
fn a_target_that_listens_says_where() {
    let mut state = up(RunState::Inmigrate, None);
    if let VmmState::Up { migration, .. } = &mut state {
        let listens = SocketAddress::Inet { host: "::1".to_owned(), port: "9".to_owned() };
        migration.socket_address = Some(vec![listens]);
    }
    let actions = on("b", &[running()], &[migration("PreparingTarget")], &[("db-1.7", vmm(state))]);
    let [Action::SetMigration { migration, .. }] = &actions[..] else { panic!("{actions:?}") };
    let status = migration.status.as_ref().unwrap();
    assert_eq!(status.phase(), MigrationPhase::TargetReady);
    let address = status.migration_state.as_ref().unwrap().target_node_address.as_deref();
    assert_eq!(address, Some("tcp:[::1]:9"));
}

#[test]
fn a_guest_stands_still_and_goes_on_as_its_object_says() {
    let told = |paused, run, migrations: &[VirtualMachineInstanceMigration]| {
        let mut instance = running();
        instance.spec.paused = paused;
        let vmm = Vmm { attempt: Some(attempt("7", None)), ..vmm(up(run, Some(MigrationStatus::Active))) };
        let actions = on("a", &[instance], migrations, &[("db-1", vmm)]);
        actions.iter().find_map(|action| match action {
            Action::Tell { what, .. } => Some(*what),
            _ => None,
        })
    };
    assert_eq!(told(true, RunState::Running, &[]), Some(Word::Stop));
    assert_eq!(told(false, RunState::Paused, &[]), Some(Word::Continue));
    assert_eq!(told(true, RunState::Paused, &[]), None);
    assert_eq!(told(false, RunState::IoError, &[]), None, "what a disk stopped, a person lets go on");
    assert_eq!(told(false, RunState::Paused, &[migration("Running")]), None, "it goes on where it arrives");
}

#[test]
fn a_migration_whose_time_is_up_is_brought_to_its_end_as_its_policy_allows() {
    let told = |post_copy: bool| {
        let mut overdue = migration("Running");
        let state = overdue.status.as_mut().unwrap().migration_state.as_mut().unwrap();
        state.workload_disruption_requested = true;
        state.migration_configuration.get_or_insert_default().allow_post_copy = post_copy;
        let vmm = up(RunState::Running, Some(MigrationStatus::Active));
        let vmm = Vmm { attempt: Some(attempt("7", None)), ..self::vmm(vmm) };
        let actions = on("a", &[running()], &[overdue], &[("db-1", vmm)]);
        actions.iter().find_map(|action| match action {
            Action::Tell { what, .. } => Some(*what),
            _ => None,
        })
    };
    assert_eq!((told(true), told(false)), (Some(Word::PostCopy), Some(Word::Stop)));
}
