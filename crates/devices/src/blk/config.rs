use super::SECTOR;

/// Bytes of the configuration space up to write_zeroes_may_unmap (spec, 5.2.4).
const BYTES: usize = 60;

/// Buffers of one request beside its header and status: the queue holds a whole request without an indirect table.
pub(super) const MAX_SEGMENTS: u32 = 126;

/// Sectors that one discard may name: 1 GiB, so that a request takes the thread for a moment only.
pub(super) const MAX_DISCARD_SECTORS: u32 = ((1 << 30) / SECTOR) as u32;

/// Sectors that one write of zeroes may name: 32 MiB, as they are written one by one where the image has no holes.
pub(super) const MAX_ZEROES_SECTORS: u32 = ((32 << 20) / SECTOR) as u32;

/// The configuration space of a disk.
pub(super) fn space(capacity_sectors: u64, block_bytes: u32) -> [u8; BYTES] {
    let mut space = [0; BYTES];
    space[0..8].copy_from_slice(&capacity_sectors.to_le_bytes());
    for (offset, value) in [
        (12, MAX_SEGMENTS),
        (20, block_bytes),
        (36, MAX_DISCARD_SECTORS),
        // One range per request.
        (40, 1),
        (44, block_bytes / SECTOR as u32),
        (48, MAX_ZEROES_SECTORS),
        (52, 1),
    ] {
        space[offset..offset + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    // A write of zeroes may free the range.
    space[56] = 1;
    space
}
