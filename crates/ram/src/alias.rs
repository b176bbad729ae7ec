#![expect(unsafe_code, reason = "memory is mapped and unmapped by its address")]

use std::{ffi::c_void, fs::File, io, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::{PAGE_SIZE, Ram, Segment};

/// A second mapping of guest memory that is a shared file (memfd, huge pages). What is written there is in
/// the machine's memory, but nothing of it is mapped where the guest sees it that was not before.
#[derive(Debug)]
pub struct Alias {
    /// For every block; `None` where it is anonymous memory.
    mappings: Vec<Option<Mapping>>,
}

impl Alias {
    /// Maps all blocks of `ram` that are shared files once more. Costs address space; memory only where it is
    /// touched.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn of(ram: &Ram) -> io::Result<Self> {
        let map = |region: &vm_memory::GuestRegionMmap<_>| {
            let Some(file) = region.file_offset().filter(|_| region.flags() & libc::MAP_SHARED != 0) else {
                return Ok(None);
            };
            Mapping::of_file(file.file(), file.start(), region.size()).map(Some)
        };
        Ok(Self { mappings: ram.memory().iter().map(map).collect::<io::Result<_>>()? })
    }

    /// Where `pages` pages from `first_page` of `block` are in the second mapping, for as long as it lives.
    /// `None` if the block has none, or they are not all in it.
    #[must_use]
    pub fn segment(&self, block: u16, first_page: u64, pages: u64) -> Option<Segment> {
        let mapping = self.mappings.get(usize::from(block))?.as_ref()?;
        let bytes = usize::try_from(pages).ok()?.checked_mul(PAGE_SIZE)?;
        mapping.segment(usize::try_from(first_page).ok()?.checked_mul(PAGE_SIZE)?, bytes)
    }
}

/// Memory that was mapped here, and is unmapped when it is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn of_file(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses the place; nothing that is there is replaced.
        Self::new(unsafe { mmap(std::ptr::null_mut(), bytes, Self::ACCESS, flags, file, offset) }?, bytes)
    }

    /// Memory of this process's own, zero.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: as above.
        Self::new(unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, Self::ACCESS, flags) }?, bytes)
    }

    const ACCESS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

    fn new(address: *mut c_void, bytes: usize) -> io::Result<Self> {
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, bytes })
    }

    /// `bytes` bytes from `offset` on; `None` if they are not all in it.
    pub(crate) fn segment(&self, offset: usize, bytes: usize) -> Option<Segment> {
        if offset.checked_add(bytes)? > self.bytes {
            return None;
        }
        // SAFETY: offset ≤ size of the mapping, which is one allocation.
        Some(Segment { address: unsafe { self.address.add(offset) }, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by us, and no reference to it was ever made. Segments end with their mapping,
        // as is said there.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}

// SAFETY: a mapping is an address and a length, and is unmapped once; memory is reached through segments
// only, whose users know that others read and write there.
unsafe impl Send for Mapping {}
// SAFETY: as above; a `Mapping` has no interior state of its own.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout};
    use vm_memory::{Bytes, GuestAddress};

    fn ram(backing: Backing) -> Ram {
        let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: 5 * PAGE_SIZE as u64 };
        Ram::allocate(&[layout], backing).unwrap()
    }

    #[test]
    fn what_is_written_to_the_second_mapping_is_in_the_machines_memory() {
        let ram = ram(Backing::Memfd);
        let alias = Alias::of(&ram).unwrap();
        let segment = alias.segment(0, 3, 2).unwrap();
        assert_ne!(segment.address, ram.blocks()[0].segment(3, 2).unwrap().address);
        // SAFETY: the segment is two pages of live memory.
        unsafe { segment.address.add(PAGE_SIZE).as_ptr().write(9) };
        assert_eq!(ram.memory().read_obj::<u8>(GuestAddress(4 * PAGE_SIZE as u64)).unwrap(), 9);
        assert!(alias.segment(0, 4, 2).is_none() && alias.segment(1, 0, 1).is_none());
        assert!(alias.segment(0, u64::MAX, 2).is_none());
    }

    #[test]
    fn anonymous_memory_has_none() {
        assert!(Alias::of(&ram(Backing::Anonymous)).unwrap().segment(0, 0, 1).is_none());
    }
}
