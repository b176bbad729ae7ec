use serde::{Deserialize, Serialize};

/// One element of what `query-blockstats` returns: a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStats {
    /// The disk, as events name it.
    pub device: String,
    /// The same: an image has no other name here.
    #[serde(default)]
    pub node_name: String,
    /// What was counted.
    pub stats: BlockDeviceStats,
}

/// What a disk has done for its guest since its VMM began. As in QEMU nothing of it goes along with a migration.
///
/// Requests that were not done, because the machine was stopped for them, are counted when they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockDeviceStats {
    /// Bytes read.
    pub rd_bytes: u64,
    /// Bytes written, zeroes too.
    pub wr_bytes: u64,
    /// Bytes appended to zones; there are none.
    pub zone_append_bytes: u64,
    /// Bytes that the guest said it needs no more.
    pub unmap_bytes: u64,
    /// Reads.
    pub rd_operations: u64,
    /// Writes.
    pub wr_operations: u64,
    /// Appends to zones; there are none.
    pub zone_append_operations: u64,
    /// Flushes that the guest asked for.
    pub flush_operations: u64,
    /// Ranges that the guest said it needs no more.
    pub unmap_operations: u64,
    /// Nanoseconds that all reads together took.
    pub rd_total_time_ns: u64,
    /// The same of writes.
    pub wr_total_time_ns: u64,
    /// The same of appends to zones.
    pub zone_append_total_time_ns: u64,
    /// The same of flushes.
    pub flush_total_time_ns: u64,
    /// The same of ranges that the guest needs no more.
    pub unmap_total_time_ns: u64,
    /// Where the byte that was written farthest from the beginning ends.
    pub wr_highest_offset: u64,
    /// Requests that were put together with others. None is.
    pub rd_merged: u64,
    /// The same of writes.
    pub wr_merged: u64,
    /// The same of appends to zones.
    pub zone_append_merged: u64,
    /// The same of ranges that the guest needs no more.
    pub unmap_merged: u64,
    /// Reads of which the guest was told that they failed.
    pub failed_rd_operations: u64,
    /// The same of writes.
    pub failed_wr_operations: u64,
    /// The same of appends to zones.
    pub failed_zone_append_operations: u64,
    /// The same of flushes.
    pub failed_flush_operations: u64,
    /// The same of ranges that the guest needs no more.
    pub failed_unmap_operations: u64,
    /// Reads that no image could have done: beyond its end, say.
    pub invalid_rd_operations: u64,
    /// The same of writes; also those to a disk that is only read.
    pub invalid_wr_operations: u64,
    /// The same of appends to zones.
    pub invalid_zone_append_operations: u64,
    /// The same of flushes.
    pub invalid_flush_operations: u64,
    /// The same of ranges that the guest needs no more.
    pub invalid_unmap_operations: u64,
    /// Whether invalid requests are in the times and the idle time. They are not.
    pub account_invalid: bool,
    /// Whether failed ones are. They are not.
    pub account_failed: bool,
    /// Statistics over intervals. There are none.
    #[serde(skip_deserializing)]
    pub timed_stats: [(); 0],
}
