use std::io;

use vm_memory::{GuestMemoryBackend, GuestRegionMmap, MmapRegion, bitmap::AtomicBitmap};

use crate::{DirtyLog, PageSet, Ram};

/// What is left to send: for every block the pages that were written since they were last sent, by vCPUs (KVM's log) or by
/// the VMM's own threads (the bitmap of [`GuestMemory`](crate::GuestMemory)).
#[derive(Debug)]
pub struct DirtySet {
    blocks: Vec<PageSet>,
    /// What of it the VMM wrote, for every block the words with at least one bit: its bitmap has forgotten them.
    written: Vec<Vec<(usize, u64)>>,
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
        Self { blocks: blocks.collect(), written: vec![Vec::new(); ram.blocks().len()] }
    }

    /// Replaces the set by what was written since it was last fetched and cleared. Returns how many pages that is.
    ///
    /// All pages of the set before must have been dealt with: it is overwritten.
    ///
    /// # Errors
    /// The log cannot be read; the set is then incomplete, and the attempt must be given up.
    pub fn fetch(&mut self, ram: &Ram, log: &dyn DirtyLog) -> io::Result<u64> {
        self.written.iter_mut().for_each(Vec::clear);
        self.fetch_more(ram, log)
    }

    /// Adds what was written since the set was fetched. Returns how many pages are in it now.
    ///
    /// For a set of which no page was sent or cleared meanwhile: KVM says again what it said, the bitmap of the VMM's writes
    /// does not.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_more(&mut self, ram: &Ram, log: &dyn DirtyLog) -> io::Result<u64> {
        let blocks = self.blocks.iter_mut().zip(&mut self.written).zip(ram.memory().iter());
        for (index, ((set, written), region)) in blocks.enumerate() {
            log.fetch(index, set.words_mut())?;
            let words = log_of(region).get_and_reset().into_iter().enumerate();
            written.extend(words.filter(|(_, word)| *word != 0));
            for (index, word) in written {
                if let Some(dirty) = set.words_mut().get_mut(*index) {
                    *dirty |= *word;
                }
            }
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
    fn writes_of_the_vmm_stay_until_they_were_sent() {
        let ram = ram();
        let mut set = DirtySet::all(&ram);
        let write = |page: u64| ram.memory().write_obj(1_u8, GuestAddress(page * PAGE_SIZE as u64)).unwrap();
        write(70);
        assert_eq!(set.fetch(&ram, &PageThree).unwrap(), 2);
        write(71);
        assert_eq!(set.fetch_more(&ram, &PageThree).unwrap(), 3);
        assert_eq!(set.fetch_more(&ram, &PageThree).unwrap(), 3);
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
