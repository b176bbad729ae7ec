//! Both sides of a migration, as far as they are on this host.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use monitor::types::{MigrationInfo, MigrationStatus, RunState, SocketAddress};
use objects::{
    AbortStatus, Failure, FailureReason, MigrationMode, MigrationPhase, MigrationState,
    VirtualMachineInstance, VirtualMachineInstanceMigration,
};

use super::{Action, Here, Plan, Word};
use crate::{
    folder::Attempt,
    observe::{Vmm, VmmState},
    progress,
};

impl Here<'_> {
    /// What the node does that a machine goes to.
    pub(super) fn target(
        &self,
        migration: &VirtualMachineInstanceMigration,
        state: &MigrationState,
        phase: MigrationPhase,
        vmm: &str,
        now: &Time,
        plan: &mut Plan,
    ) {
        if phase == MigrationPhase::Running {
            plan.actions.extend(self.arrived(migration, state, vmm, now));
            return;
        }
        if !matches!(phase, MigrationPhase::Scheduled | MigrationPhase::PreparingTarget) || state.completed {
            return;
        }
        plan.is_busy = true;
        let mut next = migration.clone();
        let status = next.status.get_or_insert_default();
        match self.vmms.get(vmm).map(|seen| &seen.state) {
            None | Some(VmmState::Prepared) => {
                let is_it = |instance: &&VirtualMachineInstance| {
                    instance.metadata.name.as_deref() == Some(&migration.spec.vmi_name)
                        && instance.metadata.namespace == migration.metadata.namespace
                };
                // If it is gone, the controllers close the migration.
                let Some(instance) = self.instances.iter().map(|instance| &**instance).find(is_it) else {
                    return;
                };
                if phase == MigrationPhase::Scheduled {
                    status.enter(MigrationPhase::PreparingTarget, now);
                    plan.actions.push(set(next));
                }
                let instance = Box::new(instance.clone());
                plan.actions.push(Action::Start {
                    vmm: vmm.to_owned(),
                    instance,
                    from: state.source_node.clone(),
                    migration: migration.metadata.uid.clone(),
                });
            }
            Some(VmmState::Up { migration: info, .. }) => {
                if let Some(address) = address(info) {
                    let state = status.migration_state.get_or_insert_default();
                    state.target_node_address = Some(address);
                    status.enter(MigrationPhase::TargetReady, now);
                    plan.actions.push(set(next));
                }
            }
            Some(VmmState::Ended { words, .. }) => {
                let message = format!("Node {} could not prepare to receive: {words}", self.node);
                plan.actions.push(set(failed(next, FailureReason::TargetFailed, message, now)));
            }
            Some(VmmState::Silent) => {}
        }
    }

    /// What the target says once its VMM has the machine. It counts where the source can say nothing any more.
    fn arrived(
        &self,
        migration: &VirtualMachineInstanceMigration,
        state: &MigrationState,
        vmm: &str,
        now: &Time,
    ) -> Option<Action> {
        let seen = self.vmms.get(vmm).map(|seen| &seen.state);
        let Some(VmmState::Up { run, .. }) = seen else { return None };
        if !has_machine(*run) || state.target_node_domain_ready_timestamp.is_some() {
            return None;
        }
        let mut next = migration.clone();
        let state = next.status.get_or_insert_default().migration_state.get_or_insert_default();
        state.target_node_domain_ready_timestamp = Some(now.clone());
        Some(set(next))
    }

    /// What the node does that a machine comes from.
    pub(super) fn source(
        &self,
        migration: &VirtualMachineInstanceMigration,
        state: &MigrationState,
        phase: MigrationPhase,
        vmm: &str,
        now: &Time,
        plan: &mut Plan,
    ) {
        if state.completed || phase < MigrationPhase::TargetReady {
            return;
        }
        let seen = self.vmms.get(vmm);
        let uid = migration.metadata.uid.as_deref();
        let Some(Vmm { state: VmmState::Up { run, migration: info }, attempt, .. }) = seen else {
            if !matches!(seen, Some(Vmm { state: VmmState::Silent, .. })) {
                let message = format!("The VMM on node {} has ended.", self.node);
                plan.actions.push(set(failed(migration.clone(), FailureReason::SourceGone, message, now)));
            }
            return;
        };
        plan.is_busy = true;
        let mut next = migration.clone();
        let status = next.status.get_or_insert_default();
        if phase == MigrationPhase::TargetReady {
            // Written before anything is done: from here on only the engine can end it, and nobody closes it behind its back.
            if !is_unwanted(migration) {
                status.enter(MigrationPhase::Running, now);
                status.migration_state.get_or_insert_default().mode = Some(MigrationMode::PreCopy);
                plan.actions.push(set(next));
            }
        } else if !has_begun(attempt.as_ref(), uid, info) {
            plan.actions.push(Action::Migrate { vmm: vmm.to_owned(), migration: Box::new(next) });
        } else if info.status.unwrap_or(MigrationStatus::None).is_final() {
            plan.actions.push(set(over(next, info, now)));
        } else {
            plan.actions.extend(self.watch(next, info, *run, vmm));
        }
    }

    /// What to do about a migration that is under way.
    fn watch(
        &self,
        mut migration: VirtualMachineInstanceMigration,
        info: &MigrationInfo,
        run: RunState,
        vmm: &str,
    ) -> Vec<Action> {
        let uid = migration.metadata.uid.clone();
        let wants_end = is_unwanted(&migration) || self.is_deleted(&migration);
        let state = migration.status.get_or_insert_default().migration_state.get_or_insert_default();
        let wants_end = wants_end || state.abort_requested;
        let mut actions = Vec::new();
        // Before and after that the engine would refuse: it has ended, or is past the point of no return.
        if wants_end && matches!(info.status, Some(MigrationStatus::Setup | MigrationStatus::Active)) {
            actions.push(Action::Tell { vmm: vmm.to_owned(), what: Word::Cancel, migration: uid.clone() });
        }
        if wants_end && state.abort_status.is_none() {
            state.abort_requested = true;
            state.abort_status = Some(AbortStatus::Aborting);
            actions.push(set(migration));
            return actions;
        }
        if follows(info) {
            state.mode = Some(MigrationMode::PostCopy);
        } else if state.workload_disruption_requested && !wants_end {
            let may_follow =
                state.migration_configuration.as_ref().is_some_and(|values| values.allow_post_copy);
            let what = if may_follow { Word::PostCopy } else { Word::Stop };
            if info.status == Some(MigrationStatus::Active) && (may_follow || run == RunState::Running) {
                actions.push(Action::Tell { vmm: vmm.to_owned(), what, migration: uid });
            }
            if !may_follow && run == RunState::Paused {
                state.mode = Some(MigrationMode::Paused);
            }
        }
        let fresh = progress::progress(info);
        if state.progress.as_ref() != Some(&fresh) {
            state.progress = Some(fresh);
            actions.push(Action::SetMigration { migration: Box::new(migration), is_progress: true });
        }
        actions
    }

    fn is_deleted(&self, migration: &VirtualMachineInstanceMigration) -> bool {
        self.instances.iter().any(|instance| {
            instance.metadata.name.as_deref() == Some(&migration.spec.vmi_name)
                && instance.metadata.namespace == migration.metadata.namespace
                && instance.metadata.deletion_timestamp.is_some()
        })
    }
}

/// Whether somebody wants it given up: to delete a migration is to cancel it.
fn is_unwanted(migration: &VirtualMachineInstanceMigration) -> bool {
    migration.spec.cancel || migration.metadata.deletion_timestamp.is_some()
}

/// Whether the engine has begun with a migration. What it says may be about the one before.
fn has_begun(attempt: Option<&Attempt>, uid: Option<&str>, info: &MigrationInfo) -> bool {
    let session = info.whimbrel.as_ref().and_then(|ours| ours.session.as_ref());
    attempt.is_some_and(|attempt| Some(attempt.uid.as_str()) == uid && attempt.before.as_ref() != session)
}

/// Whether a VMM in that state is the one that has the machine.
fn has_machine(run: RunState) -> bool {
    !matches!(
        run,
        RunState::Inmigrate
            | RunState::RestoreVm
            | RunState::Prelaunch
            | RunState::FinishMigrate
            | RunState::Postmigrate
            | RunState::InternalError
    )
}

fn set(migration: VirtualMachineInstanceMigration) -> Action {
    Action::SetMigration { migration: Box::new(migration), is_progress: false }
}

/// Whether memory follows the machine, or has followed it.
fn follows(info: &MigrationInfo) -> bool {
    info.status.is_some_and(MigrationStatus::is_postcopy)
        || info.ram.as_ref().is_some_and(|ram| ram.postcopy_bytes > 0)
}

/// Where a VMM listens for a migration.
fn address(info: &MigrationInfo) -> Option<String> {
    match info.socket_address.as_ref()?.first()? {
        SocketAddress::Inet { host, port } if host.contains(':') => Some(format!("tcp:[{host}]:{port}")),
        SocketAddress::Inet { host, port } => Some(format!("tcp:{host}:{port}")),
        _ => None,
    }
}

/// The engine has come to an end, well or not.
fn over(
    mut migration: VirtualMachineInstanceMigration,
    info: &MigrationInfo,
    now: &Time,
) -> VirtualMachineInstanceMigration {
    let is_asked_for = is_unwanted(&migration);
    let state = migration.status.get_or_insert_default().migration_state.get_or_insert_default();
    state.completed = true;
    state.end_timestamp = Some(now.clone());
    state.result = Some(progress::result(info));
    state.failed = info.status != Some(MigrationStatus::Completed);
    if follows(info) {
        state.mode = Some(MigrationMode::PostCopy);
    }
    if state.failed {
        let failure = match state.failure.take() {
            Some(known) => known,
            None => progress::failure(info, is_asked_for || state.abort_requested),
        };
        state.failure_reason = Some(failure.message.clone());
        state.failure = Some(failure);
    } else {
        // What was asked for came too late.
        state.failure = None;
        state.progress = Some(progress::progress(info));
    }
    migration
}

/// It has come to an end without a word of the engine.
pub(crate) fn failed(
    mut migration: VirtualMachineInstanceMigration,
    reason: FailureReason,
    message: String,
    now: &Time,
) -> VirtualMachineInstanceMigration {
    let state = migration.status.get_or_insert_default().migration_state.get_or_insert_default();
    state.completed = true;
    state.failed = true;
    state.end_timestamp = Some(now.clone());
    state.failure_reason = Some(message.clone());
    state.failure = Some(Failure { reason, message, advice: None });
    migration
}
