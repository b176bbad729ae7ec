//! Whether two sides have the same image behind a disk, by a few blocks of it.
//!
//! The source takes [samples](ImageReader::samples) and the destination [looks at the same places](ImageReader::sums_at);
//! [`is_another_image`] judges. What is compared has to be true although the guest writes all the time and the two sides
//! read at different moments:
//!
//! * Both read past their page caches (O_DIRECT) where the file system can. So the source shows what is in the storage, since
//!   such a read first writes back what the cache has, and the destination does not see what it cached when the machine
//!   was elsewhere.
//! * A block that changed while the source looked at it twice is no sample.
//! * Of an image that may be written, one sample that differs says nothing: the guest may have written it since. It is
//!   another image if more than half of the samples differ, which a guest brings about only by writing half its disk in the
//!   milliseconds between the two looks. Blocks that are empty on the source are counted apart: two images that are mostly
//!   empty are alike in most blocks and still two, and an empty disk that is being formatted is still one.
//! * An image that nobody may write is the same in every block, or it is another.
//! * Of a large disk that is young most samples are empty. Then it is also another image if both the first block and the one at
//!   1 MiB are filled and differ: partition tables and superblocks stand there, which few guests rewrite at all.
//! * Slow storage makes fewer samples, not another image.
//!
//! So a copy with few changes counts as the same image. It is the second net: names, serial numbers and locks are the first.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, SeekFrom},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::alignment::Alignment;

/// Most samples of one image.
pub const MAX_SAMPLES: usize = 32;

/// Bytes of a sample. Suits the direct I/O of nearly all devices and file systems.
const BLOCK_BYTES: usize = 4096;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// Parts of an image of which each has one candidate; a power of two.
const PARTS: u64 = 64;
/// Samples of one kind, filled or empty, after which no more are looked for.
const ENOUGH: usize = MAX_SAMPLES / 2;
/// Samples that must be compared before a majority of them tells anything.
pub const TELLING: usize = 4;
/// Where partition tables and superblocks are.
const HEADS: [u64; 2] = [0, 1 << 20];

/// One block of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Where it begins, in bytes: a multiple of 4096.
    pub offset: u64,
    /// Checksum of its 4096 bytes (64-bit FNV-1a), or of as many as the image has; `None` if all are zero.
    pub sum: Option<u64>,
}

/// Reads an image beside the disk that it belongs to.
#[derive(Debug)]
pub struct ImageReader {
    file: File,
    bytes: u64,
}

#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// Whether an image of which the source took `samples`, and this side sees `here` in the places of the first of them, is
/// another one.
#[must_use]
pub fn is_another_image(samples: &[Sample], here: &[Option<u64>], read_only: bool) -> bool {
    let pairs = || samples.iter().map(|sample| sample.sum).zip(here.iter().copied());
    let differ = |pairs: &[(Option<u64>, Option<u64>)]| pairs.iter().filter(|(a, b)| a != b).count();
    let all: Vec<_> = pairs().collect();
    if read_only {
        return differ(&all) > 0;
    }
    let filled: Vec<_> = pairs().filter(|(there, _)| there.is_some()).collect();
    if filled.len() < TELLING {
        let heads = samples.iter().zip(here).filter(|(sample, _)| HEADS.contains(&sample.offset));
        let other = heads.filter(|(sample, here)| sample.sum.is_some() && sample.sum != **here);
        return other.count() == HEADS.len() || (all.len() >= TELLING && differ(&all) > all.len() / 2);
    }
    [all, filled].iter().any(|pairs| pairs.len() >= TELLING && differ(pairs) > pairs.len() / 2)
}

impl ImageReader {
    /// Reads `file`, an image of `bytes` bytes, through a descriptor of its own where /proc allows that.
    pub(super) fn new(file: &File, bytes: u64) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let suits = |direct: &File| {
            Alignment::of(direct).ok().flatten().is_some_and(|alignment| alignment.suits(BLOCK_BYTES))
        };
        let direct = File::options().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&path);
        let file = match direct {
            Ok(direct) if suits(&direct) => direct,
            // Memory that is a file system, and the like: it has no cache beside itself.
            _ => File::open(&path).or_else(|_| file.try_clone())?,
        };
        Ok(Self { file, bytes })
    }

    /// At most [`MAX_SAMPLES`] samples from all over the image; those that can be had within `time`, and the read that is
    /// under way then.
    ///
    /// # Errors
    /// As pread(2), if no block can be read.
    pub fn samples(&self, time: Duration) -> io::Result<Vec<Sample>> {
        let (begun, mut failed) = (Instant::now(), None);
        let (mut filled, mut empty, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for offset in self.candidates() {
            if filled.len() == ENOUGH || begun.elapsed() > time / 2 {
                break;
            }
            if !seen.insert(offset) {
                continue;
            }
            let sum = match self.sum_at(offset) {
                Ok(sum) => sum,
                // One bad sector is no reason to know nothing.
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let kind = if sum.is_some() { &mut filled } else { &mut empty };
            if kind.len() < ENOUGH {
                kind.push(Sample { offset, sum });
            }
        }
        filled.append(&mut empty);
        if let (true, Some(error)) = (filled.is_empty(), failed) {
            return Err(error);
        }
        let in_time = filled.into_iter().take_while(|_| begun.elapsed() <= time);
        let is_quiet = |sample: &Sample| self.sum_at(sample.offset).is_ok_and(|sum| sum == sample.sum);
        Ok(in_time.filter(is_quiet).collect())
    }

    /// What is here in the places of `samples`, which a peer chose. The first [`MAX_SAMPLES`] of them are looked at, as far as
    /// that can be done within `time`.
    ///
    /// # Errors
    /// As pread(2), or a place is not in the image.
    pub fn sums_at(&self, samples: &[Sample], time: Duration) -> io::Result<Vec<Option<u64>>> {
        let begun = Instant::now();
        let samples = samples.iter().take(MAX_SAMPLES);
        samples.take_while(|_| begun.elapsed() <= time).map(|sample| self.sum_at(sample.offset)).collect()
    }

    /// Where to look, the most telling places first: the beginning, where partition tables and superblocks are, the end, and
    /// then all over the image, coarsely at first. Of a file with holes the data is looked at.
    fn candidates(&self) -> impl Iterator<Item = u64> {
        let blocks = self.bytes.div_ceil(BLOCK);
        let special = [HEADS[0] / BLOCK, HEADS[1] / BLOCK, blocks.saturating_sub(1)];
        let special = special.into_iter().filter(move |block| *block < blocks).map(|block| block * BLOCK);
        let start = move |part: u64| {
            let block = u128::from(blocks) * u128::from(part) / u128::from(PARTS);
            // No more than `blocks`.
            block as u64 * BLOCK
        };
        let parts = (0..PARTS).map(|part| part.reverse_bits() >> (u64::BITS - PARTS.trailing_zeros()));
        let parts = parts.filter(move |part| start(*part) < start(part + 1)).map(move |part| {
            let (from, to) = (start(part), start(part + 1));
            rustix::fs::seek(&self.file, SeekFrom::Data(from))
                .ok()
                .map(|data| data / BLOCK * BLOCK)
                .filter(|data| (from..to).contains(data))
                .unwrap_or(from)
        });
        special.chain(parts)
    }

    fn sum_at(&self, offset: u64) -> io::Result<Option<u64>> {
        if !offset.is_multiple_of(BLOCK) || offset >= self.bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such block in the image"));
        }
        let expected = (self.bytes - offset).min(BLOCK);
        let mut block = Box::new(Block([0; BLOCK_BYTES]));
        let read = loop {
            match rustix::io::pread(&self.file, &mut block.0[..], offset) {
                Err(Errno::INTR) => {}
                result => break result? as u64,
            }
        };
        if read < expected {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A file may have grown since it was opened; the disk has not.
        let data = &block.0[..expected as usize];
        Ok(data.iter().any(|byte| *byte != 0).then(|| fnv1a(data)))
    }
}

/// 64-bit FNV-1a: short, and defined for ever. It finds accidents, not intentions.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use tempfile::NamedTempFile;

    use super::*;

    const MIB: u64 = 1 << 20;
    const TIME: Duration = Duration::MAX;

    fn image(bytes: u64) -> NamedTempFile {
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(bytes).unwrap();
        image
    }

    fn fill(image: &NamedTempFile, from: u64, bytes: u64, seed: u8) {
        for block in (from..from + bytes).step_by(BLOCK_BYTES) {
            let content = (block / BLOCK).to_le_bytes().map(|byte| byte ^ seed);
            image.as_file().write_all_at(&content, block).unwrap();
            image.as_file().write_all_at(&[seed; 64], block + 100).unwrap();
        }
    }

    fn reader(image: &NamedTempFile) -> ImageReader {
        let bytes = image.as_file().metadata().unwrap().len();
        ImageReader::new(&File::open(image.path()).unwrap(), bytes).unwrap()
    }

    /// Whether a destination with `there` refuses what a source with `here` shows, and the other way round.
    fn differ(here: &NamedTempFile, there: &NamedTempFile) -> [bool; 2] {
        [(here, there), (there, here)].map(|(source, destination)| {
            let samples = reader(source).samples(TIME).unwrap();
            is_another_image(&samples, &reader(destination).sums_at(&samples, TIME).unwrap(), false)
        })
    }

    #[test]
    fn an_image_is_itself_whatever_is_in_it() {
        for bytes in [512, 4096, 5 * 512, MIB, 20 * MIB] {
            let image = image(bytes);
            assert_eq!(differ(&image, &image), [false; 2], "empty, {bytes}");
            fill(&image, 0, bytes / 2 / BLOCK * BLOCK, 7);
            assert_eq!(differ(&image, &image), [false; 2], "half full, {bytes}");
            let samples = reader(&image).samples(TIME).unwrap();
            assert!(!samples.is_empty() && samples.len() <= MAX_SAMPLES, "{}", samples.len());
        }
    }

    #[test]
    fn images_with_other_contents_are_told_apart() {
        let (one, other, empty) = (image(20 * MIB), image(20 * MIB), image(20 * MIB));
        fill(&one, 0, 20 * MIB, 1);
        fill(&other, 0, 20 * MIB, 2);
        assert_eq!(differ(&one, &other), [true; 2]);
        assert_eq!(differ(&one, &empty), [true; 2]);
    }

    #[test]
    fn what_little_there_is_in_a_sparse_image_is_found() {
        let (one, other, empty) = (image(1 << 40), image(1 << 40), image(1 << 40));
        for gib in [0, 77, 300, 512, 901] {
            fill(&one, (gib << 30) + 5 * BLOCK, BLOCK, 1);
            fill(&other, (gib << 30) + 5 * BLOCK, BLOCK, 2);
        }
        let filled = reader(&one).samples(TIME).unwrap().iter().filter(|sample| sample.sum.is_some()).count();
        assert_eq!(filled, 5);
        assert_eq!(differ(&one, &other), [true; 2]);
        assert!(differ(&one, &empty)[0]);
    }

    #[test]
    fn what_the_guest_writes_between_the_looks_makes_no_other_image() {
        let image = image(20 * MIB);
        fill(&image, 0, 20 * MIB, 1);
        let samples = reader(&image).samples(TIME).unwrap();
        let verdict = || is_another_image(&samples, &reader(&image).sums_at(&samples, TIME).unwrap(), false);
        fill(&image, 0, 7 * MIB, 2);
        assert!(!verdict());
        fill(&image, 0, 18 * MIB, 3);
        assert!(verdict());
    }

    #[test]
    fn an_empty_disk_that_is_being_formatted_is_no_other_image() {
        let image = image(64 * MIB);
        let samples = reader(&image).samples(TIME).unwrap();
        fill(&image, 0, 2 * MIB, 1);
        fill(&image, 32 * MIB, 2 * MIB, 1);
        assert!(!is_another_image(&samples, &reader(&image).sums_at(&samples, TIME).unwrap(), false));
    }

    #[test]
    fn large_young_images_are_told_apart_by_their_beginnings() {
        let (one, other) = (image(1 << 40), image(1 << 40));
        fill(&one, 0, 4 * MIB, 1);
        fill(&other, 0, 4 * MIB, 2);
        assert_eq!(differ(&one, &other), [true; 2]);
        // One of the two may have been written meanwhile.
        let samples = reader(&one).samples(TIME).unwrap();
        fill(&one, 0, BLOCK, 3);
        assert!(!is_another_image(&samples, &reader(&one).sums_at(&samples, TIME).unwrap(), false));
    }

    #[test]
    fn one_block_is_enough_where_nobody_writes() {
        let sample = |offset| Sample { offset, sum: Some(offset + 1) };
        let samples: Vec<_> = (0..16).map(|block| sample(block * BLOCK)).collect();
        let mut here: Vec<_> = samples.iter().map(|sample| sample.sum).collect();
        assert!(!is_another_image(&samples, &here, true));
        here[3] = None;
        assert!(is_another_image(&samples, &here, true));
        assert!(!is_another_image(&samples, &here, false));
    }

    #[test]
    fn places_that_are_not_in_the_image_are_errors() {
        let image = image(MIB);
        for offset in [1, 512, MIB, u64::MAX, u64::MAX - BLOCK + 1] {
            let places = [Sample { offset, sum: None }];
            assert!(reader(&image).sums_at(&places, TIME).is_err(), "{offset}");
        }
    }

    #[test]
    fn both_sides_read_what_is_in_the_storage() {
        // Written through the page cache and not flushed, and read past it.
        let image = image(MIB);
        let reader = reader(&image);
        assert_eq!(reader.sums_at(&[Sample { offset: 0, sum: None }], TIME).unwrap(), [None]);
        fill(&image, 0, BLOCK, 9);
        let cached = image.as_file();
        let mut bytes = [0; BLOCK_BYTES];
        cached.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(reader.sums_at(&[Sample { offset: 0, sum: None }], TIME).unwrap(), [Some(fnv1a(&bytes))]);
    }

    #[test]
    fn storage_that_is_too_slow_makes_no_other_image() {
        let image = image(MIB);
        fill(&image, 0, MIB, 1);
        let samples = reader(&image).samples(Duration::ZERO).unwrap();
        assert!(samples.len() < TELLING, "{samples:?}");
        let samples = reader(&image).samples(TIME).unwrap();
        let here = reader(&image).sums_at(&samples, Duration::ZERO).unwrap();
        assert!(here.len() < samples.len() && !is_another_image(&samples, &here, false));
    }
}
