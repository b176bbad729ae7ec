//! Memory's way out of the machine's reach.
#![expect(unsafe_code, reason = "madvise takes addresses")]

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    mm::{Advice, madvise},
    process::{PidfdFlags, getpid, pidfd_open},
};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, bitmap::AtomicBitmap};

use super::part::{Block, Kind, Part};
use crate::{
    PAGE_SIZE, PageSet, Ram, Segment,
    userfault::{Trap, Userfaultfd},
};

/// Missing pages that are no further apart than this are registered together: 2 MiB.
const GAP: u64 = (2 << 20) / PAGE_SIZE as u64;
/// Most ranges that are registered: each is a mapping of its own, of which a process has 65530.
const MAX_RANGES: usize = 1024;
/// Largest page of the host that may be waited for as a whole: 2 MiB.
const MAX_HOST_PAGE: u64 = 2 << 20;
/// Ranges that are dropped by one call (UIO_MAXIOV).
const RANGES_A_CALL: usize = 1024;
/// So many pages of a memfd are dropped in the time of one more range (measured: 0.37 µs a page, 1.4 µs a
/// range).
const SCATTERED: u64 = 4;
/// Type of a file system (linux/magic.h).
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;

/// Why memory could not be taken out of the machine's reach.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The sets are not those of this memory.
    #[error(
        "The sets of missing pages are not those of this memory: each of its {blocks} blocks needs one of its size"
    )]
    Sets {
        /// Blocks of the memory.
        blocks: usize,
    },
    /// Memory of this kind cannot be completed while the machine runs.
    #[error("Block '{block}' of guest memory cannot be completed while the machine runs: {reason}")]
    Memory {
        /// Name of the block.
        block: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel refuses to register or to drop a part of the memory.
    #[error("Cannot {what} {mib} MiB of block '{block}' of guest memory, whose pages are still to come")]
    Range {
        /// What was tried.
        what: &'static str,
        /// How much of it, rounded up.
        mib: u64,
        /// Name of the block.
        block: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses something else.
    #[error("Cannot {what} for guest memory whose pages are still to come")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Registers what is missing, and drops what is there of it.
pub(super) fn arm(ram: &Ram, userfault: &Userfaultfd, missing: Vec<PageSet>) -> Result<Vec<Part>, ArmError> {
    let blocks = ram.blocks();
    let fits = blocks.len() == missing.len()
        && blocks.len() <= usize::from(u16::MAX)
        && blocks.iter().zip(&missing).all(|(block, set)| block.pages() == set.capacity());
    if !fits {
        return Err(ArmError::Sets { blocks: blocks.len() });
    }
    let mut parts = Vec::with_capacity(blocks.len());
    for ((index, missing), region) in missing.into_iter().enumerate().zip(ram.memory().iter()) {
        let block = &blocks[index];
        let wrong = |reason| ArmError::Memory { block: block.name().into(), reason };
        let memory = Block { address: block.host_address(), pages: block.pages() };
        let kind = kind_of(region).map_err(wrong)?;
        let (unclaimed, awaited) = (missing.duplicate(), PageSet::new(block.pages()));
        let armed = ranges_of(&missing, GAP, kind.host_page());
        parts.push(Part { index: index as u16, memory, kind, missing, unclaimed, awaited, armed });
    }
    bring_down(&mut parts, MAX_RANGES);
    let mut dropper = Dropper::new();
    for (part, block) in parts.iter().zip(blocks) {
        let failed = |what, pages: u64, source| {
            let mib = (pages * PAGE_SIZE as u64).div_ceil(1 << 20);
            ArmError::Range { what, mib, block: block.name().into(), source }
        };
        let trap = if let Kind::Anonymous = part.kind { Trap::Missing } else { Trap::MissingOrUnmapped };
        // Registered first: from then on the kernel makes no huge page of small ones here, some of which are
        // missing.
        for range in &part.armed {
            let registered = userfault.register(part.memory.segment(range), trap);
            registered.map_err(|source| failed("watch over", range.end - range.start, source))?;
        }
        dropper.drop_missing(part).map_err(|source| failed("drop", part.missing.count(), source))?;
    }
    Ok(parts)
}

/// What a region is made of, or why that cannot be completed.
fn kind_of(region: &GuestRegionMmap<AtomicBitmap>) -> Result<Kind, &'static str> {
    let is_shared = region.flags() & libc::MAP_SHARED != 0;
    let Some(file) = region.file_offset() else {
        return match region.flags() & libc::MAP_HUGETLB {
            0 if !is_shared => Ok(Kind::Anonymous),
            _ => Err("shared memory and huge pages must be of a file (memfd_create) that is known"),
        };
    };
    if !is_shared {
        return Err("its file must be mapped shared");
    }
    let statistics =
        rustix::fs::fstatfs(file.file()).map_err(|_| "the kernel does not tell what it is made of")?;
    match statistics.f_type as u64 {
        TMPFS => Ok(Kind::Shmem(file.clone())),
        HUGETLBFS => {
            let host = statistics.f_bsize as u64;
            let is_whole = |number: u64| number.is_multiple_of(host);
            if host > MAX_HOST_PAGE {
                return Err(
                    "its pages are larger than 2 MiB, which takes too long to wait for; use smaller ones",
                );
            }
            if !is_whole(region.len()) || !is_whole(region.as_ptr().addr() as u64) || !is_whole(file.start())
            {
                return Err(
                    "its address, its size and its place in the file must be multiples of its page size",
                );
            }
            Ok(Kind::Huge(file.clone(), host / PAGE_SIZE as u64))
        }
        _ => Err("its file is on a disk; it must be in memory (memfd, tmpfs or huge pages)"),
    }
}

/// Ranges of whole host pages that hold all of the set, more than `gap` pages apart.
fn ranges_of(set: &PageSet, gap: u64, host_page: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut page = 0;
    while let Some(first) = set.next(page) {
        let end = set.next_absent_within(first, set.capacity()).unwrap_or(set.capacity());
        let (first, last) = (first - first % host_page, end.next_multiple_of(host_page).min(set.capacity()));
        match ranges.last_mut() {
            Some(range) if first <= range.end.saturating_add(gap) => range.end = last,
            _ => ranges.push(first..last),
        }
        page = end;
    }
    ranges
}

/// Joins ranges across wider and wider gaps until there are no more than `most`, or one a block.
fn bring_down(parts: &mut [Part], most: usize) {
    let mut gap = GAP;
    while parts.iter().map(|part| part.armed.len()).sum::<usize>() > most.max(parts.len()) {
        gap = gap.saturating_mul(2);
        for part in &mut *parts {
            join(&mut part.armed, gap);
        }
    }
}

fn join(ranges: &mut Vec<Range<u64>>, gap: u64) {
    ranges.dedup_by(|next, range| {
        let is_near = next.start - range.end <= gap;
        if is_near {
            range.end = next.end;
        }
        is_near
    });
}

/// Drops what is mapped of missing pages.
struct Dropper {
    /// This process, where the kernel may take many ranges at once.
    many: Option<OwnedFd>,
    ranges: Vec<libc::iovec>,
}

impl Dropper {
    fn new() -> Self {
        Self {
            many: pidfd_open(getpid(), PidfdFlags::empty()).ok(),
            ranges: Vec::with_capacity(RANGES_A_CALL),
        }
    }

    fn drop_missing(&mut self, part: &Part) -> io::Result<()> {
        let host_page = part.kind.host_page();
        if matches!(part.kind, Kind::Shmem(_)) && is_scattered(part) {
            // What is here is mapped again when it is touched: its contents are in the file.
            for range in &part.armed {
                self.add(part.memory.segment(range))?;
            }
            return self.drop_ranges();
        }
        let mut page = 0;
        while let Some(first) = part.missing.next(page) {
            let end = part.missing.next_absent_within(first, part.memory.pages).unwrap_or(part.memory.pages);
            page = end.next_multiple_of(host_page).min(part.memory.pages);
            self.add(part.memory.segment(&(first - first % host_page..page)))?;
        }
        self.drop_ranges()
    }

    fn add(&mut self, Segment { address, bytes }: Segment) -> io::Result<()> {
        self.ranges.push(libc::iovec { iov_base: address.as_ptr().cast(), iov_len: bytes });
        if self.ranges.len() == RANGES_A_CALL { self.drop_ranges() } else { Ok(()) }
    }

    /// By one call, if the kernel takes that (Linux 6.13), else each by itself.
    fn drop_ranges(&mut self) -> io::Result<()> {
        if self.ranges.is_empty() {
            return Ok(());
        }
        if let Some(process) = &self.many {
            let (ranges, count) = (self.ranges.as_ptr(), self.ranges.len());
            let all: usize = self.ranges.iter().map(|range| range.iov_len).sum();
            // SAFETY: the ranges are guest memory, which is mapped while `Ram` lives and of which no Rust
            // reference exists. What is anonymous of it is missing, and to lose its contents; the rest keeps
            // them in its file. The kernel reads the list, which lives across the call.
            let dropped = unsafe {
                libc::syscall(
                    libc::SYS_process_madvise,
                    process.as_raw_fd(),
                    ranges,
                    count,
                    libc::MADV_DONTNEED,
                    0,
                )
            };
            if usize::try_from(dropped) == Ok(all) {
                self.ranges.clear();
                return Ok(());
            }
            self.many = None;
        }
        for range in self.ranges.drain(..) {
            // SAFETY: as above.
            unsafe { madvise(range.iov_base, range.iov_len, Advice::LinuxDontNeed) }?;
        }
        Ok(())
    }
}

/// Whether so many runs of pages are missing that dropping each takes longer than dropping all that is
/// between them too.
fn is_scattered(part: &Part) -> bool {
    let armed: u64 = part.armed.iter().map(|range| range.end - range.start).sum();
    let (mut page, mut runs) = (0, 0);
    while let Some(first) = part.missing.next(page) {
        runs += 1;
        page = part.missing.next_absent_within(first, part.memory.pages).unwrap_or(part.memory.pages);
    }
    runs > armed / SCATTERED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_one_range_of_whole_host_pages() {
        let set = PageSet::new(10_000);
        for page in [3, 4, 500, 2000, 9_999] {
            set.insert(page);
        }
        assert_eq!(ranges_of(&set, 512, 1), [3..501, 2000..2001, 9_999..10_000]);
        assert_eq!(ranges_of(&set, 512, 512), [0..512, 1536..2048, 9_728..10_000]);
        assert_eq!(ranges_of(&PageSet::new(7), 512, 1), []);
    }

    #[test]
    fn ranges_are_joined_across_the_gap_and_no_wider() {
        let mut ranges = vec![0..1, 600..700, 1724..1725, 5000..5001];
        join(&mut ranges, 1024);
        assert_eq!(ranges, [0..1725, 5000..5001]);
    }
}
