use std::{
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::{PAGE_SIZE, PageSet, Ram, page_sum::page_sum};

/// A sum of every page as it was last sent or placed, kept up to date page by page, and of every *piece* of memory.
///
/// Both sides keep one. Where the pieces are equal in the end, every page was placed as it was last sent. Whether what was last
/// sent is what is in memory now is another question, which [`Self::changed`] answers.
///
/// A page's sum is half of its XXH3-64: one damaged page in four thousand million goes unnoticed. It guards against lost and
/// damaged pages, not against an attacker. Sums take 4 bytes a page, 1 MiB for each GiB of memory, of which the host backs only
/// what is not zero.
///
/// A page is taken in by one thread at a time; different pages by as many as there are.
#[derive(Debug)]
pub struct PageSums {
    ram: Ram,
    /// For every block one sum a page; 0 for a page of zeros.
    pages: Vec<Box<[AtomicU32]>>,
    /// For every block one sum a piece.
    pieces: Vec<Box<[AtomicU64]>>,
    piece_pages: u64,
    /// What the sum of a page of zeros would be.
    of_zeros: u32,
}

/// Pages of the smallest piece: 2 MiB, what one huge page of the host has.
const MIN_PIECE_PAGES: u64 = 512;
/// Most pieces of a machine, roughly; with more memory they become larger. They are sent while the machine is stopped.
const MAX_PIECES: u64 = 16_384;
/// Names of pieces in a message; more say nothing more.
const MAX_NAMES: usize = 8;

impl PageSums {
    /// For memory that is all zero on the other side, too.
    #[must_use]
    pub fn new(ram: Ram) -> Self {
        let total: u64 = ram.blocks().iter().map(crate::Block::pages).sum();
        let piece_pages = (total / MAX_PIECES).next_power_of_two().max(MIN_PIECE_PAGES);
        let pages = ram.blocks().iter().map(|block| zeroed(block.pages() as usize)).collect();
        let pieces = ram.blocks().iter().map(|block| {
            let count = block.pages().div_ceil(piece_pages);
            (0..count).map(|_| AtomicU64::new(0)).collect()
        });
        Self { pieces: pieces.collect(), pages, piece_pages, of_zeros: of_zeros(), ram }
    }

    /// Takes `pages` pages from `first_page` of `block` in as they are in memory now. Pages that are not in memory are ignored.
    pub fn take(&self, block: usize, first_page: u64, pages: u64) {
        self.update(block, first_page, pages, |page| self.sum(block, page));
    }

    /// Takes them in as pages of zeros.
    pub fn take_zeros(&self, block: usize, first_page: u64, pages: u64) {
        self.update(block, first_page, pages, |_| 0);
    }

    /// Leaves these pages of a block out of the comparison: they come later, or come again. Both sides leave out the same.
    pub fn leave_out(&self, block: usize, pages: &PageSet) {
        let mut from = 0;
        while let Some(first) = pages.next(from) {
            let end = pages.next_absent_within(first, pages.capacity()).unwrap_or(pages.capacity());
            self.take_zeros(block, first, end - first);
            from = end;
        }
    }

    /// Which of these pages, with a bit set for each that is to be looked at (`wanted`) and each that may have been touched
    /// (`touched`; the others are zero), are not in memory as they were taken in. Returns them as ranges of page numbers.
    #[must_use]
    pub fn changed(
        &self,
        block: usize,
        first_page: u64,
        pages: u64,
        wanted: impl Fn(u64) -> bool,
        touched: impl Fn(u64) -> bool,
    ) -> Vec<Range<u64>> {
        let mut changed: Vec<Range<u64>> = Vec::new();
        let Some(sums) = self.pages.get(block) else { return changed };
        let end = first_page.saturating_add(pages).min(sums.len() as u64);
        for page in (first_page..end).filter(|page| wanted(page - first_page)) {
            let now = if touched(page - first_page) { self.sum(block, page) } else { 0 };
            if now != sums[page as usize].load(Ordering::Relaxed) {
                match changed.last_mut() {
                    Some(range) if range.end == page => range.end += 1,
                    _ => changed.push(page..page + 1),
                }
            }
        }
        changed
    }

    /// The sums of all pieces, block after block.
    #[must_use]
    pub fn pieces(&self) -> Vec<u64> {
        self.pieces.iter().flatten().map(|piece| piece.load(Ordering::Relaxed)).collect()
    }

    /// Compares with the pieces of the other side.
    ///
    /// # Errors
    /// Where they differ, in words.
    pub fn compare(&self, others: &[u64]) -> Result<(), String> {
        let own = self.pieces();
        if own.len() != others.len() {
            return Err(format!("{} digests for {} pieces of memory", others.len(), own.len()));
        }
        let mut differ: Vec<(usize, Range<u64>)> = Vec::new();
        let places = self.pieces.iter().enumerate().flat_map(|(block, pieces)| {
            (0..pieces.len() as u64).map(move |piece| (block, piece * self.piece_pages))
        });
        for ((block, first), _) in places.zip(own.iter().zip(others)).filter(|(_, (own, other))| own != other)
        {
            let end = (first + self.piece_pages).min(self.pages[block].len() as u64);
            match differ.last_mut() {
                Some((same, range)) if *same == block && range.end == first => range.end = end,
                _ => differ.push((block, first..end)),
            }
        }
        if differ.is_empty() { Ok(()) } else { Err(self.names(differ.into_iter())) }
    }

    /// Where these pages are: names of blocks and guest-physical addresses.
    #[must_use]
    pub fn names(&self, ranges: impl Iterator<Item = (usize, Range<u64>)>) -> String {
        let name = |(block, range): (usize, Range<u64>)| {
            let block = &self.ram.blocks()[block];
            let address = |page: u64| block.guest_address() + page * PAGE_SIZE as u64;
            format!("{} {:#x}–{:#x}", block.name(), address(range.start), address(range.end) - 1)
        };
        let mut names: Vec<_> = ranges.map(name).collect();
        let more = names.len().saturating_sub(MAX_NAMES);
        names.truncate(MAX_NAMES);
        if more > 0 {
            names.push(format!("and {more} other places"));
        }
        names.join(", ")
    }

    fn update(&self, block: usize, first_page: u64, pages: u64, sum: impl Fn(u64) -> u32) {
        let (Some(sums), Some(pieces)) = (self.pages.get(block), self.pieces.get(block)) else { return };
        let end = first_page.saturating_add(pages).min(sums.len() as u64);
        let mut first = first_page;
        // Piece by piece: its sum is shared with other threads, and touched once.
        while first < end {
            let piece = first / self.piece_pages;
            let last = end.min((piece + 1) * self.piece_pages);
            let mut change = 0_u64;
            for page in first..last {
                let (new, place) = (sum(page), &sums[page as usize]);
                let old = place.load(Ordering::Relaxed);
                if old != new {
                    place.store(new, Ordering::Relaxed);
                    change = change.wrapping_add(weight(page, new)).wrapping_sub(weight(page, old));
                }
            }
            if change != 0 {
                pieces[piece as usize].fetch_add(change, Ordering::Relaxed);
            }
            first = last;
        }
    }

    fn sum(&self, block: usize, page: u64) -> u32 {
        let Some(segment) = self.ram.blocks().get(block).and_then(|block| block.segment(page, 1)) else {
            return 0;
        };
        // SAFETY: the segment is one page of a mapping that lives as long as `self.ram`.
        let sum = unsafe { page_sum(segment.address) };
        sum as u32 ^ self.of_zeros
    }
}

/// What a page adds to the sum of its piece: nothing if it is zero, otherwise number and sum well mixed, so that pages that
/// change places are noticed. The finaliser of splitmix64.
fn weight(page: u64, sum: u32) -> u64 {
    if sum == 0 {
        return 0;
    }
    let mut mixed = (page << 32) ^ u64::from(sum);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn of_zeros() -> u32 {
    let mut zeros = [0_u8; PAGE_SIZE];
    // SAFETY: as many bytes as a page has, which live to the end of the call.
    unsafe { page_sum(NonNull::from(&mut zeros).cast()) as u32 }
}

/// Zeros that the host backs when they are written.
fn zeroed(count: usize) -> Box<[AtomicU32]> {
    let plain = Box::into_raw(vec![0_u32; count].into_boxed_slice());
    // SAFETY: an `AtomicU32` is laid out as a `u32` (std's documentation of the type), and nobody else has the box.
    unsafe { Box::from_raw(plain as *mut [AtomicU32]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout};
    use vm_memory::{Bytes, GuestAddress};

    const MIB: u64 = 1 << 20;
    const PAGES: u64 = 256;

    fn ram() -> Ram {
        let block =
            |name: &str, guest_address, bytes| BlockLayout { name: name.into(), guest_address, bytes };
        Ram::allocate(&[block("ram.low", 0, 5 * MIB), block("ram.high", 4096 * MIB, MIB)], Backing::Anonymous)
            .unwrap()
    }

    fn write(ram: &Ram, address: u64, value: u8) {
        ram.memory().write_obj(value, GuestAddress(address)).unwrap();
    }

    #[test]
    fn sums_do_not_depend_on_the_way_to_a_page_only_on_what_is_in_it() {
        let (here, there) = (ram(), ram());
        let (sums, others) = (PageSums::new(here.clone()), PageSums::new(there.clone()));
        for value in [9, 0, 7] {
            write(&here, 5000, value);
            sums.take(0, 0, 5 * PAGES);
        }
        assert!(others.compare(&sums.pieces()).is_err());
        write(&there, 5000, 7);
        others.take(0, 1, 1);
        others.take_zeros(0, 2, 100);
        assert_eq!(others.compare(&sums.pieces()), Ok(()));
    }

    /// What peers compare: another value here is another protocol version.
    #[test]
    fn pieces_of_known_memory_are_what_peers_of_this_protocol_version_have() {
        let ram = ram();
        let sums = PageSums::new(ram.clone());
        write(&ram, 5000, 7);
        write(&ram, 4 * MIB + 77, 255);
        sums.take(0, 0, 5 * PAGES);
        assert_eq!(sums.pieces(), [0x074a_cd3b_d99b_618c, 0, 0xc42a_9b2d_06d6_5b27, 0]);
    }

    #[test]
    fn a_difference_is_named_by_block_and_addresses() {
        let ram = ram();
        let (sums, others) = (PageSums::new(ram.clone()), PageSums::new(ram.clone()));
        write(&ram, 4 * MIB + 77, 1);
        write(&ram, 4096 * MIB, 1);
        sums.take(0, 0, 5 * PAGES);
        sums.take(1, 0, PAGES);
        let places = others.compare(&sums.pieces()).unwrap_err();
        assert_eq!(places, "ram.low 0x400000–0x4fffff, ram.high 0x100000000–0x1000fffff");
    }

    #[test]
    fn pages_that_change_places_are_a_difference() {
        let (here, there) = (ram(), ram());
        let (sums, others) = (PageSums::new(here.clone()), PageSums::new(there.clone()));
        write(&here, 0, 1);
        write(&here, 4096, 2);
        write(&there, 0, 2);
        write(&there, 4096, 1);
        sums.take(0, 0, 2);
        others.take(0, 0, 2);
        assert!(others.compare(&sums.pieces()).is_err());
    }

    #[test]
    fn a_write_after_a_page_was_taken_in_is_found() {
        let ram = ram();
        let sums = PageSums::new(ram.clone());
        sums.take(0, 0, 5 * PAGES);
        write(&ram, 7 * 4096, 1);
        write(&ram, 8 * 4096, 1);
        write(&ram, 600 * 4096, 1);
        assert_eq!(sums.changed(0, 0, 5 * PAGES, |_| true, |_| true), [7..9, 600..601]);
        assert_eq!(sums.changed(0, 5, 100, |page| page != 2, |_| true).first(), Some(&(8..9)));
        assert!(
            sums.changed(0, 0, 5 * PAGES, |_| true, |_| false).is_empty(),
            "what was never touched is zero"
        );
        sums.take(0, 7, 2);
        assert_eq!(sums.changed(0, 0, 100, |_| true, |_| true), []);
        let went = sums.changed(0, 7, 2, |_| true, |_| false);
        assert_eq!(went.first(), Some(&(7..9)), "pages that went are found too");
    }

    #[test]
    fn pages_outside_of_memory_are_ignored() {
        let sums = PageSums::new(ram());
        sums.take(0, u64::MAX, 9);
        sums.take(7, 0, 9);
        sums.take_zeros(1, PAGES - 1, 100);
        assert!(sums.pieces().iter().all(|piece| *piece == 0));
        assert!(sums.compare(&[0]).is_err());
    }
}
