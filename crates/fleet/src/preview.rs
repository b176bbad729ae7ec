//! What a policy would change, before it exists.

use std::{collections::BTreeSet, sync::Arc};

use objects::{
    MigrationConfiguration, MigrationPolicy, MigrationPolicyPreviewStatus, PolicyChange, ValueChange,
    VirtualMachineInstance,
};

use crate::{
    World, policy,
    world::{name_of, namespace_of},
};

/// Changes that are listed; the others are counted.
const LISTED: usize = 100;

/// What would change if there were this policy in the place of the one of its name; or, without one, if that were deleted.
pub fn preview(world: &World, name: &str, wanted: Option<MigrationPolicy>) -> MigrationPolicyPreviewStatus {
    let mut after = world.clone();
    after.policies.retain(|other| name_of(&other.metadata) != name);
    after.policies.extend(wanted.map(Arc::new));
    let applies = after.instances.iter().filter(|instance| {
        policy::of(&after, instance).policy.is_some_and(|policy| name_of(&policy.metadata) == name)
    });
    let applies = count(applies.count());
    let changes: Vec<_> =
        world.instances.iter().filter_map(|instance| difference(world, &after, instance)).collect();
    MigrationPolicyPreviewStatus {
        instances: count(world.instances.len()),
        applies,
        changed: count(changes.len()),
        changes: changes.into_iter().take(LISTED).collect(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What would change for an instance, if anything.
pub fn difference(before: &World, after: &World, instance: &VirtualMachineInstance) -> Option<PolicyChange> {
    let of = |world: &World| {
        let policy = policy::of(world, instance).policy;
        let name = policy.and_then(|policy| policy.metadata.name.clone());
        (name, listed(&policy::resolve(policy, &world.settings())))
    };
    let ((old_name, old), (new_name, new)) = (of(before), of(after));
    let value = |list: &[(String, String)], name: &str| {
        list.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let names: BTreeSet<_> = old.iter().chain(&new).map(|(name, _)| name).collect();
    let values: Vec<_> = names
        .into_iter()
        .map(|name| ValueChange { name: name.clone(), before: value(&old, name), after: value(&new, name) })
        .filter(|change| change.before != change.after)
        .collect();
    if old_name == new_name && values.is_empty() {
        return None;
    }
    Some(PolicyChange {
        namespace: namespace_of(&instance.metadata).to_owned(),
        name: name_of(&instance.metadata).to_owned(),
        before: old_name,
        after: new_name,
        values,
    })
}

/// Values of a migration with their names, as manifests have them.
pub fn listed(values: &MigrationConfiguration) -> Vec<(String, String)> {
    let fields = serde_json::to_value(values).unwrap_or_default();
    let fields = fields.as_object().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    fields.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}
