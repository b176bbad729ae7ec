use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Quantity;

/// The name of the one [`Fleet`] that counts.
pub const SETTINGS_NAME: &str = "fleet";

/// Settings of the whole fleet. There is one, named `fleet`; without it the defaults hold.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "Fleet",
    plural = "fleets",
    singular = "fleet",
    derive = "PartialEq",
    derive = "Default",
    doc = "Settings of the whole fleet"
)]
#[serde(rename_all = "camelCase")]
pub struct FleetSpec {
    /// Everything that can be set.
    #[serde(default)]
    pub configuration: Configuration,
}

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Limits of migrations, and what holds where no policy says otherwise.
    #[serde(default)]
    pub migrations: MigrationSettings,
}

/// Limits of migrations, and what holds where no policy says otherwise. What is absent is the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationSettings {
    /// Migrations at a time in the whole fleet [default: 5].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub parallel_migrations_per_cluster: Option<u32>,
    /// Migrations at a time away from one node [default: 2].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub parallel_outbound_migrations_per_node: Option<u32>,
    /// Migrations at a time to one node [default: 2].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub parallel_inbound_migrations_per_node: Option<u32>,
    /// The network that migrations have to themselves, by its prefix, as `10.88.0.0/24`: machines come to a node at its address in this network,
    /// and neither come nor go where it has none. A node whose agent was started with an address for migrations keeps to that [default: none,
    /// machines come to a node at its address].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43), regex(pattern = r"^[0-9A-Fa-f.:]+/[0-9]{1,3}$"))]
    pub network: Option<String>,
    /// As in a policy [default: false].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_auto_converge: Option<bool>,
    /// As in a policy [default: false].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_post_copy: Option<bool>,
    /// As in a policy [default: as `allowPostCopy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_workload_disruption: Option<bool>,
    /// As in a policy [default: 0, as many bytes as there are].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_migration: Option<Quantity>,
    /// As in a policy [default: 150 s].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub completion_timeout_per_gi_b: Option<u32>,
    /// Records of migrations that are kept of each machine [default: 20].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub migration_records_per_machine: Option<u32>,
    /// Hours for which the record of a migration is kept, also when its machine is gone [default: 168].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 87600))]
    pub migration_record_hours: Option<u32>,
}
