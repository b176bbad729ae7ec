use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

use super::{Disk, SECTOR};

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

impl BlkV1 {
    /// What a guest knows of a disk with this image that it uses for the first time.
    #[must_use]
    pub fn of(disk: &Disk, serial: &str) -> Self {
        Self {
            capacity_sectors: disk.bytes() / SECTOR,
            block_bytes: disk.block_bytes(),
            read_only: disk.is_read_only(),
            serial: serial.into(),
        }
    }
}

/// Whether a guest that uses blocks of `bytes` bytes can go on with a disk of `block_bytes`. A larger block is as good: all that
/// the guest does is then a multiple of the disk's.
#[must_use]
pub fn takes_blocks_of(block_bytes: u32, bytes: u32) -> bool {
    bytes.is_power_of_two() && (block_bytes..=1 << 16).contains(&bytes)
}

impl Schema for BlkV1 {
    const KIND: &'static str = "virtio-blk";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
