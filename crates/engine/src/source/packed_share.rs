//! What packing makes of memory, found out before a migration.

use encodings::Packer;
use migration::{Encodings, PAGE_BYTES};

/// Pages that are packed together, as in a batch.
const BATCH: usize = 64 * PAGE_BYTES as usize;

/// What pages take packed as was chosen, of what they take as they are: more than 0, and 1 where nothing is packed. `pages` are some of the
/// machine's, one after the other.
#[must_use]
pub fn packed_share(encodings: &Encodings, pages: &[u8]) -> f64 {
    let Some(packing) = encodings.packing.filter(|_| !pages.is_empty()) else { return 1.0 };
    let mut packer = Packer::default();
    let mut size =
        |plain: &[u8]| packer.pack(packing, encodings.zstd_level, plain).map_or(plain.len(), <[u8]>::len);
    let packed: usize = pages.chunks(BATCH).map(&mut size).sum();
    packed.max(1) as f64 / pages.len() as f64
}

#[cfg(test)]
mod tests {
    use wire::Packing;

    use super::*;

    #[test]
    fn what_repeats_takes_little_and_what_does_not_takes_all() {
        let text: Vec<u8> =
            b"a line of a log, and another one\n".iter().copied().cycle().take(3 * BATCH / 2).collect();
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(BATCH)
        .collect();
        for packing in [Packing::Lz4, Packing::Zstd] {
            let encodings = Encodings { packing: Some(packing), zstd_level: 1, ..Encodings::default() };
            assert!(packed_share(&encodings, &text) < 0.05, "{packing:?}");
            assert!((packed_share(&encodings, &noise) - 1.0).abs() < 1e-9, "{packing:?}");
            assert!((packed_share(&encodings, &[]) - 1.0).abs() < 1e-9, "{packing:?}");
        }
        assert!((packed_share(&Encodings::default(), &text) - 1.0).abs() < 1e-9);
    }
}
