use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// How the migrations of some instances go.
///
/// A policy applies where all its labels match, those of the namespace and those of the instance. Of several that apply the one
/// with more labels wins, then the one whose name comes first.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "MigrationPolicy",
    plural = "migrationpolicies",
    singular = "migrationpolicy",
    derive = "PartialEq",
    derive = "Default",
    doc = "How the migrations of some instances go",
    printcolumn(name = "Bandwidth", type_ = "string", json_path = ".spec.bandwidthPerMigration"),
    printcolumn(name = "Auto-Converge", type_ = "boolean", json_path = ".spec.allowAutoConverge"),
    printcolumn(name = "Post-Copy", type_ = "boolean", json_path = ".spec.allowPostCopy"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPolicySpec {
    /// Which instances it applies to.
    pub selectors: Selectors,
    /// Whether vCPUs may be slowed until a migration can complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_auto_converge: Option<bool>,
    /// Whether the machine may run at the target before all its memory is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_post_copy: Option<bool>,
    /// What is done when the time of a migration is up: with it the rest follows the machine where that is allowed, or else the machine is
    /// paused until it has arrived; without it the migration is given up. As `allowPostCopy` where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_workload_disruption: Option<bool>,
    /// Bytes each second that a migration may use; 0: as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_migration: Option<Quantity>,
    /// Seconds for each GiB of memory after which the time is up; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub completion_timeout_per_gi_b: Option<u32>,
    /// Seconds after which the time is up in any case, whatever the memory; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604800))]
    pub deadline_seconds: Option<u32>,
    /// Milliseconds that the guest may stand still at the switchover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2000000))]
    pub max_downtime_ms: Option<u32>,
    /// Connections that carry pages, 1 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub channels: Option<u32>,
    /// How often a migration is tried again after it failed for a reason that may pass [default: 0].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retry_limit: Option<u32>,
}

/// Labels that must be there, all of them. Nothing at all matches every instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selectors {
    /// On the namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_selector: BTreeMap<String, String>,
    /// On the instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub virtual_machine_instance_selector: BTreeMap<String, String>,
}
