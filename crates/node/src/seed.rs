//! First settings of a guest on a small disk, where cloud-init's source NoCloud looks for them: a FAT file system with the label `CIDATA` (Microsoft,
//! "FAT32 File System Specification", sections 3 to 7). The same settings are always the same bytes, so that both sides of a migration have the same disk.

use std::io;

const SECTOR: usize = 512;
const CLUSTER: usize = 4 * SECTOR;
/// Entries of the root directory: one sector.
const ENTRIES: usize = 16;
const ENTRY: usize = 32;
/// Clusters of a file system whose table has 12 bits for each (section 3.5).
const MAX_CLUSTERS: usize = 4084;
/// The end of a file in such a table.
const LAST: u16 = 0xfff;
const LABEL: &[u8; 11] = b"CIDATA     ";
/// 1 January 1980: the first day that there is.
const DAY: [u8; 2] = [0x21, 0];
/// What one entry has of a long name, in letters.
const LETTERS: usize = 13;

/// A file of the disk.
struct File<'a> {
    long: &'a str,
    short: [u8; 11],
    bytes: &'a [u8],
}

/// What a guest is told at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seed {
    /// Who the guest is, so that cloud-init knows whether it has been here.
    pub(crate) meta: Vec<u8>,
    /// Users, keys, commands.
    pub(crate) user: Vec<u8>,
    /// Networks, if anything is said of them.
    pub(crate) network: Option<Vec<u8>>,
}

impl Seed {
    /// The whole disk.
    ///
    /// # Errors
    /// It would be larger than 8 MB.
    pub(crate) fn image(&self) -> io::Result<Vec<u8>> {
        let mut files = vec![
            File { long: "meta-data", short: *b"META-D~1   ", bytes: &self.meta },
            File { long: "user-data", short: *b"USER-D~1   ", bytes: &self.user },
        ];
        let network = self.network.as_ref();
        files.extend(network.map(|bytes| File { long: "network-config", short: *b"NETWOR~1   ", bytes }));
        image(&files)
    }
}

/// The meta data of a machine. The id stays from run to run: what is done once for a machine is not done again.
pub(crate) fn meta(namespace: &str, name: &str) -> Vec<u8> {
    // Names are letters, digits, '-' and '.'.
    format!("instance-id: {name}.{namespace}\nlocal-hostname: {name}\n").into_bytes()
}

fn image(files: &[File<'_>]) -> io::Result<Vec<u8>> {
    let clusters: usize = files.iter().map(|file| file.bytes.len().div_ceil(CLUSTER)).sum::<usize>().max(1);
    if clusters > MAX_CLUSTERS {
        return Err(io::Error::other("The settings for cloud-init are too large: 8 MB at most"));
    }
    let table = fat_sectors(clusters);
    let data = SECTOR * (1 + 2 * table) + ENTRIES * ENTRY;
    let mut disk = vec![0; data + clusters * CLUSTER];
    let sectors = u16::try_from(disk.len() / SECTOR).map_err(io::Error::other)?;
    boot_sector(&mut disk[..SECTOR], sectors, u16::try_from(table).map_err(io::Error::other)?);
    let mut entries = vec![entry(LABEL, 0x08, 0, 0)];
    let mut links = vec![0xff8, LAST];
    for file in files {
        let first = if file.bytes.is_empty() { 0 } else { links.len() };
        let place = data + (links.len() - 2) * CLUSTER;
        disk[place..place + file.bytes.len()].copy_from_slice(file.bytes);
        let count = file.bytes.len().div_ceil(CLUSTER);
        for index in 0..count {
            let next = if index + 1 == count { LAST } else { u16::try_from(links.len() + 1).unwrap_or(LAST) };
            links.push(next);
        }
        entries.extend(long_name(file));
        let (first, size) = (u16::try_from(first).unwrap_or(0), u32::try_from(file.bytes.len()).unwrap_or(0));
        entries.push(entry(&file.short, 0x20, first, size));
    }
    let packed = packed(&links);
    for copy in 0..2 {
        let at = SECTOR * (1 + copy * table);
        disk[at..at + packed.len()].copy_from_slice(&packed);
    }
    let root = SECTOR * (1 + 2 * table);
    for (place, entry) in disk[root..data].chunks_exact_mut(ENTRY).zip(&entries) {
        place.copy_from_slice(entry);
    }
    Ok(disk)
}

/// Sectors of a table for so many clusters, the first two of which are none.
fn fat_sectors(clusters: usize) -> usize {
    ((clusters + 2) * 3).div_ceil(2).div_ceil(SECTOR)
}

fn boot_sector(sector: &mut [u8], sectors: u16, table: u16) {
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"WHIMBREL");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[(CLUSTER / SECTOR) as u8]);
    put(14, &1u16.to_le_bytes());
    put(16, &[2]);
    put(17, &(ENTRIES as u16).to_le_bytes());
    put(19, &sectors.to_le_bytes());
    put(21, &[0xf8]);
    put(22, &table.to_le_bytes());
    put(24, &32u16.to_le_bytes());
    put(26, &64u16.to_le_bytes());
    put(36, &[0x80, 0, 0x29]);
    put(39, b"seed");
    put(43, LABEL);
    put(54, b"FAT12   ");
    put(510, &[0x55, 0xaa]);
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, size: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DAY);
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..32].copy_from_slice(&size.to_le_bytes());
    entry
}

/// The entries before that of a file which have its name, the last part of it first (section 7).
fn long_name(file: &File<'_>) -> Vec<[u8; ENTRY]> {
    let sum = file.short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut letters: Vec<u16> = file.long.encode_utf16().collect();
    let parts = letters.len().div_ceil(LETTERS);
    if !letters.len().is_multiple_of(LETTERS) {
        letters.push(0);
    }
    letters.resize(parts * LETTERS, 0xffff);
    let part = |(index, letters): (usize, &[u16])| {
        let mut entry = [0; ENTRY];
        entry[0] = (index as u8 + 1) | if index + 1 == parts { 0x40 } else { 0 };
        entry[11] = 0x0f;
        entry[13] = sum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (at, letter) in places.zip(letters) {
            entry[at..at + 2].copy_from_slice(&letter.to_le_bytes());
        }
        entry
    };
    letters.chunks(LETTERS).enumerate().map(part).rev().collect()
}

/// Links of 12 bits, two in three bytes.
fn packed(links: &[u16]) -> Vec<u8> {
    let pairs = links.chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or(0)));
    pairs.flat_map(|(one, two)| [one as u8, (one >> 8) as u8 | (two << 4) as u8, (two >> 4) as u8]).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::*;

    /// The files of a disk, as another program reads them.
    fn read(disk: Vec<u8>) -> (String, Vec<(String, Vec<u8>)>) {
        let disk = fatfs::FileSystem::new(Cursor::new(disk), fatfs::FsOptions::new()).unwrap();
        let files = disk.root_dir().iter().map(|entry| {
            let entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes).unwrap();
            (entry.file_name(), bytes)
        });
        (disk.volume_label(), files.collect())
    }

    #[test]
    fn a_disk_has_what_it_was_made_of_whatever_the_size() {
        for size in [0, 1, CLUSTER - 1, CLUSTER, CLUSTER + 1, 100_000, 1 << 20] {
            let bytes: Vec<u8> = (0..size).map(|index| (index * 7 + index / 251) as u8).collect();
            let seed =
                Seed { meta: meta("default", "web"), user: bytes.clone(), network: Some(bytes.clone()) };
            let disk = seed.image().unwrap();
            assert_eq!(disk, seed.image().unwrap());
            assert_eq!(disk.len() % SECTOR, 0);
            let (label, files) = read(disk);
            assert_eq!(label, "CIDATA");
            let meta = b"instance-id: web.default\nlocal-hostname: web\n".to_vec();
            let expected = [("meta-data", meta), ("user-data", bytes.clone()), ("network-config", bytes)];
            assert_eq!(files, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
        }
        let (_, files) = read(Seed { network: None, ..Seed::default() }.image().unwrap());
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let seed = Seed { user: vec![1; MAX_CLUSTERS * CLUSTER], meta: vec![1], network: None };
        assert!(seed.image().is_err());
        let seed = Seed { user: vec![1; (MAX_CLUSTERS - 1) * CLUSTER], meta: vec![1], network: None };
        assert_eq!(read(seed.image().unwrap()).1.len(), 2);
    }
}
