use std::ptr::NonNull;

use crate::{PAGE_SIZE, PageSet, Ram};

/// A piece of this process's memory that bytes are sent from or received into.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where it begins.
    pub address: NonNull<u8>,
    /// How long it is, in bytes.
    pub bytes: usize,
}

/// Places pages that arrive into fresh guest memory, and remembers which ones did.
///
/// Fresh memory is zero, so a zero page that arrives for a page that nothing was placed in is already there: it is
/// not touched, and the host does not spend memory on it.
#[derive(Debug)]
pub struct Placer {
    ram: Ram,
    placed: Vec<PageSet>,
}

impl Placer {
    /// For memory that nothing was written to since it was allocated.
    #[must_use]
    pub fn new(ram: Ram) -> Self {
        let placed = ram.blocks().iter().map(|block| PageSet::new(block.pages())).collect();
        Self { ram, placed }
    }

    /// Where `pages` pages from `first_page` of `block` belong. They count as placed from here on.
    /// `None` if there is no such block or the pages are not all in it.
    #[must_use]
    pub fn place(&self, block: u16, first_page: u64, pages: u32) -> Option<Segment> {
        let segment = self.segment(block, first_page, pages)?;
        self.placed[usize::from(block)].insert_range(first_page, u64::from(pages));
        Some(segment)
    }

    /// Makes `pages` pages from `first_page` of `block` zero. Returns how many of them had to be written; `None` as in
    /// [`Self::place`].
    #[must_use]
    pub fn place_zeros(&self, block: u16, first_page: u64, pages: u32) -> Option<u64> {
        let segment = self.segment(block, first_page, pages)?;
        let placed = &self.placed[usize::from(block)];
        let mut written = 0;
        for index in 0..u64::from(pages) {
            if placed.contains(first_page + index) {
                // SAFETY: `segment` was checked to lie in the block, whose mapping lives as long as `self.ram`. Nothing
                // else writes a page that is being received: the machine does not run yet, and a round sends a page once.
                unsafe {
                    segment.address.add(index as usize * PAGE_SIZE).as_ptr().write_bytes(0, PAGE_SIZE);
                }
                written += 1;
            }
        }
        Some(written)
    }

    /// How many pages a block has; `None` if there is no such block.
    #[must_use]
    pub fn block_pages(&self, block: u16) -> Option<u64> {
        self.ram.blocks().get(usize::from(block)).map(crate::Block::pages)
    }

    fn segment(&self, block: u16, first_page: u64, pages: u32) -> Option<Segment> {
        self.ram.blocks().get(usize::from(block))?.segment(first_page, u64::from(pages))
    }
}

impl crate::Block {
    /// Where `pages` pages from `first_page` on are mapped; `None` if they are not all in the block.
    #[must_use]
    pub fn segment(&self, first_page: u64, pages: u64) -> Option<Segment> {
        if first_page.checked_add(pages)? > self.pages() {
            return None;
        }
        let offset = usize::try_from(first_page).ok()? * PAGE_SIZE;
        let bytes = usize::try_from(pages).ok()? * PAGE_SIZE;
        // SAFETY: offset ≤ size of the block, checked above; the mapping is one allocation.
        Some(Segment { address: unsafe { self.host_address().add(offset) }, bytes })
    }
}

// SAFETY: a segment is an address and a length; whoever reads or writes through it must know that it is mapped, on
// whichever thread that is.
unsafe impl Send for Segment {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout};
    use vm_memory::{Bytes, GuestAddress};

    fn placer() -> Placer {
        let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: 8 * PAGE_SIZE as u64 };
        Placer::new(Ram::allocate(&[layout], Backing::Anonymous).unwrap())
    }

    #[test]
    fn a_zero_page_is_written_only_over_a_page_that_came_before() {
        let placer = placer();
        let segment = placer.place(0, 2, 1).unwrap();
        // SAFETY: the segment is one page of live memory.
        unsafe { segment.address.as_ptr().write_bytes(7, segment.bytes) };
        assert_eq!(placer.place_zeros(0, 0, 8), Some(1));
        let byte: u8 = placer.ram.memory().read_obj(GuestAddress(2 * PAGE_SIZE as u64 + 9)).unwrap();
        assert_eq!(byte, 0);
    }

    #[test]
    fn pages_outside_of_memory_have_no_place() {
        let placer = placer();
        assert!(placer.place(1, 0, 1).is_none());
        assert!(placer.place(0, 7, 2).is_none());
        assert!(placer.place_zeros(0, u64::MAX, 2).is_none());
        assert!(placer.place(0, 7, 1).is_some());
    }
}
