//! Where on a disk file systems may be: on all of it, or in a partition of an MBR or a GPT (UEFI Specification 2.10, section 5).

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
};

use super::read_at;

/// A part of a disk in which a file system may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// Its number; `None` for the whole disk.
    pub(super) number: Option<u32>,
    /// Its first byte on the disk.
    pub(super) start: u64,
    /// How many it has.
    pub(super) bytes: u64,
}

const SECTOR: u64 = 512;
/// Entries of a GPT that are looked at: Linux has as many partitions.
const MAX_ENTRIES: u32 = 256;

/// How images of other formats begin.
const FORMATS: &[(&[u8], &str)] = &[
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"conectix", "VHD"),
    (b"vhdxfile", "VHDX"),
    (b"LUKS\xba\xbe", "LUKS"),
];

/// The format of an image that is not raw, by its beginning.
pub(super) fn other_format(disk: &File) -> io::Result<Option<&'static str>> {
    let beginning = read_at(disk, 0, 64)?;
    Ok(FORMATS.iter().find(|(magic, _)| beginning.starts_with(magic)).map(|(_, name)| *name))
}

/// The whole disk, then its partitions, each within the disk.
pub(super) fn all(disk: &File) -> io::Result<Vec<Partition>> {
    let mut disk_end = disk;
    let bytes = disk_end.seek(SeekFrom::End(0))?;
    let mut parts = vec![Partition { number: None, start: 0, bytes }];
    let table = read_at(disk, 0, 1024)?;
    let gpt = gpt(disk, &table)?;
    let found = if gpt.is_empty() { mbr(&table) } else { gpt };
    let within = found.into_iter().filter(|part| part.start < bytes);
    parts.extend(within.map(|part| Partition { bytes: part.bytes.min(bytes - part.start), ..part }));
    Ok(parts)
}

/// Whether an ext2, ext3 or ext4 file system begins there (Linux, Documentation/filesystems/ext4: the super block).
pub(super) fn is_ext(disk: &File, part: Partition) -> bool {
    let magic = read_at(disk, part.start.saturating_add(1024 + 56), 2);
    magic.is_ok_and(|magic| magic == [0x53, 0xef])
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn gpt(disk: &File, table: &[u8]) -> io::Result<Vec<Partition>> {
    let header = table.get(SECTOR as usize..).unwrap_or_default();
    let fields = || Some((number::<8>(header, 72)?, number::<4>(header, 80)?, number::<4>(header, 84)?));
    let Some((first, count, size)) = fields().filter(|_| header.starts_with(b"EFI PART")) else {
        return Ok(Vec::new());
    };
    let (count, size) = (u32::from_le_bytes(count).min(MAX_ENTRIES), u32::from_le_bytes(size) as usize);
    let Some(start) = u64::from_le_bytes(first).checked_mul(SECTOR).filter(|_| (128..=4096).contains(&size))
    else {
        return Ok(Vec::new());
    };
    let entries = read_at(disk, start, count as usize * size)?;
    let part = |(index, entry): (usize, &[u8])| {
        let is_used = entry[..16].iter().any(|byte| *byte != 0);
        let (first, last) = (u64::from_le_bytes(number(entry, 32)?), u64::from_le_bytes(number(entry, 40)?));
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        let part = Partition {
            number: u32::try_from(index + 1).ok(),
            start: first.checked_mul(SECTOR)?,
            bytes: sectors.checked_mul(SECTOR)?,
        };
        is_used.then_some(part)
    };
    Ok(entries.chunks_exact(size).enumerate().filter_map(part).collect())
}

/// The four primary partitions. What is in an extended one is not looked at.
fn mbr(table: &[u8]) -> Vec<Partition> {
    if table.get(510..512) != Some(&[0x55, 0xaa]) {
        return Vec::new();
    }
    let part = |index: usize| {
        let entry = &table[446 + index * 16..462 + index * 16];
        let (first, sectors) =
            (u32::from_le_bytes(number(entry, 8)?), u32::from_le_bytes(number(entry, 12)?));
        let part = Partition {
            number: u32::try_from(index + 1).ok(),
            start: u64::from(first) * SECTOR,
            bytes: u64::from(sectors) * SECTOR,
        };
        (entry[4] != 0 && first > 0 && sectors > 0).then_some(part)
    };
    (0..4).filter_map(part).collect()
}
