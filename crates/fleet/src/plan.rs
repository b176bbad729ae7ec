//! What would become of a migration that was asked for now.

use std::collections::BTreeMap;

use objects::{
    InstancePhase, MigrationConfiguration, MigrationPlanSpec, MigrationPlanStatus, NodeFit, Origin,
    VirtualMachineInstance, VirtualMachineInstanceStatus,
};

use crate::{
    World, fit,
    fit::{Fit, Misfit},
    migration::blocked,
    placement::roomiest,
    policy::{self, Choice, Own},
    queue::{self, Queue},
};

/// What would become of a migration.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Why the machine cannot be migrated wherever to, if so.
    pub blocked: Option<String>,
    /// How the machine fits on each node.
    pub fits: Vec<Fit>,
    /// The node that it would go to now.
    pub target: Option<String>,
    /// Why it would wait for its turn, if so.
    pub queued: Option<String>,
    /// Migrations that wait already and come first.
    pub ahead: usize,
    /// The policy that would apply.
    pub choice: Choice<'a>,
    /// The values that would apply.
    pub values: MigrationConfiguration,
    /// Where each of them comes from.
    pub origins: BTreeMap<String, Origin>,
    phase: InstancePhase,
}

impl Plan<'_> {
    /// Why a migration would not begin now, in words; `None` if it would.
    pub fn why_not(&self) -> Option<String> {
        let why = match (&self.blocked, &self.queued, &self.target) {
            _ if self.phase != InstancePhase::Running => Some("the machine does not run yet".to_owned()),
            (Some(why), ..) | (None, Some(why), _) => Some(why.clone()),
            (None, None, None) => Some("no node fits".to_owned()),
            (None, None, Some(_)) => None,
        };
        why.map(|why| why.trim_end_matches('.').to_owned())
    }

    /// As the answer to a question.
    pub fn status(&self) -> MigrationPlanStatus {
        let nodes = self.fits.iter().map(|fit| NodeFit {
            name: fit.node.clone(),
            fits: fit.misfits.is_empty(),
            reasons: fit.misfits.iter().map(ToString::to_string).collect(),
            free_bytes: fit.free,
            ..NodeFit::default()
        });
        MigrationPlanStatus {
            nodes: nodes.collect(),
            target_node: self.target.clone(),
            why_not: self.why_not(),
            ahead: u32::try_from(self.ahead).unwrap_or(u32::MAX),
            migration_policy_name: self.choice.policy.and_then(|policy| policy.metadata.name.clone()),
            migration_policy_reason: self.choice.reason.clone(),
            migration_configuration: self.values.clone(),
            origins: self.origins.clone(),
            ..MigrationPlanStatus::default()
        }
    }
}

/// What would become of a migration of an instance. The same as is decided when it is asked for, as long as nothing changes.
pub fn plan<'a>(world: &'a World, instance: &VirtualMachineInstance, asked: &MigrationPlanSpec) -> Plan<'a> {
    let own = Own { deadline: asked.deadline_seconds, retries: None };
    let added = &asked.added_node_selector;
    let settings = world.settings();
    let queue = Queue::new(world, &settings);
    let source = instance.status.as_ref().and_then(|status| status.node_name.clone()).unwrap_or_default();
    let mut fits = fit::fits(world, instance, added);
    for fit in &mut fits {
        fit.misfits.extend(queue.full_inbound(&fit.node).map(Misfit::InboundLimit));
    }
    let choice = policy::of(world, instance);
    Plan {
        blocked: blocked(instance),
        target: roomiest(&fits).map(|fit| fit.node.clone()),
        fits,
        queued: queue.full(&source),
        ahead: queue::waiting(world).len(),
        values: policy::resolve_with(own, choice.policy, &settings),
        origins: policy::origins_with(own, choice.policy, &settings),
        phase: instance.status.as_ref().map_or(InstancePhase::Pending, VirtualMachineInstanceStatus::phase),
        choice,
    }
}
