use std::{ops::RangeInclusive, time::Duration};

use address::Address;
use serde::{Deserialize, Serialize};

/// What `whimbrel-predict` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictionRequest {
    /// Bytes that the way to the destination takes in a second, if the client says so.
    pub bandwidth: Option<u64>,
    /// The destination, if the way there is to be measured; not with a bandwidth.
    pub to: Option<Address>,
    /// How long to look at the machine, in [`PredictionRequest::TIME_MS`].
    pub time: Duration,
    /// By what the client knows its own again, if it says so.
    pub id: Option<u64>,
}

impl PredictionRequest {
    /// Milliseconds that the machine may be looked at.
    pub const TIME_MS: RangeInclusive<u64> = 50..=60_000;
    /// Milliseconds that it is looked at unless the client says otherwise.
    pub const DEFAULT_TIME_MS: u64 = 1000;
}

/// How far a prediction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PredictionStatus {
    /// None was asked for.
    #[default]
    None,
    /// The machine is being looked at.
    Measuring,
    /// It is there.
    Predicted,
    /// It came to nothing: [`PredictionInfo::error_desc`] says why.
    Failed,
}

/// What `query-whimbrel-prediction` returns: what a migration would be like that began now, with the parameters and capabilities of
/// now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PredictionInfo {
    /// How far it is. The rest is there once it is [`PredictionStatus::Predicted`].
    pub status: PredictionStatus,
    /// By what the client knows its own again that asked for it, if it said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What is known of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<PredictedMachine>,
    /// Bytes per second of the way to the destination that it rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// How that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_from: Option<BandwidthFrom>,
    /// By each mode, in the order of the harm that they do.
    pub modes: Vec<PredictedMode>,
    /// The mode that would be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// Why, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it came to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
}

/// How it is known what the way to the destination takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BandwidthFrom {
    /// The client said so.
    Given,
    /// It was measured just now.
    Probe,
    /// The last migration from here found it.
    LastMigration,
    /// It is what a migration is limited to.
    MaxBandwidth,
}

/// What is known of a machine, from a sample of its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PredictedMachine {
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of it that are zero.
    pub empty: u64,
    /// Bytes that it writes again and again.
    pub working_set: u64,
    /// Bytes of pages that become dirty in a second while none of them is: more than the dirty rate of a round, in which a page counts
    /// once.
    pub dirty_rate: u64,
    /// What its pages take on the wire packed as the parameters say, of what they take as they are; 1 where nothing is packed.
    pub packed: f64,
}

/// What a migration by one mode would be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PredictedMode {
    /// `precopy`, `downtime`, `throttle`, `postcopy` or `immediate`.
    pub mode: String,
    /// Whether it ends. If not, the figures are those of the first round.
    pub ends: bool,
    /// From start to end, in milliseconds.
    pub total_time: u64,
    /// How long the machine stands still, in milliseconds.
    pub downtime: f64,
    /// Bytes on the wire.
    pub transferred: u64,
    /// CPU time of both hosts together, in seconds.
    pub cpu_seconds: f64,
    /// Work that the guest loses until the end, in per cent.
    pub loss: f64,
    /// Why it is not used as the parameters and capabilities are; absent if it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forbidden: Option<String>,
}

impl BandwidthFrom {
    /// In words, behind a figure.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Given => "as given",
            Self::Probe => "measured by a probe",
            Self::LastMigration => "as the last migration found",
            Self::MaxBandwidth => "max-bandwidth",
        }
    }
}

impl PredictionStatus {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Measuring => "measuring",
            Self::Predicted => "predicted",
            Self::Failed => "failed",
        }
    }
}
