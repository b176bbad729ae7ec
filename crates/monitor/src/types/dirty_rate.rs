use std::{ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

/// What `calc-dirty-rate` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyRateRequest {
    /// How long to measure, in [`DirtyRateRequest::CALC_TIME_MS`].
    pub calc_time: Duration,
    /// Pages to look at in each GiB, in [`DirtyRateRequest::SAMPLE_PAGES`].
    pub sample_pages: u64,
    /// By which means.
    pub mode: DirtyRateMode,
}

impl DirtyRateRequest {
    /// Milliseconds that a measurement may take: QEMU's range.
    pub const CALC_TIME_MS: RangeInclusive<u64> = 50..=60_000;
    /// Pages of each GiB that may be looked at: QEMU's range.
    pub const SAMPLE_PAGES: RangeInclusive<u64> = 128..=4096;
    /// Pages of each GiB that are looked at unless the client says otherwise: QEMU's default.
    pub const DEFAULT_SAMPLE_PAGES: u64 = 512;
}

/// How the dirty rate is measured: QEMU's `DirtyRateMeasureMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirtyRateMode {
    /// Some pages are looked at twice.
    #[default]
    PageSampling,
    /// KVM's dirty rings, which also tell what each vCPU writes.
    DirtyRing,
    /// KVM's dirty log.
    DirtyBitmap,
}

/// How far a measurement is: QEMU's `DirtyRateStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirtyRateStatus {
    /// There was none, or it was given up.
    #[default]
    Unstarted,
    /// It is under way.
    Measuring,
    /// It is over.
    Measured,
}

/// A unit of time: QEMU's `TimeUnit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeUnit {
    /// Seconds.
    #[default]
    Second,
    /// Milliseconds.
    Millisecond,
}

/// How fast one vCPU writes memory: QEMU's `DirtyRateVcpu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DirtyRateVcpu {
    /// Number of the vCPU, from 0.
    pub id: u64,
    /// MiB of memory that it writes each second.
    pub dirty_rate: u64,
}

/// A limit to how fast a vCPU may write memory: QEMU's `DirtyLimitInfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DirtyLimitInfo {
    /// Number of the vCPU, from 0.
    pub cpu_index: u64,
    /// MiB that it may write each second.
    pub limit_rate: u64,
    /// MiB that it wrote in the last second.
    pub current_rate: u64,
}

/// What `query-dirty-rate` returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DirtyRateInfo {
    /// MiB of memory that the guest writes each second, a page counting once in a measurement; when it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_rate: Option<u64>,
    /// How far the measurement is.
    pub status: DirtyRateStatus,
    /// When it began, in seconds of the host's monotonic clock.
    pub start_time: u64,
    /// How long it was asked to take, in [`Self::calc_time_unit`].
    pub calc_time: u64,
    /// The unit of that.
    pub calc_time_unit: TimeUnit,
    /// Pages that are looked at in each GiB.
    pub sample_pages: u64,
    /// By which means.
    pub mode: DirtyRateMode,
    /// What each vCPU writes, in their order; where it was measured by rings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_dirty_rate: Option<Vec<DirtyRateVcpu>>,
}

impl DirtyRateMode {
    /// As it is written.
    pub const ALL: [(&str, Self); 3] = [
        ("page-sampling", Self::PageSampling),
        ("dirty-ring", Self::DirtyRing),
        ("dirty-bitmap", Self::DirtyBitmap),
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

impl DirtyRateStatus {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unstarted => "unstarted",
            Self::Measuring => "measuring",
            Self::Measured => "measured",
        }
    }
}

impl DirtyRateInfo {
    /// The same with the time in `unit`, of which a part counts as none.
    #[must_use]
    pub fn timed_in(mut self, unit: TimeUnit) -> Self {
        match (self.calc_time_unit, unit) {
            (TimeUnit::Millisecond, TimeUnit::Second) => self.calc_time /= 1000,
            (TimeUnit::Second, TimeUnit::Millisecond) => self.calc_time = self.calc_time.saturating_mul(1000),
            _ => {}
        }
        self.calc_time_unit = unit;
        self
    }
}
