//! What is to be done on this host: objects and VMMs in, actions out. No I/O, no memory.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use monitor::types::{MigrationInfo, MigrationStatus, RunState, SocketAddress};
use objects::{
    AbortStatus, Condition, ConditionStatus, Failure, FailureReason, InstancePhase, MigrationMode,
    MigrationPhase, MigrationState, VirtualMachineInstance, VirtualMachineInstanceMigration,
    VirtualMachineInstanceStatus, set_condition,
};

use crate::{
    folder::Attempt,
    observe::{Vmm, VmmState},
    progress,
};

/// All that there is to know.
pub(crate) struct Here<'a> {
    pub(crate) node: &'a str,
    pub(crate) instances: &'a [VirtualMachineInstance],
    pub(crate) migrations: &'a [VirtualMachineInstanceMigration],
    pub(crate) vmms: &'a BTreeMap<String, Vmm>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Describe the machine in a folder of this name and start its VMM; where `from` is, to receive it from that node.
    Start { vmm: String, instance: Box<VirtualMachineInstance>, from: Option<String> },
    /// Have a VMM migrate as this object says.
    Migrate { vmm: String, migration: Box<VirtualMachineInstanceMigration> },
    /// Have a VMM give its migration up.
    Cancel { vmm: String },
    /// Have a VMM end.
    Quit { vmm: String, process: Option<u32> },
    /// Remove the folder of a VMM that has ended, but for its reports.
    Remove { vmm: String },
    /// Write this status.
    SetInstance(Box<VirtualMachineInstance>),
    /// Write this status. Where it is only about progress it may be left out if one was written a moment ago.
    SetMigration { migration: Box<VirtualMachineInstanceMigration>, is_progress: bool },
    /// Let go of an instance that is being deleted, whose VMM is gone.
    Release(Box<VirtualMachineInstance>),
    /// Say that a machine runs here which no object knows.
    Wonder { vmm: String },
}

impl Action {
    /// The VMM that it is about; none for what is only written.
    pub(crate) fn vmm(&self) -> Option<&str> {
        match self {
            Self::Start { vmm, .. }
            | Self::Migrate { vmm, .. }
            | Self::Cancel { vmm }
            | Self::Quit { vmm, .. }
            | Self::Remove { vmm }
            | Self::Wonder { vmm } => Some(vmm),
            Self::SetInstance(_) | Self::SetMigration { .. } | Self::Release(_) => None,
        }
    }
}

/// What to do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Whether something is under way that is heard of only by looking.
    pub(crate) is_busy: bool,
}

pub(crate) fn decide(here: &Here<'_>, now: &Time) -> Plan {
    let mut plan = Plan::default();
    let mut kept = BTreeSet::new();
    for instance in here.instances {
        let status = instance.status.clone().unwrap_or_default();
        if let (Some(node), Some(vmm)) = (&status.node_name, &status.vmm)
            && node == here.node
        {
            kept.insert(vmm.clone());
            here.instance(instance, &status, vmm, now, &mut plan);
        }
    }
    for migration in here.migrations {
        let status = migration.status.clone().unwrap_or_default();
        let Some(state) =
            status.migration_state.filter(|_| status.phase.is_some_and(MigrationPhase::is_under_way))
        else {
            continue;
        };
        let phase = status.phase.unwrap_or_default();
        if let Some(vmm) =
            state.target_vmm.as_ref().filter(|_| state.target_node.as_deref() == Some(here.node))
        {
            kept.insert(vmm.clone());
            here.target(migration, &state, phase, vmm, now, &mut plan);
        }
        if let Some(vmm) =
            state.source_vmm.as_ref().filter(|_| state.source_node.as_deref() == Some(here.node))
        {
            kept.insert(vmm.clone());
            here.source(migration, &state, phase, vmm, now, &mut plan);
        }
    }
    for (name, vmm) in here.vmms.iter().filter(|(name, _)| !kept.contains(*name)) {
        plan.actions.extend(unknown(name, vmm));
    }
    plan
}

/// What to do with a VMM that no object wants. One that has a machine which runs is left alone.
fn unknown(name: &str, vmm: &Vmm) -> Option<Action> {
    let name = name.to_owned();
    match &vmm.state {
        VmmState::Prepared | VmmState::Ended { .. } => Some(Action::Remove { vmm: name }),
        VmmState::Silent => None,
        VmmState::Up { run: RunState::Inmigrate | RunState::Postmigrate | RunState::Shutdown, .. } => {
            Some(Action::Quit { vmm: name, process: None })
        }
        VmmState::Up { .. } => Some(Action::Wonder { vmm: name }),
    }
}

impl Here<'_> {
    fn instance(
        &self,
        instance: &VirtualMachineInstance,
        status: &VirtualMachineInstanceStatus,
        vmm: &str,
        now: &Time,
        plan: &mut Plan,
    ) {
        let seen = self.vmms.get(vmm);
        if instance.metadata.deletion_timestamp.is_some() {
            self.delete(instance, vmm, seen, plan);
            return;
        }
        let mut next = status.clone();
        match (status.phase(), seen.map(|seen| &seen.state)) {
            (InstancePhase::Scheduled, None | Some(VmmState::Prepared)) => {
                plan.is_busy = true;
                let instance = Box::new(instance.clone());
                plan.actions.push(Action::Start { vmm: vmm.to_owned(), instance, from: None });
            }
            (InstancePhase::Scheduled, Some(VmmState::Silent)) => plan.is_busy = true,
            (InstancePhase::Scheduled | InstancePhase::Running, Some(VmmState::Up { run, .. })) => {
                up(&mut next, instance, *run, now);
            }
            // Another VMM may have the machine: what came of the migration is known first.
            (InstancePhase::Running, None | Some(VmmState::Prepared | VmmState::Ended { .. }))
                if self.is_leaving(vmm) => {}
            (InstancePhase::Scheduled | InstancePhase::Running, Some(VmmState::Ended { words, success })) => {
                ended(&mut next, words, *success == Some(true), now);
            }
            (InstancePhase::Running, None | Some(VmmState::Prepared)) => {
                ended(&mut next, "the folder of its VMM is gone", false, now);
            }
            _ => {}
        }
        if next != *status {
            plan.actions.push(Action::SetInstance(Box::new(VirtualMachineInstance {
                status: Some(next),
                ..instance.clone()
            })));
        }
    }

    fn delete(&self, instance: &VirtualMachineInstance, vmm: &str, seen: Option<&Vmm>, plan: &mut Plan) {
        // A machine that is on its way may arrive at any moment: first it is known where it is.
        if self.is_leaving(vmm) {
            return;
        }
        let name = vmm.to_owned();
        match seen {
            None => plan.actions.push(Action::Release(Box::new(instance.clone()))),
            Some(Vmm { state: VmmState::Prepared | VmmState::Ended { .. }, .. }) => {
                plan.is_busy = true;
                plan.actions.push(Action::Remove { vmm: name });
            }
            Some(seen) => {
                plan.is_busy = true;
                plan.actions.push(Action::Quit { vmm: name, process: seen.process });
            }
        }
    }

    /// Whether a VMM was told to migrate, or is about to be, and nobody has closed that yet.
    fn is_leaving(&self, vmm: &str) -> bool {
        self.migrations.iter().filter_map(|migration| migration.status.as_ref()).any(|status| {
            let state = status.migration_state.as_ref();
            status.phase() == MigrationPhase::Running
                && state.is_some_and(|state| state.source_vmm.as_deref() == Some(vmm))
        })
    }

    fn target(
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
                let Some(instance) = self.instances.iter().find(is_it) else { return };
                if phase == MigrationPhase::Scheduled {
                    status.enter(MigrationPhase::PreparingTarget, now);
                    plan.actions.push(set(next));
                }
                let instance = Box::new(instance.clone());
                plan.actions.push(Action::Start {
                    vmm: vmm.to_owned(),
                    instance,
                    from: state.source_node.clone(),
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

    fn source(
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
        let Some(Vmm { state: VmmState::Up { migration: info, .. }, attempt, .. }) = seen else {
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
            plan.actions.extend(self.watch(next, info, vmm));
        }
    }

    /// What to do about a migration that is under way.
    fn watch(
        &self,
        mut migration: VirtualMachineInstanceMigration,
        info: &MigrationInfo,
        vmm: &str,
    ) -> Vec<Action> {
        let wants_end = is_unwanted(&migration) || self.is_deleted(&migration);
        let state = migration.status.get_or_insert_default().migration_state.get_or_insert_default();
        let wants_end = wants_end || state.abort_requested;
        let mut actions = Vec::new();
        // Before and after that the engine would refuse: it has ended, or is past the point of no return.
        if wants_end && matches!(info.status, Some(MigrationStatus::Setup | MigrationStatus::Active)) {
            actions.push(Action::Cancel { vmm: vmm.to_owned() });
        }
        if wants_end && state.abort_status.is_none() {
            state.abort_requested = true;
            state.abort_status = Some(AbortStatus::Aborting);
            actions.push(set(migration));
            return actions;
        }
        if info.status == Some(MigrationStatus::PostcopyActive) {
            state.mode = Some(MigrationMode::PostCopy);
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

/// A VMM says how its machine is.
fn up(
    status: &mut VirtualMachineInstanceStatus,
    instance: &VirtualMachineInstance,
    run: RunState,
    now: &Time,
) {
    let is_running = run == RunState::Running;
    // On the way to another node it is neither here nor there for a moment.
    if matches!(run, RunState::Inmigrate | RunState::Postmigrate | RunState::FinishMigrate) {
        return;
    }
    status.enter(InstancePhase::Running, now);
    let ready = condition(
        "Ready",
        is_running,
        if is_running { "Running" } else { "NotRunning" },
        format!("The VMM says: {run}"),
    );
    set_condition(&mut status.conditions, ready, now);
    let blockers: Vec<_> = instance
        .spec
        .volumes
        .iter()
        .filter(|volume| volume.host_disk.as_ref().is_some_and(|disk| !disk.shared))
        .map(|volume| format!("volume {} is on this node alone (hostDisk.shared is false)", volume.name))
        .collect();
    let movable = match blockers.as_slice() {
        [] => condition("LiveMigratable", true, "Migratable", "Nothing is in the way".to_owned()),
        all => condition("LiveMigratable", false, "DisksNotLiveMigratable", all.join("; ")),
    };
    set_condition(&mut status.conditions, movable, now);
}

fn ended(status: &mut VirtualMachineInstanceStatus, words: &str, is_good: bool, now: &Time) {
    status.enter(if is_good { InstancePhase::Succeeded } else { InstancePhase::Failed }, now);
    let reason =
        if is_good { "The guest has shut down.".to_owned() } else { format!("The VMM has ended: {words}") };
    set_condition(&mut status.conditions, condition("Ready", false, "Ended", reason.clone()), now);
    status.reason = Some(reason);
}

fn condition(kind: &str, holds: bool, reason: &str, message: String) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: if holds { ConditionStatus::True } else { ConditionStatus::False },
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
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

#[cfg(test)]
mod tests;
