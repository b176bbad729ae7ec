//! The data of a batch, packed.

use std::io;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use wire::Packing;
use zstd::bulk::{Compressor, Decompressor};

/// Packs the data of one batch after the other, each by itself. Every channel has one. It takes next to nothing before the first
/// batch; then 32 KiB for lz4, for zstd 1 to 3 MiB up to level 4 and some tens from level 16 on; and a buffer as long as a batch.
#[derive(Default)]
pub struct Packer {
    lz4: Option<CompressTable>,
    /// With its level.
    zstd: Option<(u8, Compressor<'static>)>,
    packed: Vec<u8>,
}

/// Unpacks. Every channel has one.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<Decompressor<'static>>,
}

/// Why data cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not what the method makes.
    #[error("packed page data is damaged, or more than was said: {0}")]
    Damaged(String),
    /// Less comes out than there are pages.
    #[error("packed page data becomes {found} bytes, and {expected} were said")]
    Short {
        /// What came out.
        found: usize,
        /// What should have.
        expected: usize,
    },
    /// There is no memory to unpack with.
    #[error("There is no memory to unpack page data with")]
    Memory(#[source] io::Error),
}

/// What is not made shorter by this part of it at least is not worth unpacking.
const WORTH: usize = 16;

impl Packer {
    /// Packs `plain`. Returns `None` where that does not make it shorter by a sixteenth. `level` is zstd's: QEMU's 0 to 20, where
    /// 0 is its default.
    pub fn pack(&mut self, packing: Packing, level: u8, plain: &[u8]) -> Option<&[u8]> {
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(packed.len().max(packing_room(plain.len())), 0);
        let bytes = self.pack_into(packing, level, plain, &mut packed);
        self.packed = packed;
        bytes.map(|bytes| &self.packed[..bytes])
    }

    /// The same, to the front of `room`, which is [as long as it needs](packing_room). Returns how many bytes that takes.
    pub fn pack_into(&mut self, packing: Packing, level: u8, plain: &[u8], room: &mut [u8]) -> Option<usize> {
        let worth = plain.len() - plain.len().div_ceil(WORTH);
        let bytes = match packing {
            Packing::Lz4 => {
                let table = self.lz4.get_or_insert_with(CompressTable::large);
                compress_into_with_table(plain, room, table).ok()?
            }
            Packing::Zstd => {
                if self.zstd.as_ref().is_none_or(|(known, _)| *known != level) {
                    self.zstd = Some((level, Compressor::new(level.into()).ok()?));
                }
                // It fails where there is no room for more than is worth it, and stops early.
                self.zstd.as_mut()?.1.compress_to_buffer(plain, room.get_mut(..worth)?).ok()?
            }
        };
        (bytes > 0 && bytes <= worth).then_some(bytes)
    }
}

/// How much room packing needs for so many bytes, though most of it is not used.
#[must_use]
pub fn packing_room(plain_bytes: usize) -> usize {
    get_maximum_output_size(plain_bytes)
}

impl Unpacker {
    /// Fills `plain` with what `packed` becomes.
    ///
    /// # Errors
    /// It becomes more or less, or is not what the method makes. Whatever `packed` says of itself, nothing is allocated for it, and
    /// nothing but `plain` is written.
    pub fn unpack(&mut self, packing: Packing, packed: &[u8], plain: &mut [u8]) -> Result<(), UnpackError> {
        let expected = plain.len();
        let found = match packing {
            Packing::Lz4 => {
                decompress_into(packed, plain).map_err(|error| UnpackError::Damaged(error.to_string()))?
            }
            Packing::Zstd => {
                let unpacker = match &mut self.zstd {
                    Some(unpacker) => unpacker,
                    none => none.insert(Decompressor::new().map_err(UnpackError::Memory)?),
                };
                let unpacked = unpacker.decompress_to_buffer(packed, plain);
                unpacked.map_err(|error| UnpackError::Damaged(error.to_string()))?
            }
        };
        if found == expected { Ok(()) } else { Err(UnpackError::Short { found, expected }) }
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Packing; 2] = [Packing::Lz4, Packing::Zstd];

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| b"the whimbrel flies on "[at % 22].wrapping_add((at / 700) as u8)).collect()
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = std::iter::from_fn(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Some((state >> 33) as u8)
        });
        next.take(bytes).collect()
    }

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        for packing in BOTH {
            for bytes in [1 << 20, 4096, 12] {
                let plain = text(bytes);
                let Some(packed) = packer.pack(packing, 1, &plain).map(<[u8]>::to_vec) else {
                    assert_eq!(bytes, 12);
                    continue;
                };
                let mut out = vec![0; bytes];
                unpacker.unpack(packing, &packed, &mut out).unwrap();
                assert_eq!(out, plain);
            }
        }
    }

    #[test]
    fn noise_is_not_packed() {
        for packing in BOTH {
            assert!(Packer::default().pack(packing, 1, &noise(1 << 20)).is_none());
        }
    }

    #[test]
    fn a_level_takes_effect_when_it_changes() {
        let (mut packer, mut plain) = (Packer::default(), noise(1 << 18));
        plain.iter_mut().for_each(|byte| *byte &= 0x13);
        let sizes = [1, 19, 1].map(|level| packer.pack(Packing::Zstd, level, &plain).unwrap().len());
        assert!(sizes[1] < sizes[0], "{sizes:?}");
        assert_eq!(sizes[0], sizes[2]);
    }

    #[test]
    fn more_and_less_than_was_said_are_refused() {
        for packing in BOTH {
            let packed = Packer::default().pack(packing, 1, &text(8192)).unwrap().to_vec();
            for bytes in [0, 1, 8191] {
                let unpacked = Unpacker::default().unpack(packing, &packed, &mut vec![0; bytes]);
                assert!(matches!(unpacked, Err(UnpackError::Damaged(_))), "{packing:?} {bytes} {unpacked:?}");
            }
            let unpacked = Unpacker::default().unpack(packing, &packed, &mut [0; 8193]);
            assert!(matches!(unpacked, Err(UnpackError::Short { found: 8192, expected: 8193 })));
        }
    }

    #[test]
    fn a_bomb_fills_no_more_than_it_was_given() {
        // 1 GiB of zeros.
        let bomb = zstd::stream::encode_all(io::Read::take(io::repeat(0), 1 << 30), 19).unwrap();
        assert!(bomb.len() < 1 << 18);
        let mut plain = vec![0; 1 << 20];
        assert!(Unpacker::default().unpack(Packing::Zstd, &bomb, &mut plain).is_err());
    }

    #[test]
    fn damaged_bytes_are_refused_or_become_as_many_as_was_said_and_the_next_batch_is_well() {
        for packing in BOTH {
            let (plain, mut unpacker) = (text(1 << 14), Unpacker::default());
            let packed = Packer::default().pack(packing, 1, &plain).unwrap().to_vec();
            let mut out = vec![0; plain.len()];
            for at in 0..packed.len() {
                let mut damaged = packed.clone();
                damaged[at] ^= 0x55;
                let _ = unpacker.unpack(packing, &damaged, &mut out);
                assert!(unpacker.unpack(packing, &packed[..at], &mut out).is_err(), "cut at {at}");
            }
            unpacker.unpack(packing, &packed, &mut out).unwrap();
            assert_eq!(out, plain);
        }
    }
}
