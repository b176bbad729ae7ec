use serde::{Deserialize, Serialize};
use state::Schema;

/// What the guest knows of its disk. The image itself is shared or copied by other means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlkV1 {
    /// Size in sectors of 512 bytes.
    pub capacity_sectors: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// The guest must not write.
    pub read_only: bool,
    /// What the guest reads as the disk's serial number.
    pub serial: String,
}

impl Schema for BlkV1 {
    const KIND: &'static str = "virtio-blk";
    const VERSION: u32 = 1;
}
