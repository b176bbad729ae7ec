//! Disk sectors that can tell whether they are what was last written there.
//!
//! The disk is used in groups of eight sectors, 4 KiB. Each sector starts with its number, its generation
//! and a checksum; the generation that a group must have is remembered in memory. Generation 0 is the group
//! that this guest has not written yet: it may hold anything.

use crate::content::{GOLDEN, mix};

/// Bytes in a sector.
pub const SECTOR_BYTES: u64 = 512;
/// Sectors in a group.
pub const GROUP_SECTORS: u64 = 8;
/// Words in a group.
pub const GROUP_WORDS: usize = 512;
const SECTOR_WORDS: usize = 64;
const HEADER: usize = 3;

/// The content of a group of sectors.
pub type Group = [u64; GROUP_WORDS];

/// A sector that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSector {
    /// Which sector of the disk.
    pub sector: u64,
    /// The sector number found in it.
    pub found_sector: u64,
    /// The generation found in it.
    pub found_generation: u64,
}

/// Writes group `number` as `generation`.
pub fn write(group: &mut Group, seed: u64, number: u64, generation: u32) {
    for (index, sector) in group.as_chunks_mut::<SECTOR_WORDS>().0.iter_mut().enumerate() {
        let sector_number = number * GROUP_SECTORS + index as u64;
        let key = key(seed, sector_number, generation);
        for (place, word) in sector.iter_mut().enumerate().skip(HEADER) {
            *word = mix(key.wrapping_add((place as u64).wrapping_mul(GOLDEN)));
        }
        sector[0] = sector_number;
        sector[1] = u64::from(generation);
        sector[2] = sum(sector, key);
    }
}

/// Finds whether group `number` is what `generation` must be.
///
/// # Errors
/// The first sector that is not.
pub fn verify(group: &Group, seed: u64, number: u64, generation: u32) -> Result<(), BadSector> {
    if generation == 0 {
        return Ok(());
    }
    for (index, sector) in group.as_chunks::<SECTOR_WORDS>().0.iter().enumerate() {
        let sector_number = number * GROUP_SECTORS + index as u64;
        let good = sector[0] == sector_number
            && sector[1] == u64::from(generation)
            && sector[2] == sum(sector, key(seed, sector_number, generation));
        if !good {
            return Err(BadSector {
                sector: sector_number,
                found_sector: sector[0],
                found_generation: sector[1],
            });
        }
    }
    Ok(())
}

fn key(seed: u64, sector: u64, generation: u32) -> u64 {
    // Another constant than pages have: a page that strays to the disk is no good sector.
    mix(seed ^ mix(sector ^ 0x6469_736b) ^ u64::from(generation))
}

fn sum(sector: &[u64; SECTOR_WORDS], key: u64) -> u64 {
    sector[HEADER..].iter().fold(mix(key), |sum, word| mix(sum ^ word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_verifies_and_nothing_else_does() {
        let mut group = [0; GROUP_WORDS];
        write(&mut group, 1, 5, 3);
        verify(&group, 1, 5, 3).unwrap();
        verify(&group, 1, 5, 0).unwrap();
        let found = BadSector { sector: 40, found_sector: 40, found_generation: 3 };
        assert_eq!(verify(&group, 1, 5, 4), Err(found));
        assert_eq!(verify(&group, 2, 5, 3), Err(found));
        assert!(verify(&group, 1, 6, 3).is_err());
        assert!(verify(&[0; GROUP_WORDS], 1, 5, 3).is_err());
    }

    #[test]
    fn one_changed_word_names_its_sector() {
        let mut group = [0; GROUP_WORDS];
        write(&mut group, 1, 5, 3);
        for word in 0..GROUP_WORDS {
            group[word] ^= 1 << 63;
            let bad = verify(&group, 1, 5, 3).unwrap_err();
            assert_eq!(bad.sector, 40 + (word / SECTOR_WORDS) as u64);
            group[word] ^= 1 << 63;
        }
    }
}
