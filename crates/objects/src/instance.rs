use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Affinity, CloudInitNoCloud, Condition, Interface, MigrationState, Network, Quantity};

/// The image name of the workload guest that is built in: what starts without a download.
pub const WORKLOAD_IMAGE: &str = "whimbrel.dev/workload";

/// One run of a machine.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "whimbrel.dev",
    version = "v1",
    kind = "VirtualMachineInstance",
    plural = "virtualmachineinstances",
    singular = "virtualmachineinstance",
    shortname = "vmi",
    shortname = "vmis",
    category = "all",
    namespaced,
    status = "VirtualMachineInstanceStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One run of a machine",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "NodeName", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Live-Migratable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='LiveMigratable')].status",
        priority = "1"
    ),
    printcolumn(name = "VMM", type_ = "string", json_path = ".status.vmm", priority = "1")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceSpec {
    /// The machine as its guest sees it.
    pub domain: DomainSpec,
    /// What is behind the disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub volumes: Vec<Volume>,
    /// What is behind the network cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub networks: Vec<Network>,
    /// Whether the guest stands still. May be changed while it runs; whatever stopped it, it goes on when this is false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Labels that a node must have to run it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Nodes that may run it, and nodes that should, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// What a drain of its node does with it; absent: `LiveMigrate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_strategy: Option<EvictionStrategy>,
}

/// What a drain of its node does with a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvictionStrategy {
    /// It is migrated; one that cannot be stays, and holds up the drain.
    #[default]
    LiveMigrate,
    /// It is migrated; one whose agent says that it cannot be (condition `LiveMigratable`) is ended, as with `None`. Where there is no room it waits.
    LiveMigrateIfPossible,
    /// Its run is ended, as soon as another node takes the next one, which its machine begins where its `runStrategy` says so.
    None,
    /// Nothing: somebody else sees to it, and the drain waits.
    External,
}

/// The machine as its guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// Its processors.
    #[serde(default)]
    pub cpu: Cpu,
    /// Its memory.
    pub memory: Memory,
    /// What it boots.
    pub firmware: Firmware,
    /// Its devices.
    #[serde(default)]
    pub devices: Devices,
}

/// Processors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// How many, 1 to 64.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub cores: u32,
    /// What the guest sees of it: a model by its name (`whimbrel-vmm --cpu help` lists them), the same on every node; or all that the
    /// node shows on which the machine starts, `host-model` or `host-passthrough`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub model: Option<String>,
    /// Single features more or less than that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub features: Vec<CpuFeature>,
}

/// A feature of a processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CpuFeature {
    /// Its name, such as `avx2`.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// What becomes of it.
    #[serde(default)]
    pub policy: CpuFeaturePolicy,
}

/// What becomes of a feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CpuFeaturePolicy {
    /// The guest has it, so that only nodes will do that have it.
    #[default]
    Require,
    /// The guest does not see it.
    Disable,
    /// Only nodes will do that do not have it.
    Forbid,
}

fn one() -> u32 {
    1
}

impl Default for Cpu {
    fn default() -> Self {
        Self { cores: one(), model: None, features: Vec::new() }
    }
}

impl Cpu {
    /// The model that is the same on every node, if it is to be one.
    pub fn named_model(&self) -> Option<&str> {
        self.model.as_deref().filter(|model| !HOST_MODELS.contains(model))
    }

    /// Names of the features with that policy, as labels of nodes have them.
    pub fn features_to(&self, policy: CpuFeaturePolicy) -> impl Iterator<Item = Cow<'_, str>> {
        self.features.iter().filter(move |feature| feature.policy == policy).map(CpuFeature::known_as)
    }
}

impl CpuFeature {
    /// Its first name, where it has several: `abm` for `lzcnt`, `sse4.1` for `sse4_1`. What is not known here keeps its own.
    #[must_use]
    pub fn known_as(&self) -> Cow<'_, str> {
        cpu::by_name(&self.name)
            .map_or_else(|| self.name.replace('_', "-").into(), |feature| feature.name.into())
    }
}

/// Models that are whatever a node has.
const HOST_MODELS: [&str; 2] = ["host-model", "host-passthrough"];

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// How much the guest has: 2Mi to 8Ti, in multiples of 2Mi.
    pub guest: Quantity,
    /// Have it in huge pages of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<Hugepages>,
}

/// Huge pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hugepages {
    /// Their size: 2Mi.
    pub page_size: Quantity,
}

/// What the machine boots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// A kernel that is loaded from outside; there is no other way yet.
    pub kernel_boot: KernelBoot,
}

/// A kernel that is loaded from outside. Either `container` or `host` says which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelBoot {
    /// Its command line: one line of at most 2047 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2047))]
    pub kernel_args: Option<String>,
    /// From an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<KernelBootContainer>,
    /// From files that every node has at the same path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostKernel>,
}

/// A kernel from an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelBootContainer {
    /// The image. `whimbrel.dev/workload`, the workload guest that is built in, is the only one yet.
    pub image: String,
}

/// A kernel from files of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostKernel {
    /// The kernel's absolute path.
    pub kernel_path: String,
    /// The absolute path of its initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<String>,
}

/// Devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// Disks, each named as the volume behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub disks: Vec<Disk>,
    /// Network cards, each named as the network behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub interfaces: Vec<Interface>,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The name of the volume behind it.
    pub name: String,
    /// As what it is attached.
    #[serde(default)]
    pub disk: DiskTarget,
    /// What the guest sees as its serial number: 1 to 20 letters, digits, '-', '_' or '.'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub serial: Option<String>,
    /// Whether the page cache of the host is used. Absent: `none` where the volume is shared, and `writeback` where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DiskCache>,
}

/// Whether the page cache of the host is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskCache {
    /// It is not: what one node has written another one reads, whatever it has read before. The storage must support it (O_DIRECT).
    None,
    /// It is, and written back when the guest flushes.
    Writeback,
}

/// As what a disk is attached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskTarget {
    /// The bus: virtio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Whether the guest may not write it.
    #[serde(default)]
    pub readonly: bool,
}

/// What is behind a disk: one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// What the disk calls it.
    pub name: String,
    /// A raw image or a block device of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_disk: Option<HostDisk>,
    /// First settings of the guest, for cloud-init: a small disk that the agent makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init_no_cloud: Option<CloudInitNoCloud>,
}

/// A raw image or a block device of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDisk {
    /// Its absolute path.
    pub path: String,
    /// Whether it is the same storage at that path on every node. Without it the machine cannot be migrated.
    #[serde(default)]
    pub shared: bool,
}

/// What is seen of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceStatus {
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<InstancePhase>,
    /// When it came to each phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phase_transition_timestamps: Vec<PhaseTime>,
    /// The node that it is placed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The VMM that runs it: the name of its folder on that node. Changes with every migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<String>,
    /// Why it ended, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is so, with all reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Its latest migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_state: Option<MigrationState>,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InstancePhase {
    /// Made, nothing done yet, or no node fits.
    #[default]
    Pending,
    /// A node is chosen, whose agent starts a VMM.
    Scheduled,
    /// Its VMM runs it.
    Running,
    /// Its guest has shut down.
    Succeeded,
    /// Its VMM has ended in another way.
    Failed,
}

impl InstancePhase {
    /// Whether it will never run again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// When a phase began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTime {
    /// The phase.
    pub phase: InstancePhase,
    /// When it began.
    pub phase_transition_timestamp: Time,
}

impl VirtualMachineInstanceStatus {
    /// The phase, `Pending` where none was written yet.
    pub fn phase(&self) -> InstancePhase {
        self.phase.unwrap_or_default()
    }

    /// Enters a phase, unless it is there already.
    pub fn enter(&mut self, phase: InstancePhase, now: &Time) {
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            self.phase_transition_timestamps
                .push(PhaseTime { phase, phase_transition_timestamp: now.clone() });
        }
    }
}
