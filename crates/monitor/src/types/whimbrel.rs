use serde::{Deserialize, Serialize};

use super::{DeadlineInfo, DecisionInfo, ThrottleInfo};

/// What `query-migrate` says beyond QEMU: the object `whimbrel` of [`MigrationInfo`](super::MigrationInfo).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct WhimbrelInfo {
    /// The id that both sides log for this migration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Properties of the stream, which QEMU shows only in the text of `info migrate`.
    pub globals: MigrationGlobals,
    /// Connections that carry pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// Every round, oldest first; the last one may still be under way. Only the source counts them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<RoundInfo>,
    /// Downtime limit in force, in milliseconds; only the source knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_limit_ms: Option<u64>,
    /// What has arrived so far; only the destination counts that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrived: Option<ArrivedInfo>,
    /// How a machine waited for pages that followed it; only the destination measures that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<FaultsInfo>,
    /// Milliseconds of downtime if the switchover began now: pages left at the measured wire speed, and fixed costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_downtime_ms: Option<f64>,
    /// How much of the migration is done, 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage: Option<f64>,
    /// Milliseconds until the migration is expected to complete; absent when it is not expected to by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// Why the percentage or the expected time ran backwards, or why there is no expected time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_note: Option<String>,
    /// What the downtime was spent on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_phases: Option<DowntimePhases>,
    /// CPU time that this process spent on the migration, user and system, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// What is taken of vCPU time; once some was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<ThrottleInfo>,
    /// By when it is to be over, and how; where there is a deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DeadlineInfo>,
    /// What was decided beside the ends of rounds, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<DecisionInfo>,
    /// How the connections are protected; once there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<SecurityInfo>,
    /// Why the migration stands where it stands, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the operator can do about it, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How the connections of a migration are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SecurityInfo {
    /// Whether they are encrypted and both sides have shown who they are.
    pub encrypted: bool,
    /// Who can read and change what is sent, as a sentence; where they are not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Protocol and version, as `TLS 1.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Cipher suite, as `TLS_AES_128_GCM_SHA256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// The certificate that this side showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<CertificateInfo>,
    /// The certificate that the other side showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<CertificateInfo>,
    /// Whether an earlier session was resumed, without certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<bool>,
    /// How often this side has renewed the keys that it sends with, over all connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rekeys: Option<u64>,
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CertificateInfo {
    /// The subject, as `CN=host-a`.
    pub subject: String,
    /// Its other names, as `dns:host-a.example.org`.
    pub names: Vec<String>,
    /// When it ends, RFC 3339.
    pub not_after: String,
}

/// What has arrived of a machine in the attempt under way, or in the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ArrivedInfo {
    /// Bytes of pages, without headers.
    pub bytes: u64,
    /// Pages with their contents.
    pub pages: u64,
    /// Pages as zero.
    pub zero_pages: u64,
    /// Bytes of memory that the machine has.
    pub memory_bytes: u64,
}

/// How a machine that runs here already waited for pages that were still at the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct FaultsInfo {
    /// Pages that are missing now.
    pub missing_pages: u64,
    /// Waits that are over.
    pub count: u64,
    /// Microseconds that a wait took, from when it was heard of until the page was there: the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_us: Option<f64>,
    /// Half of all took no longer, in microseconds; rounded up by a quarter at most, as the next two are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    /// 99 of 100 took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    /// 999 of 1000 took no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_us: Option<f64>,
    /// The longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst_us: Option<f64>,
    /// Milliseconds of all waits together.
    pub total_ms: f64,
    /// Milliseconds of them until what had the page began to arrive: the request went to the source, was served there, and waited for what was on
    /// the wire before it.
    #[serde(default)]
    pub under_way_ms: f64,
    /// Milliseconds of them until it was received.
    #[serde(default)]
    pub receiving_ms: f64,
    /// Milliseconds of them until its pages were before the machine.
    #[serde(default)]
    pub placing_ms: f64,
    /// Waits for a page that was on its way already when it was asked for.
    #[serde(default)]
    pub pushed: u64,
    /// How many took less than 2 µs, from then on less than 4 µs, and so on.
    pub histogram: Vec<u64>,
    /// Milliseconds that the thread of each vCPU stood still.
    pub vcpu_block_ms: Vec<f64>,
    /// Milliseconds that those of all vCPUs stood still at once.
    pub block_ms: f64,
}

/// One pass over the dirty set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RoundInfo {
    /// Number of the round, from 1.
    pub round: u32,
    /// Bytes put on the wire.
    pub bytes: u64,
    /// Pages handled, zero pages included.
    pub pages: u64,
    /// Of them, pages that were all zero.
    pub zero_pages: u64,
    /// Pages that the guest dirtied meanwhile: the work of the next round.
    pub dirty_pages: u64,
    /// Bytes of memory that the guest dirtied each second.
    pub dirty_rate: u64,
    /// Bytes put on the wire each second that the wire was busy.
    pub wire_rate: u64,
    /// Milliseconds that the round took.
    pub duration_ms: u64,
    /// Page faults of the guest that the hypervisor resolved meanwhile: nearly all are first writes to a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    /// Milliseconds that vCPUs spent in the kernel meanwhile, all together; faults are resolved there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_kernel_ms: Option<f64>,
    /// Milliseconds that vCPUs could have run meanwhile and no CPU was free, all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_waiting_ms: Option<f64>,
    /// Milliseconds of downtime that were foretold after the round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_downtime_ms: Option<f64>,
    /// What was decided after the round and why, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
}

/// What the downtime was spent on, each in milliseconds, in the order in which it happens. A side that has not measured a
/// phase leaves it out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DowntimePhases {
    /// Stopping vCPUs and quiescing devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_ms: Option<f64>,
    /// Waiting for `migrate-continue`, with the capability `pause-before-switchover`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_ms: Option<f64>,
    /// Fetching the last dirty pages and sending them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_pages_ms: Option<f64>,
    /// Saving device and vCPU states and sending them; goes on beside the last pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_ms: Option<f64>,
    /// Loading and checking the states on the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<f64>,
    /// Agreeing who runs the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hand_over_ms: Option<f64>,
    /// Starting vCPUs on the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<f64>,
}

impl DowntimePhases {
    /// The phases that were measured, in order, each with its name and its milliseconds.
    pub fn measured(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [
            ("stop", self.stop_ms),
            ("waiting", self.waiting_ms),
            ("last pages", self.last_pages_ms),
            ("save", self.save_ms),
            ("load", self.load_ms),
            ("hand-over", self.hand_over_ms),
            ("start", self.start_ms),
        ]
        .into_iter()
        .filter_map(|(name, ms)| Some((name, ms?)))
    }
}

/// Properties of the stream that QEMU prints under "globals" in `info migrate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MigrationGlobals {
    /// Whether the stream says if the machine ran or was paused.
    pub store_global_state: bool,
    /// Whether devices that cannot be migrated are refused when the machine is made.
    pub only_migratable: bool,
    /// Whether the machine's description is sent and compared before anything else.
    pub send_configuration: bool,
    /// Whether the end of every section is marked and checked.
    pub send_section_footer: bool,
    /// Dirty bits are cleared in the kernel in chunks of 2 to the power of this many pages at most.
    pub clear_bitmap_shift: u32,
}

impl Default for MigrationGlobals {
    /// What holds for every Whimbrel stream: the run state travels, there is no device that cannot be migrated, the
    /// machine is compared in the handshake, and every state is framed. The largest chunk is 2^13 pages (32 MiB); what a round
    /// has to send makes it smaller.
    fn default() -> Self {
        Self {
            store_global_state: true,
            only_migratable: true,
            send_configuration: true,
            send_section_footer: true,
            clear_bitmap_shift: 13,
        }
    }
}
