use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::SeekFrom;
#[cfg(not(test))]
use rustix::fs::seek;
#[cfg(test)]
use tests::seek;
use vm_memory::GuestMemoryBackend;

use crate::{Backing, PAGE_SIZE, Ram};

/// Tells pages that were never touched from others, without touching them.
///
/// Memory that nobody has touched is zero and costs the host nothing. Reading it to find that out would change that: reading
/// a page of a memfd allocates it. A machine with little of its memory in use must not fill the host when it moves.
#[derive(Clone, Debug)]
pub struct Touched {
    ram: Ram,
    /// `/proc/self/pagemap`, where memory is anonymous and the file is there.
    pagemap: Option<Arc<File>>,
    entries: Vec<u8>,
    /// Of each block, where its file was last seen to have data, in bytes: up to a hole, or the end. Clones share it.
    data: Arc<[Mutex<Range<u64>>]>,
}

/// Bytes of an entry of the pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst).
const ENTRY_BYTES: usize = 8;
/// Bits 63 and 62 of an entry: the page is present, or swapped out.
const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;

impl Touched {
    /// For the memory of one machine. Where the host cannot tell, all memory counts as touched.
    #[must_use]
    pub fn new(ram: Ram) -> Self {
        let pagemap = (ram.backing() == Some(Backing::Anonymous))
            .then(|| File::open("/proc/self/pagemap").ok())
            .flatten();
        let data = ram.blocks().iter().map(|_| Mutex::new(0..0)).collect();
        Self { ram, pagemap: pagemap.map(Arc::new), entries: Vec::new(), data }
    }

    /// The memory.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Overwrites `touched`, one bit a page from `first_page` of `block` on: set where a page may have been touched.
    ///
    /// The answer is true for the moment of looking. To send memory by it, clear the pages' dirty bits before: a page that is
    /// touched after the look is then in the next log.
    pub fn look(&mut self, block: usize, first_page: u64, pages: u64, touched: &mut Vec<u64>) {
        touched.clear();
        touched.resize(usize::try_from(pages.div_ceil(64)).unwrap_or(0), 0);
        let looked = match self.ram.backing() {
            Some(Backing::Anonymous) => self.look_at_pagemap(block, first_page, pages, touched),
            Some(Backing::Memfd) => self.look_for_data(block, first_page, pages, touched),
            // Huge pages are reserved anyway, and hugetlbfs does not tell holes. Memory of the caller's may be a file that had
            // contents before anybody touched it.
            Some(Backing::Hugetlb2M) | None => Err(io::ErrorKind::Unsupported.into()),
        };
        if looked.is_err() {
            touched.fill(u64::MAX);
        }
    }

    fn look_at_pagemap(
        &mut self,
        block: usize,
        first: u64,
        pages: u64,
        touched: &mut [u64],
    ) -> io::Result<()> {
        let pagemap = self.pagemap.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let segment = self.ram.blocks()[block].segment(first, pages).ok_or(io::ErrorKind::InvalidInput)?;
        let count = segment.bytes / PAGE_SIZE;
        self.entries.resize(count * ENTRY_BYTES, 0);
        let offset = segment.address.as_ptr().addr() / PAGE_SIZE * ENTRY_BYTES;
        pagemap.read_exact_at(&mut self.entries, offset as u64)?;
        for (page, entry) in self.entries.as_chunks::<ENTRY_BYTES>().0.iter().enumerate() {
            if u64::from_ne_bytes(*entry) & PRESENT_OR_SWAPPED != 0 {
                touched[page / 64] |= 1 << (page % 64);
            }
        }
        Ok(())
    }

    fn look_for_data(&self, block: usize, first: u64, pages: u64, touched: &mut [u64]) -> io::Result<()> {
        let region = self.ram.memory().iter().nth(block).ok_or(io::ErrorKind::InvalidInput)?;
        let file =
            vm_memory::GuestMemoryRegion::file_offset(region).ok_or(io::ErrorKind::Unsupported)?.file();
        let (mut at, end) = (first * PAGE_SIZE as u64, (first + pages) * PAGE_SIZE as u64);
        // The kernel goes from data on to the next hole, page by page and however far that is, and others wait meanwhile. So where that is stays
        // known: all looks together pass each page once. What became a hole since counts as touched.
        let known = self.data.get(block).ok_or(io::ErrorKind::InvalidInput)?;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        while at < end {
            if !known.contains(&at) {
                at = match seek(file, SeekFrom::Data(at)) {
                    Ok(data) if data < end => data,
                    // No data from here to the end of the file.
                    Ok(_) | Err(rustix::io::Errno::NXIO) => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                if !known.contains(&at) {
                    *known = at..seek(file, SeekFrom::Hole(at))?;
                }
            }
            let until = known.end.min(end);
            for page in at / PAGE_SIZE as u64 - first..until.div_ceil(PAGE_SIZE as u64) - first {
                touched[(page / 64) as usize] |= 1 << (page % 64);
            }
            at = until;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::BlockLayout;
    use vm_memory::{Bytes, GuestAddress};

    const PAGES: u64 = 4096;

    thread_local! {
        static SEEKS: Cell<u64> = const { Cell::new(0) };
    }

    /// As rustix's, and counts.
    pub(super) fn seek(file: &File, to: SeekFrom) -> rustix::io::Result<u64> {
        SEEKS.set(SEEKS.get() + 1);
        rustix::fs::seek(file, to)
    }

    #[test]
    fn many_looks_at_a_memfd_without_holes_pass_it_once() {
        let layout =
            BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: PAGES * PAGE_SIZE as u64 };
        let ram = Ram::allocate(&[layout], Backing::Memfd).unwrap();
        ram.memory().write_slice(&vec![1; PAGES as usize * PAGE_SIZE], GuestAddress(0)).unwrap();
        let (touched, mut words) = (Touched::new(ram), Vec::new());
        for first in (0..PAGES).step_by(64) {
            touched.clone().look(0, first, 64, &mut words);
            assert_eq!(words, [u64::MAX]);
        }
        // Data once, and once the hole behind it.
        assert_eq!(SEEKS.get(), 2);
    }

    fn touched_after_writing(backing: Backing, pages: &[u64]) -> Vec<u64> {
        let layout =
            BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: PAGES * PAGE_SIZE as u64 };
        let ram = Ram::allocate(&[layout], backing).unwrap();
        for page in pages {
            ram.memory().write_obj(1_u8, GuestAddress(page * PAGE_SIZE as u64 + 9)).unwrap();
        }
        let mut words = Vec::new();
        Touched::new(ram).look(0, 1024, 1024, &mut words);
        (0..1024)
            .filter(|page| words[page / 64] & (1 << (page % 64)) != 0)
            .map(|page| page as u64 + 1024)
            .collect()
    }

    #[test]
    fn pages_of_a_memfd_that_were_written_are_told_from_holes() {
        let pages = [3, 1024, 1030, 1031, 2047, 2048];
        assert_eq!(touched_after_writing(Backing::Memfd, &pages), [1024, 1030, 1031, 2047]);
    }

    #[test]
    fn an_anonymous_page_that_was_written_always_counts_as_touched() {
        let found = touched_after_writing(Backing::Anonymous, &[1500]);
        // With transparent huge pages its neighbours are touched too.
        assert!(found.contains(&1500), "{found:?}");
        assert!(touched_after_writing(Backing::Anonymous, &[]).is_empty());
    }
}
