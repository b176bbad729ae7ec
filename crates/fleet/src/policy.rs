//! Which policy applies to a migration, and what it comes to.

use std::{collections::BTreeMap, sync::Arc};

use objects::{
    MigrationConfiguration, MigrationPolicy, MigrationSettings, Origin, Quantity, VirtualMachineInstance,
};

use crate::{
    World,
    world::{name_of, namespace_of},
};

/// Seconds for each GiB after which a migration is given up, where nothing is set; KubeVirt's.
const COMPLETION_TIMEOUT_PER_GIB: u32 = 150;

/// The policy that applies, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice<'a> {
    /// The policy; `None` where the settings of the fleet alone apply.
    pub policy: Option<&'a MigrationPolicy>,
    /// Why this one, in a sentence.
    pub reason: String,
}

type Labels = BTreeMap<String, String>;

/// The policy that applies to an instance with these labels, in a namespace with those: of all whose labels are there, the one with most
/// labels; of several, the one whose name comes first.
pub fn choose<'a>(policies: &'a [Arc<MigrationPolicy>], namespace: &Labels, instance: &Labels) -> Choice<'a> {
    let mut candidates: Vec<_> = policies
        .iter()
        .filter_map(|policy| Some((matched(policy, namespace, instance)?, &**policy)))
        .collect();
    candidates.sort_by(|(more, one), (less, other)| {
        less.cmp(more).then_with(|| name_of(&one.metadata).cmp(name_of(&other.metadata)))
    });
    let reason = match candidates.as_slice() {
        [] => "no policy has labels that are all there".to_owned(),
        [(labels, _)] => format!("the only policy that applies; {labels} of its labels are there"),
        [(labels, _), (same, second), ..] if labels == same => {
            format!(
                "{labels} labels match, as many as of {}, and its name comes first",
                name_of(&second.metadata)
            )
        }
        [(labels, _), (fewer, second), ..] => {
            format!("{labels} labels match, more than of {} ({fewer})", name_of(&second.metadata))
        }
    };
    Choice { policy: candidates.first().map(|(_, policy)| *policy), reason }
}

/// The policy that applies to the migrations of an instance.
pub fn of<'a>(world: &'a World, instance: &VirtualMachineInstance) -> Choice<'a> {
    let labels = instance.metadata.labels.clone().unwrap_or_default();
    let namespace = world.namespace_labels(namespace_of(&instance.metadata));
    choose(&world.policies, &namespace, &labels)
}

/// How many labels of a policy are there; `None` unless it is all of them.
fn matched(policy: &MigrationPolicy, namespace: &Labels, instance: &Labels) -> Option<usize> {
    let selectors = &policy.spec.selectors;
    let are_there =
        |wanted: &Labels, labels: &Labels| wanted.iter().all(|(name, value)| labels.get(name) == Some(value));
    let (of_namespace, of_instance) =
        (&selectors.namespace_selector, &selectors.virtual_machine_instance_selector);
    (are_there(of_namespace, namespace) && are_there(of_instance, instance))
        .then(|| of_namespace.len() + of_instance.len())
}

/// Where each value of [`resolve`] comes from, by its name in manifests.
pub fn origins(policy: Option<&MigrationPolicy>, settings: &MigrationSettings) -> BTreeMap<String, Origin> {
    let spec = policy.map(|policy| policy.spec.clone()).unwrap_or_default();
    let either = |of_policy: bool, of_fleet: bool| match (of_policy, of_fleet) {
        (true, _) => Origin::Policy,
        (false, true) => Origin::Fleet,
        (false, false) => Origin::Default,
    };
    let post_copy = either(spec.allow_post_copy.is_some(), settings.allow_post_copy.is_some());
    // Where nobody says whether the guest may be disturbed, it is as with post-copy, whoever allowed that.
    let disruption = match (spec.allow_workload_disruption, settings.allow_workload_disruption) {
        (None, None) => post_copy,
        (of_policy, of_fleet) => either(of_policy.is_some(), of_fleet.is_some()),
    };
    let timeout = spec.completion_timeout_per_gi_b.is_some();
    let bandwidth = spec.bandwidth_per_migration.is_some();
    let list = [
        (
            "allowAutoConverge",
            either(spec.allow_auto_converge.is_some(), settings.allow_auto_converge.is_some()),
        ),
        ("allowPostCopy", post_copy),
        ("allowWorkloadDisruption", disruption),
        ("bandwidthPerMigration", either(bandwidth, settings.bandwidth_per_migration.is_some())),
        ("completionTimeoutPerGiB", either(timeout, settings.completion_timeout_per_gi_b.is_some())),
        ("deadlineSeconds", either(spec.deadline_seconds.is_some(), false)),
        ("maxDowntimeMs", either(spec.max_downtime_ms.is_some(), false)),
        ("channels", either(spec.channels.is_some(), false)),
        ("retryLimit", either(spec.retry_limit.is_some(), false)),
    ];
    list.into_iter().map(|(name, origin)| (name.to_owned(), origin)).collect()
}

/// What a migration says itself, instead of its policy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Own {
    pub(crate) deadline: Option<u32>,
    pub(crate) retries: Option<u32>,
}

/// The same for a migration that says something itself.
pub(crate) fn origins_with(
    own: Own,
    policy: Option<&MigrationPolicy>,
    settings: &MigrationSettings,
) -> BTreeMap<String, Origin> {
    let mut origins = origins(policy, settings);
    origins.extend(own.deadline.map(|_| ("deadlineSeconds".to_owned(), Origin::Migration)));
    origins.extend(own.retries.map(|_| ("retryLimit".to_owned(), Origin::Migration)));
    origins
}

/// What policy and settings come to for a migration that says something itself.
pub(crate) fn resolve_with(
    own: Own,
    policy: Option<&MigrationPolicy>,
    settings: &MigrationSettings,
) -> MigrationConfiguration {
    let values = resolve(policy, settings);
    MigrationConfiguration {
        deadline_seconds: own.deadline.or(values.deadline_seconds),
        retry_limit: own.retries.unwrap_or(values.retry_limit),
        ..values
    }
}

/// What a policy comes to, over the settings of the fleet.
pub fn resolve(policy: Option<&MigrationPolicy>, settings: &MigrationSettings) -> MigrationConfiguration {
    let spec = policy.map(|policy| policy.spec.clone()).unwrap_or_default();
    let either = |of_policy: Option<bool>, of_fleet: Option<bool>| of_policy.or(of_fleet).unwrap_or(false);
    let bandwidth = spec.bandwidth_per_migration.or_else(|| settings.bandwidth_per_migration.clone());
    let allow_post_copy = either(spec.allow_post_copy, settings.allow_post_copy);
    let disruption = spec.allow_workload_disruption.or(settings.allow_workload_disruption);
    let timeout = spec.completion_timeout_per_gi_b.or(settings.completion_timeout_per_gi_b);
    MigrationConfiguration {
        allow_auto_converge: either(spec.allow_auto_converge, settings.allow_auto_converge),
        allow_post_copy,
        allow_workload_disruption: disruption.unwrap_or(allow_post_copy),
        bandwidth_per_migration: bandwidth.unwrap_or_else(|| Quantity::from("0")),
        completion_timeout_per_gi_b: timeout.unwrap_or(COMPLETION_TIMEOUT_PER_GIB),
        deadline_seconds: spec.deadline_seconds,
        max_downtime_ms: spec.max_downtime_ms,
        channels: spec.channels,
        retry_limit: spec.retry_limit.unwrap_or(0),
    }
}
