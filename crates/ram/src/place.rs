use std::{
    io,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use vm_memory::{FileOffset, GuestMemoryBackend, GuestMemoryRegion};

use crate::{Backing, PAGE_SIZE, PageSet, Ram, Segment, Userfaultfd, userfault::Trap, written};

/// Places pages that arrive into fresh guest memory, and remembers which ones did.
///
/// Fresh memory is zero, so a zero page that arrives for a page that nothing was placed in is already there: it is
/// not touched, and the host does not spend memory on it.
#[derive(Debug)]
pub struct Placer {
    ram: Ram,
    placed: Vec<PageSet>,
    /// Of each block, where a page that the block does not have yet is better put into its file.
    files: Vec<Option<FileOffset>>,
    /// By what such pages are made, where there is one; else they are written.
    maker: Option<Userfaultfd>,
    is_released: AtomicBool,
}

impl Placer {
    /// For memory that nothing was written to since it was allocated. With `maker` pages of a memfd are made and mapped by one call; without,
    /// they are written, and mapped when they are touched.
    ///
    /// With it, nobody may touch a page that was not placed before [`Self::release`], or has to wait until then.
    #[must_use]
    pub fn new(ram: Ram, maker: Option<Userfaultfd>) -> Self {
        let placed = ram.blocks().iter().map(|block| PageSet::new(block.pages())).collect();
        // Of huge pages there is no writing, and anonymous memory has no file.
        let is_written = ram.backing() == Some(Backing::Memfd);
        let file = |file: Option<&FileOffset>| file.filter(|_| is_written).cloned();
        let files: Vec<_> = ram.memory().iter().map(|region| file(region.file_offset())).collect();
        let mut placer = Self { ram, placed, files, maker, is_released: AtomicBool::new(false) };
        let registers = |maker: &Userfaultfd| {
            placer.segments_of_files().all(|segment| maker.register(segment, Trap::Missing).is_ok())
        };
        if !placer.maker.as_ref().is_some_and(registers) {
            // Some of it may be: what is not refuses harmlessly.
            let _ = placer.release();
            placer.maker = None;
        }
        placer
    }

    /// Everything was placed: whoever touches a page from here on does not wait, and a page that did not come is zero. Who waits for one already
    /// goes on.
    ///
    /// # Errors
    /// The kernel has no memory to let all of it go: whoever touches a page that did not come may wait for ever.
    pub fn release(&self) -> io::Result<()> {
        let Some(maker) = &self.maker else { return Ok(()) };
        if self.is_released.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // All of them, whatever comes of one.
        let let_go = |segment: Segment| maker.unregister(segment).and(maker.wake(segment));
        self.segments_of_files().map(let_go).fold(Ok(()), io::Result::and)
    }

    /// The memory of all blocks whose pages are put into their file.
    fn segments_of_files(&self) -> impl Iterator<Item = Segment> {
        let blocks = self.ram.blocks().iter().zip(&self.files).filter(|(_, file)| file.is_some());
        blocks.filter_map(|(block, _)| block.segment(0, block.pages()))
    }

    /// Of the `pages` pages from `first_page` on, at least one, how many are to be placed in one way: by [`Self::put`] if they are fresh pages of a file
    /// (true), else where [`Self::place`] says. `None` as there.
    pub(crate) fn alike(&self, block: u16, first_page: u64, pages: u32) -> Option<(bool, u32)> {
        self.segment(block, first_page, pages)?;
        if self.files[usize::from(block)].is_none() || pages == 0 {
            return Some((false, pages));
        }
        let (placed, end) = (&self.placed[usize::from(block)], first_page + u64::from(pages));
        let next = if placed.contains(first_page) {
            placed.next_absent_within(first_page, end)
        } else {
            placed.next_within(first_page, end)
        };
        // No more than `pages`.
        Some((!placed.contains(first_page), (next.unwrap_or(end) - first_page) as u32))
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

    /// Puts whole pages, whose contents are `bytes`, from `first_page` of `block` on. `None` as in [`Self::place`].
    ///
    /// # Errors
    /// The host has no memory for them.
    pub fn put(&self, block: u16, first_page: u64, bytes: &[u8]) -> io::Result<Option<()>> {
        let (mut page, mut rest) = (first_page, &bytes[..bytes.len() / PAGE_SIZE * PAGE_SIZE]);
        while !rest.is_empty() {
            let Ok(pages) = u32::try_from(rest.len() / PAGE_SIZE) else { return Ok(None) };
            let Some((fresh, pages)) = self.alike(block, page, pages) else { return Ok(None) };
            let (own, others) = rest.split_at(pages as usize * PAGE_SIZE);
            match &self.files[usize::from(block)] {
                // Marked afterwards: another thread that brings the same page must not touch it before it is made.
                Some(file) if fresh => self.make(file, block, page, own)?,
                _ => self.copy(block, page, own),
            }
            if self.place(block, page, pages).is_none() {
                return Ok(None);
            }
            (page, rest) = (page + u64::from(pages), others);
        }
        Ok(Some(()))
    }

    /// Puts whole pages, which the block does not have, into its file.
    fn make(&self, file: &FileOffset, block: u16, page: u64, bytes: &[u8]) -> io::Result<()> {
        let pages = page..page + (bytes.len() / PAGE_SIZE) as u64;
        let write = |pages: &Range<u64>, bytes: &[u8]| written::write(file, pages, bytes);
        let memory = |pages: Range<u64>| {
            self.ram.blocks()[usize::from(block)].segment(pages.start, pages.end - pages.start)
        };
        match &self.maker {
            Some(maker) => written::make(maker, memory, &pages, bytes, write).1,
            None => write(&pages, bytes).1,
        }
    }

    /// Copies whole pages to where they are mapped, as far as they are in the block.
    fn copy(&self, block: u16, page: u64, bytes: &[u8]) {
        let Some(segment) = self.segment(block, page, (bytes.len() / PAGE_SIZE) as u32) else { return };
        let whole = &bytes[..segment.bytes];
        // SAFETY: the segment is as long as `whole`, and mapped as long as `self.ram` lives. They do not overlap: `bytes` is borrowed,
        // and nothing borrows guest memory. Nothing else writes a page that is being received, as in `place_zeros`.
        unsafe { segment.address.as_ptr().copy_from_nonoverlapping(whole.as_ptr(), whole.len()) };
    }

    /// Whether something was placed in a page, of which what comes now can be the difference.
    #[must_use]
    pub fn has(&self, block: u16, page: u64) -> bool {
        self.placed
            .get(usize::from(block))
            .is_some_and(|placed| page < placed.capacity() && placed.contains(page))
    }

    /// Changes `bytes` of a page from byte `offset` on. `None` if they are not within a page of this memory.
    #[must_use]
    pub fn patch(&self, block: u16, page: u64, offset: usize, bytes: &[u8]) -> Option<()> {
        let segment = self.segment(block, page, 1)?;
        if offset.checked_add(bytes.len())? > segment.bytes {
            return None;
        }
        // SAFETY: the bytes are within the page, by the check above; for the rest as in `put`.
        unsafe { segment.address.as_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(())
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

impl Drop for Placer {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.release();
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

impl crate::Block {
    /// Copies a page. While the guest writes it, the copy is a mixture of what was there before and after, of which every byte is of one
    /// of them. Returns whether there is such a page.
    #[must_use]
    pub fn copy_page(&self, page: u64, copy: &mut [u8; PAGE_SIZE]) -> bool {
        let Some(segment) = self.segment(page, 1) else { return false };
        // SAFETY: the segment is a page of a mapping that lives as long as the `Ram` that the block was borrowed from. It does not overlap
        // `copy`: nothing borrows guest memory. Who writes it meanwhile is a vCPU or a device of the guest, outside of what this
        // program's own references promise; bytes are copied, of which every value is valid.
        unsafe { segment.address.as_ptr().copy_to_nonoverlapping(copy.as_mut_ptr(), PAGE_SIZE) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout};
    use vm_memory::{Bytes, GuestAddress};

    fn placer() -> Placer {
        placer_of(Backing::Anonymous)
    }

    fn placer_of(backing: Backing) -> Placer {
        let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: 8 * PAGE_SIZE as u64 };
        Placer::new(Ram::allocate(&[layout], backing).unwrap(), None)
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
    fn pages_are_put_and_changed_where_they_belong_and_nowhere_else() {
        for backing in [Backing::Anonymous, Backing::Memfd] {
            put_and_change(&placer_of(backing));
        }
    }

    fn put_and_change(placer: &Placer) {
        let byte = |at: usize| placer.ram.memory().read_obj::<u8>(GuestAddress(at as u64)).unwrap();
        assert!(!placer.has(0, 3) && placer.put(0, 3, &[5; 2 * PAGE_SIZE]).unwrap().is_some());
        assert_eq!([2, 3, 4, 5].map(|page| placer.has(0, page)), [false, true, true, false]);
        placer.patch(0, 4, PAGE_SIZE - 8, &[9; 8]).unwrap();
        let bytes = [3 * PAGE_SIZE - 1, 3 * PAGE_SIZE, 5 * PAGE_SIZE - 9, 5 * PAGE_SIZE - 1, 5 * PAGE_SIZE];
        assert_eq!(bytes.map(byte), [0, 5, 5, 9, 0]);
        for (block, page, offset) in [(0, 4, PAGE_SIZE - 7), (0, 4, usize::MAX), (0, 8, 0), (1, 0, 0)] {
            assert!(placer.patch(block, page, offset, &[1; 8]).is_none());
        }
        for (block, page) in [(0, 7), (1, 0), (0, u64::MAX)] {
            assert!(placer.put(block, page, &[1; 2 * PAGE_SIZE]).unwrap().is_none());
        }
        assert!(!placer.has(1, 0) && !placer.has(0, 8) && !placer.has(0, u64::MAX));
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        use std::{fs::File, os::fd::AsRawFd};
        let mut placer = placer_of(Backing::Memfd);
        let file = placer.files[0].take().unwrap();
        let readable = File::open(format!("/proc/self/fd/{}", file.file().as_raw_fd())).unwrap();
        placer.files[0] = Some(FileOffset::new(readable, file.start()));
        assert!(placer.put(0, 2, &[1; PAGE_SIZE]).is_err());
    }

    #[test]
    fn a_page_that_is_not_there_is_not_copied() {
        let (placer, mut copy) = (placer(), [1; PAGE_SIZE]);
        placer.put(0, 7, &[6; PAGE_SIZE]).unwrap().unwrap();
        let block = &placer.ram.blocks()[0];
        assert!(block.copy_page(7, &mut copy) && copy == [6; PAGE_SIZE]);
        assert!(!block.copy_page(8, &mut copy));
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
