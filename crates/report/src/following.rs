use serde::{Deserialize, Serialize};

/// How pages followed a machine that ran at the destination already (postcopy).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Following {
    /// Pages of 4 KiB that had not come when this was written.
    pub missing_pages: u64,
    /// Bytes that were sent after the machine had left; only the source counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Pages that the destination asked for; only the source counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// How the machine waited; only the destination sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
}

/// How a machine waited for pages that it touched before they had come. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Waits {
    /// Accesses that waited, and went on.
    pub count: u64,
    /// The mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<f64>,
    /// Half of them took no longer; rounded up by a quarter at most, as the next two are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 99 of 100 took no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// 999 of 1000 took no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p999_ms: Option<f64>,
    /// The longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_ms: Option<f64>,
    /// Of all of them together, until what had the page began to arrive: the request went to the source, was served there, and waited for
    /// what was on the wire before it.
    #[serde(default)]
    pub under_way_ms: f64,
    /// Then until it was received.
    #[serde(default)]
    pub receiving_ms: f64,
    /// Then until its pages were before the machine.
    #[serde(default)]
    pub placing_ms: f64,
    /// Accesses to a page that was on its way already when it was asked for.
    #[serde(default)]
    pub pushed: u64,
    /// How many took less than 2 µs, from then on less than 4 µs, and so on.
    #[serde(default)]
    pub histogram: Vec<u64>,
    /// How long the thread of each vCPU stood still.
    #[serde(default)]
    pub vcpu_block_ms: Vec<f64>,
    /// How long those of all vCPUs stood still at once.
    #[serde(default)]
    pub block_ms: f64,
    /// Width of the steps.
    #[serde(default)]
    pub step_ms: f64,
    /// What happened, step by step, from when the machine was loaded.
    #[serde(default)]
    pub steps: Vec<WaitStep>,
}

/// What a step saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct WaitStep {
    /// Pages that were missing at its end.
    pub missing_pages: u64,
    /// Accesses to such pages.
    pub faults: u64,
}
