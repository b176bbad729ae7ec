//! What can be asked of the fleet: objects that are created, answered in their status, and not stored.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, MigrationConfiguration, MigrationPolicySpec, Origin};

/// What would become of a migration that was asked for now. It is answered, not stored: `kubectl create -f plan.yaml -o yaml`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "MigrationPlan",
    plural = "migrationplans",
    singular = "migrationplan",
    namespaced,
    status = "MigrationPlanStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What would become of a migration that was asked for now; answered, not stored"
)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPlanSpec {
    /// The instance, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub vmi_name: String,
    /// As in a migration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub added_node_selector: BTreeMap<String, String>,
    /// As in a migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604800))]
    pub deadline_seconds: Option<u32>,
    /// Whether the engine is asked what the migration would be like: its VMM looks at the machine for half a second for each speed of a way,
    /// four at most.
    #[serde(default)]
    pub forecast: bool,
}

/// The answer. It holds as long as nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPlanStatus {
    /// Each node with all its reasons.
    #[serde(default)]
    pub nodes: Vec<NodeFit>,
    /// The node that it would go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node: Option<String>,
    /// Why it would not begin now, in a sentence; absent if it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Migrations that wait already and come first.
    #[serde(default)]
    pub ahead: u32,
    /// The policy that would apply; absent where the settings of the fleet alone do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_policy_name: Option<String>,
    /// Why this policy, or why none.
    #[serde(default)]
    pub migration_policy_reason: String,
    /// The values that would apply.
    #[serde(default)]
    pub migration_configuration: MigrationConfiguration,
    /// Where each value comes from, by its name.
    #[serde(default)]
    pub origins: BTreeMap<String, Origin>,
    /// What the engine has seen of the machine; absent where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<ForecastMachine>,
    /// Why there are no forecasts, in a sentence; absent where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_forecast: Option<String>,
}

/// Whether a machine fits on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFit {
    /// The node.
    pub name: String,
    /// Whether it can run there.
    pub fits: bool,
    /// Every reason why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Bytes of memory that are free there; of huge pages where the machine wants these.
    #[serde(default)]
    pub free_bytes: u64,
    /// Bytes each second of the way there that the forecasts rest on; where it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// From what that is known; not where it is the next slower one of those that were asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_basis: Option<WayBasis>,
    /// What a migration there would be like by each mode, in the order of the harm that they do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forecasts: Vec<MigrationForecast>,
    /// Why the mode that would be taken would be, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_reason: Option<String>,
}

/// From what the speed of a way is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WayBasis {
    /// The last migration between these nodes.
    Way,
    /// The last migration between any nodes.
    Fleet,
    /// The policy allows no more.
    Policy,
    /// 250 MB/s, for want of anything better.
    Assumed,
}

/// What a migration by one mode would be like, by the word of the engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationForecast {
    /// `precopy`, `downtime`, `throttle`, `postcopy` or `immediate`.
    pub mode: String,
    /// Whether it is the one that would be taken.
    #[serde(default)]
    pub chosen: bool,
    /// Whether it ends. If not, the figures are those of the first round.
    #[serde(default)]
    pub ends: bool,
    /// Milliseconds from start to end.
    #[serde(default)]
    pub total_ms: u64,
    /// Milliseconds that the machine stands still.
    #[serde(default)]
    pub downtime_ms: f64,
    /// Bytes on the wire.
    #[serde(default)]
    pub transferred_bytes: u64,
    /// CPU time of both hosts together, in seconds.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Work that the guest loses until the end, in per cent.
    #[serde(default)]
    pub loss_percent: f64,
    /// Why it is not used with these values; absent if it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forbidden: Option<String>,
}

/// What is known of a machine, from a sample of its pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForecastMachine {
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of it that are zero.
    pub empty_bytes: u64,
    /// Bytes that it writes again and again.
    pub working_set_bytes: u64,
    /// Bytes of pages that become dirty each second while none of them is.
    pub dirty_rate: u64,
}

/// What a policy would change, before it exists. It is answered, not stored.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "MigrationPolicyPreview",
    plural = "migrationpolicypreviews",
    singular = "migrationpolicypreview",
    status = "MigrationPolicyPreviewStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What a policy would change, before it exists; answered, not stored"
)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPolicyPreviewSpec {
    /// The name of the policy; one of that name that is there would be replaced.
    #[schemars(length(min = 1, max = 253))]
    pub policy_name: String,
    /// What it would say; absent: it would be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<MigrationPolicySpec>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPolicyPreviewStatus {
    /// Instances that there are.
    #[serde(default)]
    pub instances: u32,
    /// Instances that it would apply to.
    #[serde(default)]
    pub applies: u32,
    /// Instances for which something would change; `changes` has the first 100 of them.
    #[serde(default)]
    pub changed: u32,
    /// What would change for whom.
    #[serde(default)]
    pub changes: Vec<PolicyChange>,
}

/// What would change for an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyChange {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The policy that applies now; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The policy that would apply; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Values that would be others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<ValueChange>,
}

/// A value that would be another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueChange {
    /// Its name, as manifests have it.
    pub name: String,
    /// What it is now; absent: unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it would be; absent: unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// How the control plane itself stands. It is answered, not stored: `kubectl create -f review.yaml -o yaml`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "ControlPlaneReview",
    plural = "controlplanereviews",
    singular = "controlplanereview",
    status = "ControlPlaneReviewStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "How the control plane itself stands; answered, not stored"
)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlaneReviewSpec {}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlaneReviewStatus {
    /// Its release.
    #[serde(default)]
    pub version: String,
    /// What is so: `CertificatesExpiring`, as Nodes have it.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
