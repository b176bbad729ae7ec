//! What is to be done on this host: objects and VMMs in, actions out. No I/O, no memory.

mod migration;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use monitor::types::RunState;
use objects::{
    Condition, ConditionStatus, InstancePhase, MigrationPhase, VirtualMachineInstance,
    VirtualMachineInstanceMigration, VirtualMachineInstanceStatus, set_condition,
};

use crate::observe::{Vmm, VmmState};

pub(crate) use migration::failed;

/// All that there is to know.
pub(crate) struct Here<'a> {
    pub(crate) node: &'a str,
    pub(crate) instances: &'a [Arc<VirtualMachineInstance>],
    pub(crate) migrations: &'a [Arc<VirtualMachineInstanceMigration>],
    pub(crate) vmms: &'a BTreeMap<String, Vmm>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Describe the machine in a folder of this name and start its VMM; where `from` is, to receive it from that node in the migration of this
    /// UID.
    Start {
        vmm: String,
        instance: Box<VirtualMachineInstance>,
        from: Option<String>,
        migration: Option<String>,
    },
    /// Have a VMM migrate as this object says.
    Migrate { vmm: String, migration: Box<VirtualMachineInstanceMigration> },
    /// Tell a VMM something; about the migration of this UID, where it is about one.
    Tell { vmm: String, what: Word, migration: Option<String> },
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

/// What a VMM may be told beside to migrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// To give its migration up.
    Cancel,
    /// To let the rest of the memory follow the machine.
    PostCopy,
    /// To let the guest stand still.
    Stop,
    /// To let it go on.
    Continue,
}

impl Word {
    /// The command of its monitor.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Cancel => "migrate_cancel",
            Self::PostCopy => "migrate-start-postcopy",
            Self::Stop => "stop",
            Self::Continue => "cont",
        }
    }
}

impl Action {
    /// The VMM that it is about; none for what is only written.
    pub(crate) fn vmm(&self) -> Option<&str> {
        match self {
            Self::Start { vmm, .. }
            | Self::Migrate { vmm, .. }
            | Self::Tell { vmm, .. }
            | Self::Quit { vmm, .. }
            | Self::Remove { vmm }
            | Self::Wonder { vmm } => Some(vmm),
            Self::SetInstance(_) | Self::SetMigration { .. } | Self::Release(_) => None,
        }
    }

    /// The UID of the migration that it is about.
    pub(crate) fn migration(&self) -> Option<&str> {
        match self {
            Self::Start { migration, .. } | Self::Tell { migration, .. } => migration.as_deref(),
            Self::Migrate { migration, .. } | Self::SetMigration { migration, .. } => {
                migration.metadata.uid.as_deref()
            }
            Self::Quit { .. }
            | Self::Remove { .. }
            | Self::Wonder { .. }
            | Self::SetInstance(_)
            | Self::Release(_) => None,
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
                plan.actions.push(Action::Start {
                    vmm: vmm.to_owned(),
                    instance,
                    from: None,
                    migration: None,
                });
            }
            (InstancePhase::Scheduled, Some(VmmState::Silent)) => plan.is_busy = true,
            (InstancePhase::Scheduled | InstancePhase::Running, Some(VmmState::Up { run, .. })) => {
                up(&mut next, instance, *run, now);
                if let Some(what) = self.wanted(instance, *run, vmm) {
                    plan.is_busy = true;
                    plan.actions.push(Action::Tell { vmm: vmm.to_owned(), what, migration: None });
                }
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

    /// What a VMM must be told so that its guest stands still or goes on as its object says.
    fn wanted(&self, instance: &VirtualMachineInstance, run: RunState, vmm: &str) -> Option<Word> {
        match (run, instance.spec.paused) {
            (RunState::Running, true) => Some(Word::Stop),
            // A migration may have stopped it, and lets it go on where it arrives.
            (RunState::Paused, false) if !self.is_leaving(vmm) => Some(Word::Continue),
            _ => None,
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
    if run == RunState::Paused {
        let by = if instance.spec.paused { "PausedByUser" } else { "PausedByMigration" };
        set_condition(
            &mut status.conditions,
            condition("Paused", true, by, "The guest stands still".to_owned()),
            now,
        );
    } else {
        status.conditions.retain(|condition| condition.kind != "Paused");
    }
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

pub(crate) fn condition(kind: &str, holds: bool, reason: &str, message: String) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: if holds { ConditionStatus::True } else { ConditionStatus::False },
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

#[cfg(test)]
mod tests;
