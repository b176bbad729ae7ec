//! How much of guest memory changes, from a sample of its pages.
#![expect(unsafe_code, reason = "pages are summed up where they lie")]

use std::ptr;

use crate::{Block, PAGE_SIZE, Ram, Segment, Touched, page_sum::page_sum, zero::is_zero_page};

/// Pages drawn from all of guest memory, as they were at one moment. Memory is divided into pieces of one size, and one page is drawn
/// from each: no part of memory is missed, however the guest uses it.
///
/// Looking takes nothing from the guest: no page is protected, none that was never touched is made, and the dirty log is left alone. A
/// page that the guest writes while it is summed up counts as changed.
#[derive(Debug)]
pub struct Sample {
    pages: Vec<Drawn>,
}

#[derive(Debug)]
struct Drawn {
    block: usize,
    page: u64,
    /// 0 for a page of zeros.
    sum: u64,
}

/// Pages of a GiB.
const GIB_PAGES: u64 = (1 << 30) / PAGE_SIZE as u64;

impl Sample {
    /// Draws `per_gib` pages from each GiB, at least one from each block, and looks at them. Equal seeds draw equal pages.
    #[must_use]
    pub fn draw(touched: &mut Touched, per_gib: u64, seed: u64) -> Self {
        let ram = touched.ram().clone();
        let stride = (GIB_PAGES / per_gib.max(1)).max(1);
        let mut state = seed;
        let mut pages = Vec::new();
        for (block, info) in ram.blocks().iter().enumerate() {
            for first in (0..info.pages()).step_by(usize::try_from(stride).unwrap_or(usize::MAX)) {
                let page = first + next(&mut state) % stride.min(info.pages() - first);
                pages.push(Drawn { block, page, sum: look(&ram, touched, block, page) });
            }
        }
        Self { pages }
    }

    /// How many pages were drawn.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether none was: there is no memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// How many of them were zero, or never touched.
    #[must_use]
    pub fn empty(&self) -> usize {
        self.pages.iter().filter(|drawn| drawn.sum == 0).count()
    }

    /// Copies of at most `most` of the others, one after the other, taken from all of memory.
    #[must_use]
    pub fn copies(&self, touched: &mut Touched, most: usize) -> Vec<u8> {
        let full: Vec<&Drawn> = self.pages.iter().filter(|drawn| drawn.sum != 0).collect();
        let step = full.len().div_ceil(most.max(1)).max(1);
        let ram = touched.ram().clone();
        let mut copies = Vec::new();
        for drawn in full.into_iter().step_by(step) {
            // A page that the guest gave back meanwhile is not made again by this.
            if let Some(segment) = touched_page(&ram, touched, drawn.block, drawn.page) {
                let at = copies.len();
                copies.resize(at + PAGE_SIZE, 0);
                // SAFETY: the segment is one page of a mapping that lives as long as `ram`, and the copy is as long. The guest may
                // write meanwhile: what is copied is some mixture of bytes, each of which was there.
                unsafe {
                    ptr::copy_nonoverlapping(segment.address.as_ptr(), copies[at..].as_mut_ptr(), PAGE_SIZE);
                };
            }
        }
        copies
    }

    /// How many of them are not as they were.
    #[must_use]
    pub fn changed(&self, touched: &mut Touched) -> usize {
        let ram = touched.ram().clone();
        let differs = |drawn: &&Drawn| look(&ram, touched, drawn.block, drawn.page) != drawn.sum;
        self.pages.iter().filter(differs).count()
    }
}

/// The sum of a page, 0 for one that is zero or was never touched.
fn look(ram: &Ram, touched: &mut Touched, block: usize, page: u64) -> u64 {
    let Some(segment) = touched_page(ram, touched, block, page) else { return 0 };
    // SAFETY: the segment is one page of a mapping that lives as long as `ram`.
    unsafe { if is_zero_page(segment.address) { 0 } else { page_sum(segment.address) } }
}

/// Where a page is; `None` for one that was never touched.
fn touched_page(ram: &Ram, touched: &mut Touched, block: usize, page: u64) -> Option<Segment> {
    let mut word = Vec::new();
    touched.look(block, page, 1, &mut word);
    let segment = ram.blocks().get(block).and_then(|block: &Block| block.segment(page, 1));
    segment.filter(|_| word.first().is_some_and(|word| word & 1 != 0))
}

/// The next number of splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout};
    use vm_memory::{Bytes, GuestAddress};

    const PAGES: u64 = 16_384;

    fn ram(backing: Backing) -> Ram {
        let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: PAGES * 4096 };
        Ram::allocate(&[layout], backing).unwrap()
    }

    fn write(ram: &Ram, pages: impl Iterator<Item = u64>, value: u8) {
        pages.for_each(|page| ram.memory().write_obj(value, GuestAddress(page * 4096 + 77)).unwrap());
    }

    #[test]
    fn what_was_written_with_something_new_has_changed_and_nothing_else() {
        let ram = ram(Backing::Memfd);
        write(&ram, 0..PAGES / 2, 1);
        let mut touched = Touched::new(ram.clone());
        let sample = Sample::draw(&mut touched, 4096, 7);
        assert_eq!((sample.len(), sample.changed(&mut touched)), (256, 0));
        write(&ram, 0..PAGES / 4, 1);
        assert_eq!(sample.changed(&mut touched), 0, "the same was written");
        write(&ram, 0..PAGES / 4, 2);
        assert_eq!(sample.changed(&mut touched), 64);
        write(&ram, PAGES / 2..PAGES, 2);
        assert_eq!(sample.changed(&mut touched), 64 + 128);
    }

    #[test]
    fn memory_that_was_never_touched_stays_so() {
        let ram = ram(Backing::Memfd);
        let mut touched = Touched::new(ram.clone());
        let sample = Sample::draw(&mut touched, 4096, 1);
        assert_eq!(sample.changed(&mut touched), 0);
        let mut words = Vec::new();
        touched.look(0, 0, PAGES, &mut words);
        assert!(words.iter().all(|word| *word == 0));
    }

    #[test]
    fn another_seed_draws_other_pages_and_every_block_has_one() {
        let layout =
            |name: &str, guest_address| BlockLayout { name: name.into(), guest_address, bytes: 4096 };
        let small = Ram::allocate(&[layout("a", 0), layout("b", 1 << 32)], Backing::Anonymous).unwrap();
        assert_eq!(Sample::draw(&mut Touched::new(small), 512, 3).len(), 2);
        let mut touched = Touched::new(ram(Backing::Anonymous));
        let mut drawn =
            |seed| Sample::draw(&mut touched, 4096, seed).pages.iter().map(|it| it.page).collect::<Vec<_>>();
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
