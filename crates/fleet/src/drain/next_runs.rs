//! Room for runs that are about to begin.

use std::collections::BTreeMap;

use objects::VirtualMachineInstance;

use crate::{Intent, index::Index, machine, placement::best};

/// The next run of a machine, which has no node yet: it may begin where a migration of this one could not go.
pub(super) fn next_run(instance: &VirtualMachineInstance) -> VirtualMachineInstance {
    VirtualMachineInstance { status: None, ..instance.clone() }
}

/// Takes room for runs that follow on one that is being ended, and for those that are made now, so that a drain does not end another run for the same
/// room. Those that wait for a node have been placed by now where there is room for them.
pub(super) fn take_room(index: &mut Index<'_>, intents: &[Intent]) {
    let ending = index.world.instances.iter().filter(|instance| {
        instance.metadata.deletion_timestamp.is_some() && machine::comes_again(index, instance)
    });
    let made = intents.iter().filter_map(|intent| match intent {
        Intent::CreateInstance(instance) => Some(VirtualMachineInstance::clone(instance)),
        _ => None,
    });
    let next: Vec<_> = ending.map(|instance| next_run(instance)).chain(made).collect();
    for instance in next {
        let node = best(index, &instance, &BTreeMap::new(), |_| true).map(|room| room.name);
        if let Some(node) = node {
            index.take(node, &instance);
        }
    }
}
