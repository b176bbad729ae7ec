//! Page data that is not as it is in memory: differences, and packed batches.

use ::encodings::{Delta, MAX_DELTA_BYTES, Packer, Page, Unpacker, delta as difference};
use wire::{PAGE_BYTES, Packing};

/// Differences, one after the other, as in a run of them.
pub(crate) fn delta(bytes: &[u8]) {
    let (mut rest, mut page) = (bytes, [0x5a; PAGE_BYTES]);
    while let Ok((delta, behind)) = Delta::split_from(rest) {
        let taken = rest.len() - behind.len();
        assert!((1..=MAX_DELTA_BYTES).contains(&taken));
        let (before, mut end) = (page, 0);
        for (offset, bytes) in delta.changes() {
            assert!(offset >= end && offset + bytes.len() <= PAGE_BYTES, "out of order, or out of the page");
            end = offset + bytes.len();
        }
        delta.apply(&mut page);
        // What it makes of the page can be said in no more bytes, and is.
        let mut again = Vec::new();
        assert!(difference::encode(&before, &page, &mut again).is_some_and(|bytes| bytes <= taken));
        rest = behind;
    }
}

/// One byte for how it is packed, two for how many pages are to come out of it, and the rest is what is packed.
pub(crate) fn packed(bytes: &[u8]) {
    let Some(([how, pages @ ..], packed)) = bytes.split_first_chunk::<3>() else { return };
    let packing = if how & 1 == 0 { Packing::Lz4 } else { Packing::Zstd };
    let most = wire::MAX_HELD_BYTES as usize / PAGE_BYTES;
    let bytes = (usize::from(u16::from_le_bytes(*pages)) % most + 1) * PAGE_BYTES;
    // Behind what may be filled stands what must not be.
    let mut plain = vec![0xa5; bytes + PAGE_BYTES];
    let (own, others) = plain.split_at_mut(bytes);
    let unpacked = Unpacker::default().unpack(packing, packed, own);
    assert!(others.iter().all(|byte| *byte == 0xa5));
    let mut packer = Packer::default();
    if unpacked.is_ok()
        && let Some(again) = packer.pack(packing, 1, own)
    {
        let mut out = vec![0; bytes];
        assert!(Unpacker::default().unpack(packing, again, &mut out).is_ok() && out == own);
    }
}

pub(crate) fn delta_seeds() -> Vec<Vec<u8>> {
    let old: Page = std::array::from_fn(|at| (at / 9) as u8);
    let changes: [&[usize]; 4] = [&[], &[8], &[0, 1, 2, 4095], &[100, 108, 116, 300, 900, 2000, 3000]];
    let deltas = changes.map(|changes| {
        let (mut new, mut out) = (old, Vec::new());
        changes.iter().for_each(|at| new[*at] ^= 0xff);
        let _ = difference::encode(&old, &new, &mut out);
        out
    });
    let (mut long, mut out) = (old, Vec::new());
    long[..1600].fill(0xee);
    let _ = difference::encode(&old, &long, &mut out);
    let mut seeds = deltas.to_vec();
    seeds.extend([out, deltas.concat()]);
    seeds
}

pub(crate) fn packed_seeds() -> Vec<Vec<u8>> {
    let plain: Vec<u8> = (0..2 * PAGE_BYTES).map(|at| (at % 61 + at / 1000) as u8).collect();
    let seed = |packing, how| {
        let mut packer = Packer::default();
        let packed = packer.pack(packing, 1, &plain).unwrap_or_default();
        [&[how, 1, 0][..], packed].concat()
    };
    vec![seed(Packing::Lz4, 0), seed(Packing::Zstd, 1)]
}
