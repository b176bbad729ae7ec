//! Emptying nodes: the wish, how far it is, and the plan that can be asked for before.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// The label of a migration that was made for a drain: the name of the drain.
pub const DRAIN_LABEL: &str = "whimbrel.dev/drain";
/// The same, with the UID of the drain: of several with one name it is this one.
pub const DRAIN_UID_LABEL: &str = "whimbrel.dev/drain-uid";
/// Machines and moves that a status lists; the others are counted.
pub const DRAIN_LISTED: usize = 50;
/// Nodes that must stay schedulable where a drain does not say how many.
pub const MIN_AVAILABLE: u32 = 1;

/// The wish that nodes are empty, and the record of what came of it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "NodeDrain",
    plural = "nodedrains",
    singular = "nodedrain",
    shortname = "drain",
    status = "NodeDrainStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The wish that nodes are empty, and the record of what came of it",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".spec.nodes"),
    printcolumn(name = "Moved", type_ = "integer", json_path = ".status.moved"),
    printcolumn(name = "Left", type_ = "integer", json_path = ".status.left"),
    printcolumn(name = "Blocked", type_ = "integer", json_path = ".status.blocked"),
    printcolumn(name = "ETA-S", type_ = "integer", json_path = ".status.etaSeconds"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Complete')].message",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainSpec {
    /// The nodes, in the order in which they are emptied; 1 to 1000.
    #[schemars(length(min = 1, max = 1000))]
    pub nodes: Vec<String>,
    /// Seconds from the start after which the drain is given up; absent: never. Migrations under way are brought to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2592000))]
    pub deadline_seconds: Option<u32>,
    /// Nodes of the fleet that stay ready and schedulable at any time [default: 1]. A node is begun only where that many are left
    /// without it, so that a list of nodes is a rolling maintenance: the next one follows when an earlier one is uncordoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100000))]
    pub min_available: Option<u32>,
    /// Begin nothing more for now. Migrations under way are brought to their end.
    #[serde(default)]
    pub paused: bool,
    /// Give it up. Nodes that are not empty and that the drain cordoned are schedulable again; migrations under way are brought to
    /// their end.
    #[serde(default)]
    pub cancel: bool,
}

/// How far a drain is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainStatus {
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<DrainPhase>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<Time>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_timestamp: Option<Time>,
    /// When it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_timestamp: Option<Time>,
    /// Machines that it has or had to do with: the most that were moved and are left together. Where none of them is left, the others
    /// have ended, by it or otherwise.
    #[serde(default)]
    pub machines: u32,
    /// Machines that were moved for it.
    #[serde(default)]
    pub moved: u32,
    /// Machines whose migration waits or is under way.
    #[serde(default)]
    pub moving: u32,
    /// Machines that are still on the nodes, those that are moving included.
    #[serde(default)]
    pub left: u32,
    /// Of these, machines that cannot move as things are.
    #[serde(default)]
    pub blocked: u32,
    /// Migrations at a time that the limits of the fleet allow for it.
    #[serde(default)]
    pub concurrency: u32,
    /// Seconds that the rest is expected to take, as of the last change here; absent where no end is in sight. What people do to a
    /// node until they uncordon it is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Each node, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeDrainProgress>,
    /// Machines that cannot move as things are, the first 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_machines: Vec<BlockedMachine>,
    /// The moves that come next, the first 50, as of the last change here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upcoming: Vec<DrainStep>,
    /// What is so, with all reasons: `Complete`, and `Blocked`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl NodeDrainStatus {
    /// The phase, `Pending` where none was written yet.
    pub fn phase(&self) -> DrainPhase {
        self.phase.unwrap_or_default()
    }
}

/// Where a drain stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DrainPhase {
    /// Nothing was done yet.
    #[default]
    Pending,
    /// Machines leave.
    Draining,
    /// Nothing more is begun until it is resumed.
    Paused,
    /// All nodes were emptied.
    Succeeded,
    /// Its time was up before that, or it could not be begun: `Complete` says why.
    Failed,
    /// Somebody gave it up.
    Cancelled,
}

impl DrainPhase {
    /// Whether nothing happens any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// How far one node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainProgress {
    /// The node.
    pub name: String,
    /// Where it stands.
    #[serde(default)]
    pub phase: NodeDrainPhase,
    /// Whether this drain cordoned it, and so takes that back if it is given up.
    #[serde(default)]
    pub cordoned: bool,
    /// Machines that left it.
    #[serde(default)]
    pub moved: u32,
    /// Machines that are there.
    #[serde(default)]
    pub left: u32,
    /// Why it waits, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<Time>,
    /// When it was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_timestamp: Option<Time>,
}

/// Where one node stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeDrainPhase {
    /// It is not begun.
    #[default]
    Waiting,
    /// It is cordoned, and machines leave it.
    Draining,
    /// It was empty. From then on it is its administrator's, who uncordons it.
    Drained,
}

/// A machine that cannot move as things are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedMachine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node that it is on.
    pub node: String,
    /// Why, in one word.
    pub reason: BlockedReason,
    /// Why, in sentences, and what becomes of it.
    pub message: String,
}

/// Why a machine cannot move, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BlockedReason {
    /// No node takes it.
    #[default]
    NoNodeFits,
    /// It cannot be migrated, by the word of its agent.
    NotMigratable,
    /// The agent of its node is not heard of.
    NodeNotReady,
    /// Its last migration for this drain failed; another is made after a while.
    Failed,
    /// It does not run yet, or is being deleted.
    NotRunning,
    /// Somebody else sees to it, by its `evictionStrategy`.
    External,
}

/// One move of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainStep {
    /// The machine's namespace.
    pub namespace: String,
    /// The machine.
    pub name: String,
    /// Where it is.
    pub source_node: String,
    /// Where it would go.
    pub target_node: String,
    /// Bytes of its memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Seconds from the start of the plan at which it would begin.
    #[serde(default)]
    pub start_seconds: u64,
    /// Seconds that it would take.
    #[serde(default)]
    pub seconds: u64,
    /// Milliseconds that it stood still in its last migration; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_downtime_ms: Option<u64>,
    /// What the time is foretold from.
    #[serde(default)]
    pub basis: ForecastBasis,
    /// Whether its target is emptied later by a drain, so that it moves again: no other node takes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moves_again: bool,
    /// Whether its run is ended instead, by its `evictionStrategy`, and another begins there where its `runStrategy` says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

/// What a time is foretold from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForecastBasis {
    /// 250 MB/s, for want of anything better.
    #[default]
    Assumed,
    /// What migrations of other machines took for each byte.
    Fleet,
    /// What the machine's own last migration took.
    Machine,
}

/// What would become of a drain that was asked for now. It is answered, not stored: `kubectl create -f plan.yaml -o yaml`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "NodeDrainPlan",
    plural = "nodedrainplans",
    singular = "nodedrainplan",
    status = "NodeDrainPlanStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What would become of a drain that was asked for now; answered, not stored"
)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainPlanSpec {
    /// As in a drain.
    #[schemars(length(min = 1, max = 1000))]
    pub nodes: Vec<String>,
    /// As in a drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2592000))]
    pub deadline_seconds: Option<u32>,
    /// As in a drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100000))]
    pub min_available: Option<u32>,
}

/// The answer. It holds as long as nothing changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainPlanStatus {
    /// Machines that are on the nodes.
    #[serde(default)]
    pub machines: u32,
    /// Migrations at a time, at most.
    #[serde(default)]
    pub concurrency: u32,
    /// Seconds until the last machine that can move has moved, without what people do to a node until they uncordon it.
    #[serde(default)]
    pub eta_seconds: u64,
    /// Whether all nodes would be empty before the deadline; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_time: Option<bool>,
    /// Nodes in order, with how many are waited for.
    #[serde(default)]
    pub nodes: Vec<PlannedNode>,
    /// Moves in the order in which they would begin, the first 1000.
    #[serde(default)]
    pub steps: Vec<DrainStep>,
    /// Machines that cannot move as things are.
    #[serde(default)]
    pub blocked: u32,
    /// The first 50 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_machines: Vec<BlockedMachine>,
}

/// One node of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedNode {
    /// The node.
    pub name: String,
    /// Machines that are there.
    pub machines: u32,
    /// Whether it is begun only when an earlier node was uncordoned.
    #[serde(default)]
    pub waits: bool,
    /// Why it cannot be begun at all, in a sentence; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}
