use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, Origin, Quantity};

/// The wish that an instance runs on another node, and the record of what came of it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "VirtualMachineInstanceMigration",
    plural = "virtualmachineinstancemigrations",
    singular = "virtualmachineinstancemigration",
    shortname = "vmim",
    shortname = "vmims",
    category = "all",
    namespaced,
    status = "VirtualMachineInstanceMigrationStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The wish that an instance runs on another node, and the record of what came of it",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "VMI", type_ = "string", json_path = ".spec.vmiName"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.migrationState.progress.percent"),
    printcolumn(
        name = "Source",
        type_ = "string",
        json_path = ".status.migrationState.sourceNode",
        priority = "1"
    ),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.migrationState.targetNode",
        priority = "1"
    ),
    printcolumn(
        name = "Downtime-Ms",
        type_ = "string",
        json_path = ".status.migrationState.result.downtime.totalMs",
        priority = "1"
    ),
    printcolumn(
        name = "Policy",
        type_ = "string",
        json_path = ".status.migrationState.migrationPolicyName",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationSpec {
    /// The instance, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub vmi_name: String,
    /// Labels that the target must have beside those that the instance asks for. `kubernetes.io/hostname` names one node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub added_node_selector: BTreeMap<String, String>,
    /// Seconds after which its time is up, instead of what the policy says; 0: never, by this measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604800))]
    pub deadline_seconds: Option<u32>,
    /// How often it is tried again after it failed for a reason that may pass, instead of what the policy says: each time as a migration of its own,
    /// 10 s after the first failure, and each time twice as long, up to 5 minutes. 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retry_limit: Option<u32>,
    /// Whose turn it is when several wait; absent: `user-triggered`. Of the same, who came first. What comes more than 10 minutes later has its
    /// turn later, though its priority is one higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<MigrationPriority>,
    /// Give it up. What comes of that is in `status.migrationState.abortStatus`: it may be too late.
    #[serde(default)]
    pub cancel: bool,
}

/// Whose turn it is first, as in KubeVirt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationPriority {
    /// Before all others.
    SystemCritical,
    /// Somebody waits for it.
    #[default]
    UserTriggered,
    /// When nothing else waits.
    SystemMaintenance,
}

/// How far a migration is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceMigrationStatus {
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<MigrationPhase>,
    /// When it came to each phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phase_transition_timestamps: Vec<MigrationPhaseTime>,
    /// What is so, with all reasons; why it waits, for example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Everything about the move itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_state: Option<MigrationState>,
}

impl VirtualMachineInstanceMigrationStatus {
    /// The phase, `Pending` where none was written yet.
    pub fn phase(&self) -> MigrationPhase {
        self.phase.unwrap_or_default()
    }

    /// Enters a phase, unless it is there already.
    pub fn enter(&mut self, phase: MigrationPhase, now: &Time) {
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            self.phase_transition_timestamps
                .push(MigrationPhaseTime { phase, phase_transition_timestamp: now.clone() });
        }
    }
}

/// Where a migration stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MigrationPhase {
    /// It waits: for a place in the queue, or for a node that fits.
    #[default]
    Pending,
    /// The target is chosen, whose agent has not begun.
    Scheduled,
    /// The target's agent starts a VMM.
    PreparingTarget,
    /// The target's VMM listens.
    TargetReady,
    /// Memory moves.
    Running,
    /// The machine runs on the target.
    Succeeded,
    /// The machine runs where it was; or, if it ended meanwhile, nowhere.
    Failed,
}

impl MigrationPhase {
    /// Whether nothing happens any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// Whether it has a target, and so counts for the limits.
    pub fn is_under_way(self) -> bool {
        !self.is_final() && self != Self::Pending
    }
}

/// When a phase began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPhaseTime {
    /// The phase.
    pub phase: MigrationPhase,
    /// When it began.
    pub phase_transition_timestamp: Time,
}

/// Everything about one move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationState {
    /// UID of the migration object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_uid: Option<String>,
    /// When a target was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<Time>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_timestamp: Option<Time>,
    /// Where the machine came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_node: Option<String>,
    /// Where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node: Option<String>,
    /// The VMM that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_vmm: Option<String>,
    /// The VMM that shall run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_vmm: Option<String>,
    /// Where the target's VMM listens, as the engine writes it: `tcp:127.0.0.1:41234`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node_address: Option<String>,
    /// When the target's VMM had the machine, by the word of the target's agent: from then on it is there, whatever the source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node_domain_ready_timestamp: Option<Time>,
    /// How memory moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MigrationMode>,
    /// Whether the move is over, well or not.
    #[serde(default)]
    pub completed: bool,
    /// Whether it failed.
    #[serde(default)]
    pub failed: bool,
    /// Why it failed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// The same, typed, with advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Whether its time is up, and it shall come to an end at the expense of the guest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workload_disruption_requested: bool,
    /// Whether it shall be given up.
    #[serde(default)]
    pub abort_requested: bool,
    /// What came of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_status: Option<AbortStatus>,
    /// The policy that applied; absent where the settings of the fleet alone did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_policy_name: Option<String>,
    /// Why this policy, or why none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_policy_reason: Option<String>,
    /// The values that policy and settings resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_configuration: Option<MigrationConfiguration>,
    /// Where each of these values comes from, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub migration_configuration_origins: BTreeMap<String, Origin>,
    /// How far it is; written at most once a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What it took; at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<MigrationResult>,
}

/// How memory moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MigrationMode {
    /// Before the machine is switched over.
    PreCopy,
    /// The rest after it.
    PostCopy,
    /// While the machine stands still.
    Paused,
}

/// What came of the wish to give a migration up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AbortStatus {
    /// The engine was told.
    Aborting,
    /// It was given up; the machine runs where it was.
    Succeeded,
    /// It was too late; the machine has moved.
    Failed,
}

/// Why a migration failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// In one word.
    pub reason: FailureReason,
    /// In a sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Why a migration failed, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureReason {
    /// Somebody asked for it.
    Cancelled,
    /// The instance ended or was deleted meanwhile.
    InstanceGone,
    /// The instance cannot be migrated, by the word of its agent.
    NotMigratable,
    /// The target's agent could not start a VMM.
    TargetFailed,
    /// The target was not ready in time.
    TargetTimeout,
    /// The engine gave up: its sentence is the message.
    EngineFailed,
    /// It took longer than the policy allows.
    CompletionTimeout,
    /// The source's VMM has ended.
    SourceGone,
}

/// The values that apply to one migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationConfiguration {
    /// Whether vCPUs may be slowed.
    #[serde(default)]
    pub allow_auto_converge: bool,
    /// Whether memory may follow the machine.
    #[serde(default)]
    pub allow_post_copy: bool,
    /// Whether the guest may be disturbed when the time is up.
    #[serde(default)]
    pub allow_workload_disruption: bool,
    /// Bytes each second; 0: as many as there are.
    #[serde(default)]
    pub bandwidth_per_migration: Quantity,
    /// Seconds for each GiB; 0: no limit.
    #[serde(default)]
    pub completion_timeout_per_gi_b: u32,
    /// Seconds in all; absent or 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// Milliseconds; absent: the engine's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime_ms: Option<u32>,
    /// Connections; absent: the engine's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// How often it is tried again after it failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_limit: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How far a migration is, by the word of the source's VMM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Pass over the dirty memory, from 1.
    #[serde(default)]
    pub round: u32,
    /// How much is done, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Milliseconds until it is expected to be over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// Why the percentage ran backwards, or why no end is in sight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Bytes still to be sent.
    #[serde(default)]
    pub remaining_bytes: u64,
    /// Bytes sent.
    #[serde(default)]
    pub transferred_bytes: u64,
    /// Bytes each second on the wire, in the last round.
    #[serde(default)]
    pub wire_rate: u64,
    /// Bytes each second that the guest dirtied, in the last round.
    #[serde(default)]
    pub dirty_rate: u64,
    /// Milliseconds of downtime if it switched over now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_downtime_ms: Option<u64>,
    /// Percent of their time that is taken from vCPUs, so that they write less; absent while nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_percent: Option<u32>,
    /// What was decided last, oldest first; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
}

/// What the engine decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Milliseconds since the migration began.
    pub at_ms: u64,
    /// What, and why, in a sentence.
    pub text: String,
}

/// What a migration took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationResult {
    /// How long the guest stood still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Downtime>,
    /// Bytes sent.
    #[serde(default)]
    pub transferred_bytes: u64,
    /// Passes over the dirty memory.
    #[serde(default)]
    pub rounds: u32,
    /// Milliseconds from the engine's start to its first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_ms: Option<u64>,
    /// Milliseconds from the engine's start to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// The id that both sides' logs and reports have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// How long the guest stood still.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Downtime {
    /// In all, in milliseconds.
    pub total_ms: u64,
    /// What for: milliseconds by the name of the phase.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub phases_ms: BTreeMap<String, f64>,
}
