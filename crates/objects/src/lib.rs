//! The kinds of the fleet: types, schemas, defaults, and what makes an object wrong.
//!
//! Fields have KubeVirt's names wherever they mean the same; what KubeVirt has no name for stands beside, never inside a known
//! field. Who writes which field is in `docs/fleet.md`. Nothing here stores, serves or acts on an object.
//!
//! * One file for each kind of ours: `machine`, `instance`, `migration`, `policy`, `drain`, `settings`.
//! * `question`: what can be asked and is not stored.
//! * [`definitions`] has them as Kubernetes takes them.
//! * [`kinds`] lists all kinds, also those of Kubernetes that the fleet needs, each with what a server must know of it.
//! * [`FieldError`] is what validation says: the path of the field and a sentence.

#![allow(clippy::duplicated_attributes, reason = "two columns of a table may have one type")]

mod affinity;
mod catalogue;
mod cloud_init;
mod condition;
mod crd;
mod disk_places;
mod drain;
mod instance;
mod kind;
mod kubernetes;
mod machine;
mod migration;
mod migration_network;
mod network;
mod node;
mod origin;
mod policy;
mod quantity;
mod question;
mod schema;
mod secret;
mod settings;
mod validation;

pub use affinity::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorOperator, NodeSelectorRequirement, NodeSelectorTerm,
    PreferredSchedulingTerm,
};
pub use catalogue::kinds;
pub use cloud_init::{CloudInitNoCloud, SecretName, SeedPart};
pub use condition::{Condition, ConditionStatus, condition, set_condition};
pub use crd::definitions;
pub use disk_places::disk_places;
pub use drain::{
    BlockedMachine, BlockedReason, DRAIN_LABEL, DRAIN_LISTED, DRAIN_UID_LABEL, DrainPhase, DrainStep,
    ForecastBasis, MIN_AVAILABLE, NodeDrain, NodeDrainPhase, NodeDrainPlan, NodeDrainPlanSpec,
    NodeDrainPlanStatus, NodeDrainProgress, NodeDrainSpec, NodeDrainStatus, PlannedNode,
};
pub use instance::{
    Cpu, CpuFeature, CpuFeaturePolicy, Devices, Disk, DiskCache, DiskTarget, DomainSpec, EvictionStrategy,
    Firmware, HostDisk, HostKernel, Hugepages, InstancePhase, KernelBoot, KernelBootContainer, Memory,
    PhaseTime, VirtualMachineInstance, VirtualMachineInstanceSpec, VirtualMachineInstanceStatus, Volume,
    WORKLOAD_IMAGE,
};
pub use kind::{Column, Kind, Names, Scope};
pub use machine::{
    InstanceTemplate, RunStrategy, TemplateMetadata, VirtualMachine, VirtualMachineSpec, VirtualMachineStatus,
};
pub use migration::{
    AbortStatus, Decision, Downtime, Failure, FailureReason, MigrationConfiguration, MigrationMode,
    MigrationPhase, MigrationPhaseTime, MigrationPriority, MigrationResult, MigrationState, Progress,
    VirtualMachineInstanceMigration, VirtualMachineInstanceMigrationSpec,
    VirtualMachineInstanceMigrationStatus,
};
pub use migration_network::{MigrationNetwork, MigrationNetworkError};
pub use network::{HostBridge, Interface, InterfaceBridge, Network, is_interface_name};
pub use origin::Origin;
pub use policy::{MigrationPolicy, MigrationPolicySpec, Selectors};
pub use quantity::{Quantity, QuantityError};
pub use question::{
    ControlPlaneReview, ControlPlaneReviewSpec, ControlPlaneReviewStatus, ForecastMachine, MigrationForecast,
    MigrationPlan, MigrationPlanSpec, MigrationPlanStatus, MigrationPolicyPreview,
    MigrationPolicyPreviewSpec, MigrationPolicyPreviewStatus, NodeFit, PolicyChange, ValueChange, WayBasis,
};
pub use settings::{Configuration, Fleet, FleetSpec, MigrationSettings, SETTINGS_NAME};
pub use validation::{Admitted, FieldError, FieldErrorKind, Review, drain_errors, spec_errors};

/// The group of our kinds.
pub const GROUP: &str = "whimbrel.dev";
/// The version of our kinds.
pub const VERSION: &str = "v1";
/// The label that carries a node's name; on every Node, and what `addedNodeSelector` names to say one node.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// The label of leases that agents renew, each with the name of its node: those of a kubelet have the same name.
pub const LEASE_LABEL: &str = "whimbrel.dev/node";
/// What labels of a Node begin with that name bridges of its host, each with the value `true`. Agents write them.
pub const BRIDGE_LABEL: &str = "bridge.whimbrel.dev/";
/// The annotation of a Node that says which paths of disks its host has: a JSON object, paths with `true` or `false`. Agents write it, and have
/// looked at [`disk_places`] of all instances.
pub const DISKS_ANNOTATION: &str = "whimbrel.dev/disks";
/// The annotation of a Node that says at which address machines come to it; none where it has no address in the network of migrations. Agents
/// write it.
pub const MIGRATION_ADDRESS_ANNOTATION: &str = "whimbrel.dev/migration-address";
/// The annotation of a Node that says for which network of migrations, as the settings have it, the address was chosen; none where there is no
/// such network, or the agent has not heard of it. Agents write it.
pub const MIGRATION_NETWORK_ANNOTATION: &str = "whimbrel.dev/migration-network";
/// What labels of a Node begin with that tell of its processor, each with the value `true`: its maker, models that it can show machines, and
/// features. Agents write them.
pub const CPU_VENDOR_LABEL: &str = "cpu-vendor.whimbrel.dev/";
/// See [`CPU_VENDOR_LABEL`].
pub const CPU_MODEL_LABEL: &str = "cpu-model.whimbrel.dev/";
/// See [`CPU_VENDOR_LABEL`].
pub const CPU_FEATURE_LABEL: &str = "cpu-feature.whimbrel.dev/";
/// The name that the certificate of a fleet's control plane has beside those of its host, and no node's: nodes are named by labels and addresses.
pub const CONTROL_PLANE_NAME: &str = "control-plane.whimbrel.dev";
/// The annotation of a migration that is tried again: the name of the one before.
pub const RETRY_OF_ANNOTATION: &str = "whimbrel.dev/retry-of";
/// The annotation of a migration that is tried again: which attempt it is, from 2.
pub const ATTEMPT_ANNOTATION: &str = "whimbrel.dev/attempt";
/// The condition of a migration that failed, which says when it is tried again, as what, or why not.
pub const RETRY_CONDITION: &str = "Retry";
/// The condition of a Node that says whether its agent lives, where the Node is a kubelet's. Elsewhere it is `Ready`.
pub const AGENT_CONDITION: &str = "WhimbrelReady";
/// Holds an instance until its VMM is gone; set at creation, taken off by the agent of its node.
pub const VMM_FINALIZER: &str = "whimbrel.dev/vmm";
/// Holds a namespace until what is in it is gone; set at creation, taken off by the controllers.
pub const NAMESPACE_FINALIZER: &str = "whimbrel.dev/namespace";
/// Holds a migration until it is over; set at creation, taken off by the controllers. To delete one that goes on is to cancel it.
pub const MIGRATION_FINALIZER: &str = "whimbrel.dev/migration";
/// Holds a drain until it is over; set at creation, taken off by the controllers. To delete one that goes on is to cancel it.
pub const DRAIN_FINALIZER: &str = "whimbrel.dev/drain";
