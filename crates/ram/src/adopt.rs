//! Memory that the caller has: a monitor that maps guest memory itself hands it over as it is.

use std::ptr::NonNull;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion, bitmap::AtomicBitmap};

use crate::{Block, BlockLayout, GuestMemory, PAGE_SIZE, Ram, RamError};

/// Access that the engine needs: pages are read to send them, and written when they arrive.
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

impl Ram {
    /// The memory `memory`, whose regions have these names, in the order of their guest-physical addresses. It stays mapped while
    /// a clone of it or of the [`Ram`] lives. Names are compared with those of the other side, as addresses and sizes are.
    ///
    /// Writes of the monitor's own threads go through [`Self::memory`] or a clone of it, so that they are marked in its bitmap.
    /// Nothing is assumed of what the memory is made of ([`Self::backing`] is `None`): a source looks at every page, which makes
    /// the host allocate pages of a memfd that were holes, and a destination's memory is not populated ahead. Memory
    /// that a machine is to arrive in must be all zero.
    ///
    /// # Errors
    /// There is no region, a region has no name of its own, or one is not made of whole pages of [`PAGE_SIZE`], cannot be read
    /// and written, or has a bitmap in which a bit stands for more or less than a page.
    pub fn of(memory: GuestMemory, names: &[impl AsRef<str>]) -> Result<Self, RamError> {
        let regions = memory.num_regions();
        if regions == 0 {
            return Err(RamError::NoRegion);
        }
        if regions != names.len() {
            return Err(RamError::Names { regions, names: names.len() });
        }
        let names = names.iter().map(AsRef::as_ref);
        for (index, name) in names.clone().enumerate() {
            if names.clone().take(index).any(|earlier| earlier == name) {
                return Err(RamError::SameName { name: name.into() });
            }
        }
        let blocks = names.zip(memory.iter()).map(|(name, region)| block(name, region));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { blocks: blocks.into(), memory, backing: None })
    }
}

fn block(name: &str, region: &GuestRegionMmap<AtomicBitmap>) -> Result<Block, RamError> {
    let (guest_address, bytes) = (region.start_addr().0, region.len());
    let layout = BlockLayout { name: name.into(), guest_address, bytes };
    let host = NonNull::new(region.as_ptr());
    match (what_is_wrong(region), host) {
        (None, Some(host)) => Ok(Block { layout, host }),
        (reason, _) => {
            let reason = reason.unwrap_or("it is not mapped");
            Err(RamError::Region { name: layout.name, guest_address, bytes, reason })
        }
    }
}

/// Overlapping regions and such that wrap around are none: [`GuestMemory`] cannot be made of them.
fn what_is_wrong(region: &GuestRegionMmap<AtomicBitmap>) -> Option<&'static str> {
    let mapping: &MmapRegion<AtomicBitmap> = region;
    let is_whole = |number: usize| number.is_multiple_of(PAGE_SIZE);
    let address_is_whole = region.start_addr().0.is_multiple_of(PAGE_SIZE as u64);
    if mapping.size() == 0 || !is_whole(mapping.size()) || !address_is_whole {
        return Some("its address and its size must be multiples of 4096 bytes");
    }
    if !is_whole(mapping.as_ptr().addr()) {
        return Some("it must be mapped at a multiple of 4096 bytes in this process");
    }
    if mapping.prot() & READ_WRITE != READ_WRITE {
        return Some("it must be mapped for reading and writing; read-only memory is no memory to move");
    }
    if mapping.bitmap().len() != mapping.size() / PAGE_SIZE {
        return Some("its bitmap must have one bit for each page of 4096 bytes");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use vm_memory::{Bytes, GuestAddress, mmap::MmapRegionBuilder};

    use super::*;
    use crate::Touched;

    const MIB: usize = 1 << 20;

    fn two_regions() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 3 * MIB), (GuestAddress(4 << 30), MIB)]).unwrap()
    }

    fn one_region(bytes: usize, bits: usize, prot: i32) -> GuestMemory {
        let bitmap = AtomicBitmap::new(bytes, NonZeroUsize::new(bytes / bits).unwrap());
        let region = MmapRegionBuilder::new_with_bitmap(bytes, bitmap)
            .with_mmap_prot(prot)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
            .build()
            .unwrap();
        GuestMemory::from_regions(vec![GuestRegionMmap::new(region, GuestAddress(0)).unwrap()]).unwrap()
    }

    #[test]
    fn the_blocks_are_the_callers_regions_and_the_same_memory() {
        let memory = two_regions();
        let ram = Ram::of(memory.clone(), &["low", "high"]).unwrap();
        let blocks: Vec<_> = ram.blocks().iter().map(|block| (block.name(), block.guest_address())).collect();
        assert_eq!((blocks, ram.bytes()), (vec![("low", 0), ("high", 4 << 30)], 4 << 20));
        assert_eq!(ram.backing(), None);
        memory.write_obj(0x1234_u64, GuestAddress((4 << 30) + 0x2000)).unwrap();
        drop(memory);
        assert_eq!(ram.memory().read_obj::<u64>(GuestAddress((4 << 30) + 0x2000)).unwrap(), 0x1234);
    }

    #[test]
    fn every_page_counts_as_touched_where_the_backing_is_unknown() {
        let mut words = Vec::new();
        Touched::new(Ram::of(two_regions(), &["low", "high"]).unwrap()).look(1, 64, 128, &mut words);
        assert_eq!(words, [u64::MAX; 2]);
    }

    #[test]
    fn memory_that_cannot_be_moved_is_refused_with_the_reason() {
        let refusal = |memory, names: &[&str]| Ram::of(memory, names).unwrap_err();
        assert!(matches!(refusal(GuestMemory::new(), &[]), RamError::NoRegion));
        assert!(matches!(refusal(two_regions(), &["low"]), RamError::Names { regions: 2, names: 1 }));
        assert!(matches!(refusal(two_regions(), &["low", "low"]), RamError::SameName { .. }));
        let wrong = |memory| refusal(memory, &["low"]).to_string();
        let odd = GuestMemory::from_ranges(&[(GuestAddress(512), MIB)]).unwrap();
        assert!(wrong(odd).contains("multiples of 4096"));
        assert!(wrong(one_region(MIB, 256, libc::PROT_READ)).contains("reading and writing"));
        assert!(wrong(one_region(MIB, 64, READ_WRITE)).contains("one bit for each page"));
        assert!(Ram::of(one_region(MIB, 256, READ_WRITE), &["low"]).is_ok());
    }
}
