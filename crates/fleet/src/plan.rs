//! What would become of a migration that was asked for now.

use std::collections::BTreeMap;

use objects::{MigrationConfiguration, VirtualMachineInstance};

use crate::{
    World, fit,
    fit::{Fit, Misfit},
    migration::blocked,
    placement::roomiest,
    policy::{self, Choice},
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
}

/// What would become of a migration of an instance, with labels that the target must have beside the instance's own. The same as is decided
/// when it is asked for, as long as nothing changes.
pub fn plan<'a>(
    world: &'a World,
    instance: &VirtualMachineInstance,
    added: &BTreeMap<String, String>,
) -> Plan<'a> {
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
        values: policy::resolve(choice.policy, &settings),
        choice,
    }
}
