//! The parts of a report. Times are in milliseconds, sizes in bytes, rates in bytes per second.

use serde::{Deserialize, Serialize};

/// Who took part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Party {
    /// Name of the host; each side knows its own only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Id of the process; each side knows its own only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
    /// Release of Whimbrel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Address by which the other side knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its UUID, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Parameters {
    /// Page channels.
    pub channels: u32,
    /// Bytes per second that all channels together may send; 0 for no limit.
    pub max_bandwidth: u64,
    /// Longest downtime at which the switchover may be decided, in milliseconds.
    pub downtime_limit_ms: u64,
    /// Bytes per second to reckon with in the last pass; 0 for what was measured.
    pub switchover_bandwidth: u64,
    /// Whether it was to wait for the user before the last pass.
    pub pause_before_switchover: bool,
    /// What was to be compared: `off`, `transfer` or `full`.
    pub digest: String,
}

/// Sums over a migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// Bytes of pages on the wire; at the source with their headers.
    pub bytes: u64,
    /// Pages sent with their contents.
    pub raw_pages: u64,
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Times the dirty log was read.
    #[serde(default)]
    pub dirty_syncs: u32,
    /// Milliseconds from the start to the first page.
    #[serde(default)]
    pub setup_ms: f64,
}

/// What became of pages so that they took less on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", default)]
pub struct Encoded {
    /// How batches were packed, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<String>,
    /// Pages in batches that were packed; the others did not become shorter.
    pub packed_pages: u64,
    /// Bytes of those batches before.
    pub plain_bytes: u64,
    /// Bytes of them packed.
    pub packed_bytes: u64,
    /// Most bytes of pages that were kept for differences; absent if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<u64>,
    /// Pages that were sent as their difference from what was sent before.
    pub delta_pages: u64,
    /// Bytes of those differences, before packing.
    pub delta_bytes: u64,
    /// Pages that were sent whole as nothing was kept of them.
    pub missing_pages: u64,
    /// Pages that were sent whole as too much of them had changed.
    pub overflow_pages: u64,
}

/// One pass over memory, or over what was dirtied in the pass before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Round {
    /// Number, from 1.
    pub round: u32,
    /// Whether it is the last pass, for which the machine is stopped.
    pub last: bool,
    /// Milliseconds from the beginning of the migration to the first byte of the round.
    pub began_ms: f64,
    /// Milliseconds from its first byte to its last.
    pub duration_ms: f64,
    /// Bytes on the wire, headers included.
    pub bytes: u64,
    /// Pages sent with their contents.
    pub raw_pages: u64,
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Bytes found dirty when it was over: what is left to send.
    pub remaining_bytes: u64,
    /// Bytes per second that the machine dirtied, counting a page once a round.
    pub dirty_rate: f64,
    /// Bytes per second on the wire.
    pub wire_rate: f64,
    /// Downtime that was foretold after the round, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_downtime_ms: Option<f64>,
    /// What the guest felt in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalls: Option<RoundStalls>,
}

/// Something that was decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Decision {
    /// Milliseconds since the beginning.
    pub at_ms: f64,
    /// What and why, in plain words.
    pub text: String,
}

/// How long the machine stood still.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Downtime {
    /// Milliseconds in all; absent if it never came to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<f64>,
    /// What was foretold when the switchover was decided, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_ms: Option<f64>,
    /// Where it went, in order.
    pub phases: Vec<Phase>,
}

/// A part of the downtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Phase {
    /// Name.
    pub name: String,
    /// Milliseconds.
    pub ms: f64,
    /// Whether it goes on beside the phase before it, so that it does not add to the whole.
    #[serde(default)]
    pub beside: bool,
}

/// What the guest felt while pages were copied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Stalls {
    /// What the figures are and where they come from, in a sentence.
    pub measure: String,
    /// Sums over all rounds in which the machine ran.
    pub total: RoundStalls,
}

/// What the guest felt in one round, over all vCPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct RoundStalls {
    /// Page faults that the hypervisor resolved: with dirty logging on, nearly all are first writes to a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    /// Milliseconds that vCPU threads spent in the kernel instead of in the guest; faults are resolved there.
    pub kernel_ms: f64,
    /// Milliseconds that vCPU threads were ready to run and no CPU was free for them.
    pub waiting_for_cpu_ms: f64,
}

/// What was compared between the sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Integrity {
    /// What was compared: `off`, `transfer` (each page as sent and as placed) or `full` (also all memory of the stopped
    /// machine).
    pub level: String,
    /// Whether all that was compared was equal; absent if it did not come to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equal: Option<bool>,
    /// What differed: blocks and addresses, or devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// How the connections were protected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Security {
    /// Whether they were encrypted, and both sides had shown who they were.
    pub encrypted: bool,
    /// Who could read and change what was sent, as a sentence; where they were not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Protocol and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Cipher suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// The certificate that this side showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Certificate>,
    /// The certificate that the other side showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Certificate>,
    /// Whether an earlier session was resumed, without certificates.
    #[serde(default)]
    pub resumed: bool,
    /// How often this side renewed the keys that it sent with, over all connections.
    #[serde(default)]
    pub rekeys: u64,
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Certificate {
    /// The subject.
    pub subject: String,
    /// Its other names, each with its kind, as `dns:host-a.example.org`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// When it ends, RFC 3339.
    pub not_after: String,
}

/// What came over the wire.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Arrived {
    /// Messages on the control connection.
    pub messages: u64,
    /// Name of the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<String>,
    /// Device states.
    pub device_states: u32,
    /// What ended the control connection, if it broke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Each page channel that was opened.
    pub channels: Vec<ArrivedChannel>,
}

/// What came over one page channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct ArrivedChannel {
    /// Number, from 0.
    pub index: u32,
    /// Frames that came whole, the hello included.
    pub frames: u64,
    /// Bytes of the stream that were understood: an error was found behind them.
    pub bytes: u64,
    /// Pages with contents.
    pub raw_pages: u64,
    /// Pages as zero.
    pub zero_pages: u64,
    /// Rounds that came to their end.
    pub rounds: u32,
    /// Kind of the last frame that came whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_frame: Option<String>,
    /// What was wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
