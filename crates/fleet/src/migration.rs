//! The way of a migration, as far as the control plane goes with it. Between `Scheduled` and the end the agents of both nodes have the word.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{
    AbortStatus, Condition, ConditionStatus, Failure, FailureReason, InstancePhase, MigrationPhase,
    MigrationState, VirtualMachineInstance, VirtualMachineInstanceMigration, condition, set_condition,
};

use crate::{
    Intent, Note, World, admission, fit,
    fit::Misfit,
    index::{Index, phase},
    node::is_heard,
    overdue,
    placement::best,
    policy::{self, Own},
    queue::{self, Queue},
    vmm_name,
    world::{name_of, namespace_of, uid_of},
};

/// How long the target may take until it listens, in seconds from when it was chosen.
const TARGET_SECONDS: i64 = 120;
/// How long the agent of a target that has the machine waits for the source's report, in seconds, where that agent is not heard of.
const SOURCE_SECONDS: i64 = 10;
/// How long is waited, in seconds, for the target's agent to say that it has a machine whose source has ended.
const TARGET_WORD_SECONDS: i64 = 10;

/// Sends migrations that wait on their way, and closes those that are over.
pub(crate) fn decide(index: &mut Index<'_>, now: &Time, intents: &mut Vec<Intent>) {
    let world = index.world;
    for migration in &world.migrations {
        let phase = phase(migration);
        if phase.is_under_way() {
            go_on(index, migration, phase, now, intents);
        }
    }
    let settings = world.settings();
    let mut queue = Queue::new(world, &settings);
    let mut position = 1;
    for migration in queue::waiting(world).into_iter().filter(|migration| admission::is_settled(migration)) {
        let sent = Waiting { index, queue: &queue, now, position }.step(migration);
        let status = sent.status.clone().unwrap_or_default();
        if !status.phase().is_under_way() {
            position += usize::from(!status.phase().is_final());
        } else if let Some(state) = &status.migration_state {
            let target = state.target_node.as_deref().unwrap_or_default();
            queue.enter(state.source_node.as_deref().unwrap_or_default(), target);
            // What was sent on its way a moment ago takes memory from the next one.
            if let Some(instance) = index.instance_of(migration) {
                index.take(target, instance);
            }
        }
        if sent.status != migration.status {
            intents.push(Intent::SetMigrationStatus(Box::new(sent.clone())));
            note_phase(migration, &sent, intents);
        }
    }
}

struct Waiting<'s, 'a> {
    index: &'s Index<'a>,
    queue: &'s Queue,
    now: &'s Time,
    /// Among those that still wait, from 1.
    position: usize,
}

impl Waiting<'_, '_> {
    /// What becomes of a migration that waits.
    fn step(&self, migration: &VirtualMachineInstanceMigration) -> VirtualMachineInstanceMigration {
        let mut next = migration.clone();
        next.status.get_or_insert_default().enter(MigrationPhase::Pending, self.now);
        let instance = self.index.instance_of(migration);
        let instance = instance.filter(|instance| instance.metadata.deletion_timestamp.is_none());
        let phase = instance.map(|instance| instance.status.clone().unwrap_or_default().phase());
        if let Some(other) = admission::rival(self.index, migration) {
            let message = format!("This instance is migrated already, by {other}.");
            return failed(next, FailureReason::NotMigratable, &message, self.now);
        }
        if is_unwanted(migration) || self.index.is_of_ended_drain(migration) {
            return failed(next, FailureReason::Cancelled, "It was cancelled while it waited.", self.now);
        }
        match (instance, phase) {
            (Some(instance), Some(InstancePhase::Running)) => match blocked(instance) {
                Some(reasons) => failed(next, FailureReason::NotMigratable, &reasons, self.now),
                None => self.choose(next, instance),
            },
            (Some(_), Some(InstancePhase::Pending | InstancePhase::Scheduled)) => {
                self.wait(next, "InstanceNotRunning", "The instance does not run yet.".to_owned())
            }
            _ => failed(
                next,
                FailureReason::InstanceGone,
                "The instance has ended or is being deleted.",
                self.now,
            ),
        }
    }

    fn choose(
        &self,
        migration: VirtualMachineInstanceMigration,
        instance: &VirtualMachineInstance,
    ) -> VirtualMachineInstanceMigration {
        if let Some(drain) = self.index.held_by(&migration) {
            return self.wait(migration, "DrainPaused", format!("The drain {drain} is paused."));
        }
        let source = instance.status.as_ref().and_then(|status| status.node_name.clone()).unwrap_or_default();
        if let Some(full) = self.queue.full(&source) {
            return self.wait(
                migration,
                "Queued",
                format!("Position {} in the queue: {full}.", self.position),
            );
        }
        let added = &migration.spec.added_node_selector;
        let found = best(self.index, instance, added, |node| self.queue.full_inbound(node).is_none());
        if let Some(target) = found {
            return self.send(migration, instance, &source, target.name);
        }
        let mut fits = fit::fits_in(self.index, instance, added);
        for fit in &mut fits {
            fit.misfits.extend(self.queue.full_inbound(&fit.node).map(Misfit::InboundLimit));
        }
        // Where only the limit is in the way it is a matter of time.
        let is_queued = best(self.index, instance, added, |_| true).is_some();
        let why = fit::explain(&fits);
        if is_queued {
            return self.wait(migration, "Queued", format!("Position {} in the queue: {why}", self.position));
        }
        self.wait(migration, "NoNodeFits", format!("No node fits. {why}"))
    }

    fn send(
        &self,
        mut migration: VirtualMachineInstanceMigration,
        instance: &VirtualMachineInstance,
        source: &str,
        target: &str,
    ) -> VirtualMachineInstanceMigration {
        let choice = policy::of(self.index.world, instance);
        let own = Own { deadline: migration.spec.deadline_seconds, retries: migration.spec.retry_limit };
        let settings = self.index.world.settings();
        let state = MigrationState {
            migration_uid: migration.metadata.uid.clone(),
            start_timestamp: Some(self.now.clone()),
            source_node: Some(source.to_owned()),
            target_node: Some(target.to_owned()),
            source_vmm: instance.status.as_ref().and_then(|status| status.vmm.clone()),
            target_vmm: Some(vmm_name(&instance.metadata, Some(&migration.metadata))),
            migration_policy_name: choice.policy.map(|policy| name_of(&policy.metadata).to_owned()),
            migration_policy_reason: Some(choice.reason),
            migration_configuration: Some(policy::resolve_with(own, choice.policy, &settings)),
            migration_configuration_origins: policy::origins_with(own, choice.policy, &settings),
            ..MigrationState::default()
        };
        let status = migration.status.get_or_insert_default();
        status.migration_state = Some(state);
        status.enter(MigrationPhase::Scheduled, self.now);
        let message = format!("It goes from {source} to {target}.");
        set_condition(
            &mut status.conditions,
            scheduled(ConditionStatus::True, "Scheduled", message),
            self.now,
        );
        migration
    }

    fn wait(
        &self,
        mut migration: VirtualMachineInstanceMigration,
        reason: &str,
        message: String,
    ) -> VirtualMachineInstanceMigration {
        let status = migration.status.get_or_insert_default();
        set_condition(&mut status.conditions, scheduled(ConditionStatus::False, reason, message), self.now);
        migration
    }
}

/// Why an instance cannot be migrated, if its agent says so.
pub(crate) fn blocked(instance: &VirtualMachineInstance) -> Option<String> {
    let status = instance.status.as_ref()?;
    let found = condition(&status.conditions, "LiveMigratable")?;
    (found.status == ConditionStatus::False).then(|| found.message.clone().unwrap_or_default())
}

/// Whether somebody wants it given up: to delete a migration is to cancel it.
pub(crate) fn is_unwanted(migration: &VirtualMachineInstanceMigration) -> bool {
    migration.spec.cancel || migration.metadata.deletion_timestamp.is_some()
}

fn go_on(
    index: &Index<'_>,
    migration: &VirtualMachineInstanceMigration,
    phase: MigrationPhase,
    now: &Time,
    intents: &mut Vec<Intent>,
) {
    let status = migration.status.clone().unwrap_or_default();
    let state = status.migration_state.clone().unwrap_or_default();
    let (world, instance) = (index.world, index.instance_of(migration));
    let since = state.start_timestamp.as_ref().map_or(0, |start| now.0.duration_since(start.0).as_secs());
    let next = if phase == MigrationPhase::Running && is_arrived_unseen(world, &state, now) {
        let state =
            MigrationState { completed: true, failed: false, failure: None, failure_reason: None, ..state };
        closed(migration, &state, instance, now)
    } else if state.completed {
        if is_unsure(world, &state, now) {
            return;
        }
        closed(migration, &state, instance, now)
    } else if phase == MigrationPhase::Running {
        // The engine is at work: only the agents can say what becomes of it.
        overdue::act(migration, instance, since, now)
    } else if is_unwanted(migration) {
        failed(migration.clone(), FailureReason::Cancelled, "It was cancelled before memory moved.", now)
    } else if instance.is_none_or(|instance| instance.metadata.deletion_timestamp.is_some()) {
        failed(
            migration.clone(),
            FailureReason::InstanceGone,
            "The instance has ended or is being deleted.",
            now,
        )
    } else if since > TARGET_SECONDS {
        let node = state.target_node.as_deref().unwrap_or_default();
        let message =
            format!("Node {node} was not ready to receive within {TARGET_SECONDS} s: is its agent running?");
        failed(migration.clone(), FailureReason::TargetTimeout, &message, now)
    } else {
        return;
    };
    if next.status == migration.status {
        return;
    }
    // The instance first: should this be cut short, the migration is not over, and is closed again.
    if next.status.as_ref().is_some_and(|status| status.phase() == MigrationPhase::Succeeded)
        && let Some(instance) = instance
    {
        intents.extend(arrived(instance, &next));
    }
    intents.push(Intent::SetMigrationStatus(Box::new(next.clone())));
    note_phase(migration, &next, intents);
}

/// Whether the target has the machine, and the source's agent will not say so: its VMM has ended, or it is not heard of itself.
fn is_arrived_unseen(world: &World, state: &MigrationState, now: &Time) -> bool {
    let Some(ready) = &state.target_node_domain_ready_timestamp else { return false };
    if state.completed {
        return is_source_gone(state);
    }
    !is_heard(world, state.source_node.as_deref(), now)
        && now.0.duration_since(ready.0).as_secs() > SOURCE_SECONDS
}

/// Whether the source's VMM has ended, and the target's agent may still say that the machine has arrived.
fn is_unsure(world: &World, state: &MigrationState, now: &Time) -> bool {
    let Some(ended) = state.end_timestamp.as_ref().filter(|_| is_source_gone(state)) else { return false };
    !is_heard(world, state.target_node.as_deref(), now)
        || now.0.duration_since(ended.0).as_secs() <= TARGET_WORD_SECONDS
}

fn is_source_gone(state: &MigrationState) -> bool {
    state.failure.as_ref().is_some_and(|failure| failure.reason == FailureReason::SourceGone)
}

/// The instance where it has arrived, if that is not written yet.
fn arrived(instance: &VirtualMachineInstance, migration: &VirtualMachineInstanceMigration) -> Option<Intent> {
    let state = migration.status.as_ref()?.migration_state.clone()?;
    let mut there = instance.clone();
    let status = there.status.get_or_insert_default();
    // A later run of the same machine has not gone anywhere.
    if status.vmm != state.source_vmm && status.vmm != state.target_vmm {
        return None;
    }
    status.node_name.clone_from(&state.target_node);
    status.vmm.clone_from(&state.target_vmm);
    status.migration_state = Some(MigrationState { progress: None, ..state });
    (there.status != instance.status).then(|| Intent::SetInstanceStatus(Box::new(there)))
}

fn closed(
    migration: &VirtualMachineInstanceMigration,
    state: &MigrationState,
    instance: Option<&VirtualMachineInstance>,
    now: &Time,
) -> VirtualMachineInstanceMigration {
    let mut next = migration.clone();
    let status = next.status.get_or_insert_default();
    let state = status.migration_state.insert(state.clone());
    // As the instance has it, where that was written and the migration was not: nothing is written anew for a later clock.
    let written = instance.and_then(|instance| instance.status.as_ref()?.migration_state.as_ref());
    let written = written.filter(|written| written.migration_uid == state.migration_uid);
    let ended = written.and_then(|written| written.end_timestamp.as_ref()).unwrap_or(now);
    state.end_timestamp.get_or_insert_with(|| ended.clone());
    if (state.abort_requested || is_unwanted(migration)) && state.abort_status != Some(AbortStatus::Succeeded)
    {
        state.abort_requested = true;
        state.abort_status = Some(if state.failed { AbortStatus::Succeeded } else { AbortStatus::Failed });
    }
    let phase = if state.failed { MigrationPhase::Failed } else { MigrationPhase::Succeeded };
    status.enter(phase, now);
    next
}

/// A migration that comes to its end before any memory moved: the machine runs where it was, if it runs.
fn failed(
    mut migration: VirtualMachineInstanceMigration,
    reason: FailureReason,
    message: &str,
    now: &Time,
) -> VirtualMachineInstanceMigration {
    let uid = migration.metadata.uid.clone();
    let status = migration.status.get_or_insert_default();
    let state = status.migration_state.get_or_insert_default();
    state.migration_uid = uid;
    state.completed = true;
    state.failed = true;
    state.failure_reason = Some(message.to_owned());
    state.failure = Some(Failure { reason, message: message.to_owned(), advice: None });
    state.end_timestamp = Some(now.clone());
    if reason == FailureReason::Cancelled {
        state.abort_requested = true;
        state.abort_status = Some(AbortStatus::Succeeded);
    }
    status.enter(MigrationPhase::Failed, now);
    migration
}

fn scheduled(status: ConditionStatus, reason: &str, message: String) -> Condition {
    Condition {
        kind: "Scheduled".to_owned(),
        status,
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

/// An event for a phase that was entered, if people want to know of it.
fn note_phase(
    before: &VirtualMachineInstanceMigration,
    after: &VirtualMachineInstanceMigration,
    intents: &mut Vec<Intent>,
) {
    let status = after.status.clone().unwrap_or_default();
    if before.status.as_ref().and_then(|status| status.phase) == status.phase {
        return;
    }
    let state = status.migration_state.clone().unwrap_or_default();
    let target = state.target_node.unwrap_or_default();
    let (reason, message, is_warning) = match status.phase() {
        MigrationPhase::Scheduled => ("Migrating", format!("Goes to node {target}"), false),
        MigrationPhase::Succeeded => ("Migrated", format!("Runs on node {target}"), false),
        MigrationPhase::Failed => ("FailedMigration", state.failure_reason.unwrap_or_default(), true),
        _ => return,
    };
    intents.push(Intent::Record(Note {
        kind: crate::MIGRATION_KIND,
        namespace: namespace_of(&after.metadata).to_owned(),
        name: name_of(&after.metadata).to_owned(),
        uid: uid_of(&after.metadata).to_owned(),
        reason,
        message,
        is_warning,
    }));
}
