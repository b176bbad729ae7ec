use std::time::SystemTime;

use crate::virtio::Buffers;

/// Names of the statistics in the order of their tags (spec, 5.5.6.4), as QEMU's guest-stats property has them.
pub const STAT_NAMES: [&str; 16] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
];

/// Bytes of one statistic: le16 tag, le64 value, packed.
const ENTRY_BYTES: usize = 10;

/// Statistics read at most: a guest may repeat tags.
const MAX_ENTRIES: usize = 64;

/// What the guest said of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// When it answered a request last; `None` if it never did since the machine runs here.
    pub last_update: Option<SystemTime>,
    values: [Option<u64>; STAT_NAMES.len()],
}

impl Stats {
    /// Names and values of what the guest knows; sizes are in bytes, the others count events.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        STAT_NAMES.into_iter().zip(self.values).filter_map(|(name, value)| Some((name, value?)))
    }

    /// Takes over what the guest wrote; unknown tags are left out.
    pub(super) fn read(&mut self, mut buffer: Buffers<'_>) {
        self.values = Default::default();
        for _ in 0..MAX_ENTRIES {
            let mut entry = [0; ENTRY_BYTES];
            if buffer.take_front(ENTRY_BYTES).read(&mut entry) < ENTRY_BYTES {
                return;
            }
            let tag = usize::from(u16::from_le_bytes([entry[0], entry[1]]));
            let mut value = [0; 8];
            value.copy_from_slice(&entry[2..]);
            let value = u64::from_le_bytes(value);
            // All ones stands for a value that the guest does not have.
            if let Some(place) = self.values.get_mut(tag) {
                *place = (value != u64::MAX).then_some(value);
            }
        }
    }
}
