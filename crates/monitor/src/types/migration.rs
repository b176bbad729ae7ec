use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CompressionStats, SocketAddress, WhimbrelInfo, XbzrleCacheStats};

/// What `query-migrate` returns. All members are absent (`{}`) when no migration was ever asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    /// Where the migration stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<MigrationStatus>,
    /// Figures about RAM; from `active` on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<MigrationRamStats>,
    /// What differences have done; with the capability `xbzrle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xbzrle_cache: Option<XbzrleCacheStats>,
    /// What packing has done; where pages are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionStats>,
    /// Milliseconds from the command to now, or to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_time: Option<u64>,
    /// Milliseconds that the guest would stand still if it were switched over now; while the migration runs. It is the
    /// downtime limit during the first round, when nothing is measured yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_downtime: Option<u64>,
    /// Milliseconds that the guest stood still; when the migration is completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<u64>,
    /// Milliseconds from the command to the first page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup_time: Option<u64>,
    /// Per cent of vCPU time that is taken from the guest, so that the migration comes to its end; while some is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttle_percentage: Option<u64>,
    /// Milliseconds that all vCPUs waited for pages at once; at the destination of a postcopy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_blocktime: Option<u64>,
    /// Milliseconds that each vCPU waited for pages; at the destination of a postcopy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_vcpu_blocktime: Option<Vec<u64>>,
    /// What went wrong, as a sentence; when the migration failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    /// Why this machine cannot be migrated at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_reasons: Option<Vec<String>>,
    /// Where the destination listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_address: Option<Vec<SocketAddress>>,
    /// What Whimbrel says beyond QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whimbrel: Option<WhimbrelInfo>,
}

/// Where a migration stands: QEMU's `MigrationStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationStatus {
    /// None was asked for.
    None,
    /// Connecting and agreeing; no page has moved.
    Setup,
    /// Being cancelled.
    Cancelling,
    /// Cancelled; the source runs on.
    Cancelled,
    /// Rounds of precopy.
    Active,
    /// The machine runs on the destination, pages follow.
    PostcopyActive,
    /// Postcopy lost its connection.
    PostcopyPaused,
    /// Postcopy prepares to go on over a new connection.
    PostcopyRecoverSetup,
    /// Postcopy goes on over a new connection.
    PostcopyRecover,
    /// The machine runs on the destination.
    Completed,
    /// Failed; the source runs on.
    Failed,
    /// COLO (QEMU only).
    Colo,
    /// Stopped before the switchover, until `migrate-continue`.
    PreSwitchover,
    /// The machine is stopped; last pages and device states move.
    Device,
    /// Waiting for devices to be unplugged (QEMU only).
    WaitUnplug,
}

impl MigrationStatus {
    /// Whether nothing happens any more until the next command.
    pub fn is_final(self) -> bool {
        matches!(self, Self::None | Self::Cancelled | Self::Completed | Self::Failed)
    }

    /// Whether the machine runs at the destination and lacks pages.
    pub fn is_postcopy(self) -> bool {
        matches!(
            self,
            Self::PostcopyActive | Self::PostcopyPaused | Self::PostcopyRecoverSetup | Self::PostcopyRecover
        )
    }
}

impl fmt::Display for MigrationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Figures about RAM in [`MigrationInfo`]. Bytes unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MigrationRamStats {
    /// Sent so far, headers included.
    pub transferred: u64,
    /// Guest memory still to be sent.
    pub remaining: u64,
    /// Guest memory in all.
    pub total: u64,
    /// Pages that were all zero.
    pub duplicate: u64,
    /// Pages sent whole.
    pub normal: u64,
    /// Bytes of the pages sent whole.
    pub normal_bytes: u64,
    /// Pages that the guest dirties each second.
    pub dirty_pages_rate: u64,
    /// Throughput in Mbit/s (10^6 bits).
    pub mbps: f64,
    /// How often the set of dirty pages was made: once for each round, and once more when the machine is stopped.
    pub dirty_sync_count: u64,
    /// Pages that the destination asked for (postcopy).
    pub postcopy_requests: u64,
    /// Bytes in a page.
    pub page_size: u64,
    /// Sent over the channels that carry pages in parallel.
    pub multifd_bytes: u64,
    /// Pages handled each second, zero pages included.
    pub pages_per_second: u64,
    /// Sent while the guest ran on the source.
    pub precopy_bytes: u64,
    /// Sent while the guest stood still.
    pub downtime_bytes: u64,
    /// Sent while the guest ran on the destination.
    pub postcopy_bytes: u64,
    /// Batches of which something was copied although zero-copy was asked for.
    pub dirty_sync_missed_zero_copy: u64,
}
