use std::io;

use vm_memory::{GuestMemoryBackend, GuestRegionMmap, MmapRegion, bitmap::AtomicBitmap};

use crate::{DirtyLog, PageSet, Ram};

/// What is left to send: for every block the pages that were written since they were last sent, by vCPUs (KVM's log) or by
/// the VMM's own threads (the bitmap of [`GuestMemory`](crate::GuestMemory)).
#[derive(Debug)]
pub struct DirtySet {
    blocks: Vec<PageSet>,
}

impl DirtySet {
    /// Everything is dirty: the set for the first round. What the VMM wrote up to now is part of it, so its bitmap
    /// starts empty. Call it after logging was started.
    #[must_use]
    pub fn all(ram: &Ram) -> Self {
        for region in ram.memory().iter() {
            log_of(region).reset();
        }
        let blocks = ram.blocks().iter().map(|block| {
            let mut set = PageSet::new(block.pages());
            set.fill();
            set
        });
        Self { blocks: blocks.collect() }
    }

    /// Replaces the set by what was written since it was last fetched and cleared. Answers how many pages that is.
    ///
    /// All pages of the set before must have been dealt with: it is overwritten.
    ///
    /// # Errors
    /// The log cannot be read; the set is then incomplete, and the attempt must be given up.
    pub fn fetch(&mut self, ram: &Ram, log: &dyn DirtyLog) -> io::Result<u64> {
        for (index, (set, region)) in self.blocks.iter_mut().zip(ram.memory().iter()).enumerate() {
            log.fetch(index, set.words_mut())?;
            merge(log_of(region), set.words_mut());
        }
        Ok(self.blocks.iter().map(PageSet::count).sum())
    }

    /// The set of one block.
    #[must_use]
    pub fn block(&self, index: usize) -> &PageSet {
        &self.blocks[index]
    }

    /// How many blocks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there are no blocks at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// The bitmap that the VMM's writes to `region` are marked in.
fn log_of(region: &GuestRegionMmap<AtomicBitmap>) -> &AtomicBitmap {
    MmapRegion::bitmap(region)
}

/// Adds what the VMM wrote, and forgets it there.
fn merge(written: &AtomicBitmap, into: &mut [u64]) {
    for (word, written) in into.iter_mut().zip(written.get_and_reset()) {
        *word |= written;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout, PAGE_SIZE};
    use vm_memory::{Bytes, GuestAddress};

    /// A log in which page 3 of every block is always dirty.
    struct PageThree;
    impl DirtyLog for PageThree {
        fn start(&self) -> io::Result<()> {
            Ok(())
        }
        fn stop(&self) -> io::Result<()> {
            Ok(())
        }
        fn fetch(&self, _: usize, bits: &mut [u64]) -> io::Result<()> {
            bits.fill(0);
            bits[0] = 1 << 3;
            Ok(())
        }
        fn clear(&self, _: usize, _: u64, _: u64, _: &[u64]) -> io::Result<()> {
            Ok(())
        }
    }

    fn ram() -> Ram {
        let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: 100 * PAGE_SIZE as u64 };
        Ram::allocate(&[layout], Backing::Anonymous).unwrap()
    }

    #[test]
    fn writes_of_the_vmm_are_added_to_the_log_once() {
        let ram = ram();
        let mut set = DirtySet::all(&ram);
        assert_eq!(set.block(0).count(), 100);
        ram.memory().write_slice(&[1; 2 * PAGE_SIZE], GuestAddress(70 * PAGE_SIZE as u64 + 1)).unwrap();
        assert_eq!(set.fetch(&ram, &PageThree).unwrap(), 4);
        assert!([3, 70, 71, 72].iter().all(|&page| set.block(0).contains(page)));
        assert_eq!(set.fetch(&ram, &PageThree).unwrap(), 1);
    }

    #[test]
    fn writes_before_the_first_round_are_forgotten() {
        let ram = ram();
        ram.memory().write_obj(1_u8, GuestAddress(0)).unwrap();
        let mut set = DirtySet::all(&ram);
        assert_eq!(set.fetch(&ram, &PageThree).unwrap(), 1);
    }
}
