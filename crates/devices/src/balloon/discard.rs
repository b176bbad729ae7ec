#![expect(unsafe_code, reason = "madvise takes an address")]

use std::io;

use rustix::fs::FallocateFlags;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, bitmap::Bitmap};

use super::PAGE;
use crate::GuestMemory;

/// File system type of hugetlb memory (linux/magic.h, HUGETLBFS_MAGIC).
const HUGETLBFS: u64 = 0x9584_58f6;

/// Gives ranges of guest memory back to the host. They read as zeroes afterwards, and are marked dirty.
///
/// Huge pages of hugetlbfs are emptied and kept. Their reservation goes with the page that is given back, and another process may take
/// it: the guest's next access would then end this process (SIGBUS), and no fault could tell the guest to wait.
#[derive(Debug)]
pub struct Discard {
    memory: GuestMemory,
    /// What can be given back at once, per region in the order of the memory.
    granules: Vec<Granule>,
}

#[derive(Clone, Copy, Debug)]
struct Granule {
    bytes: u64,
    /// It is emptied only.
    kept: bool,
}

impl Discard {
    /// For this memory.
    ///
    /// # Errors
    /// The kernel does not say what the memory is made of.
    pub fn new(memory: GuestMemory) -> io::Result<Self> {
        let granules = memory.iter().map(granule).collect::<io::Result<_>>()?;
        Ok(Self { memory, granules })
    }

    /// Bytes of guest memory in all.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().map(GuestMemoryRegion::len).sum()
    }

    /// Gives the whole granules in this range back, or empties those that are kept; returns how many bytes were given back. The rest keeps
    /// its contents.
    ///
    /// # Errors
    /// As madvise(2) or fallocate(2); part of the range may be gone then, and all of it is marked dirty.
    pub fn discard(&self, address: GuestAddress, bytes: u64) -> io::Result<u64> {
        let end = address.0.saturating_add(bytes);
        let mut discarded = 0;
        for (region, granule) in self.memory.iter().zip(&self.granules) {
            // Offsets in the region; what lies outside of it becomes its start or its end.
            let start = region.start_addr().0;
            let offset = |address: u64| address.saturating_sub(start).min(region.len());
            let first = offset(address.0).next_multiple_of(granule.bytes);
            let last = offset(end) - offset(end) % granule.bytes;
            if first < last && granule.kept {
                empty(region, first, last - first)?;
            } else if first < last {
                discard_in(region, first, last - first)?;
                discarded += last - first;
            }
        }
        Ok(discarded)
    }
}

/// Anonymous memory and memfds go page by page, huge pages only whole.
fn granule(region: &impl GuestMemoryRegion) -> io::Result<Granule> {
    let page = Granule { bytes: PAGE, kept: false };
    let Some(file) = region.file_offset() else { return Ok(page) };
    let statistics = rustix::fs::fstatfs(file.file())?;
    let huge = Granule { bytes: statistics.f_bsize as u64, kept: true };
    Ok(if statistics.f_type as u64 == HUGETLBFS { huge } else { page })
}

/// `offset` and `bytes` are multiples of the granule and inside the region.
fn discard_in(region: &impl GuestMemoryRegion, offset: u64, bytes: u64) -> io::Result<()> {
    let result = match region.file_offset() {
        Some(file) => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file.file(), flags, file.start() + offset, bytes).map_err(io::Error::from)
        }
        None => discard_anonymous(region, offset, bytes),
    };
    region.bitmap().mark_dirty(offset as usize, bytes as usize);
    result
}

/// `offset` and `bytes` are multiples of the granule and inside the region.
fn empty<R>(region: &R, offset: u64, bytes: u64) -> io::Result<()>
where
    R: GuestMemoryRegion + vm_memory::Bytes<MemoryRegionAddress, E = vm_memory::GuestMemoryError>,
{
    static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
    let failed = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let mut at = offset;
    while at < offset + bytes {
        let piece = &ZEROES[..ZEROES.len().min((offset + bytes - at) as usize)];
        // Marks what it writes.
        region.write_slice(piece, MemoryRegionAddress(at)).map_err(failed)?;
        at += piece.len() as u64;
    }
    Ok(())
}

fn discard_anonymous(region: &impl GuestMemoryRegion, offset: u64, bytes: u64) -> io::Result<()> {
    // Checks that all of the range is mapped by this region.
    let slice = region
        .get_slice(MemoryRegionAddress(offset), bytes as usize)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    // SAFETY: the slice is mapped guest memory, borrowed from its region, so that it stays mapped during the call. No
    // Rust reference to its contents exists, and whoever reads it through a raw pointer expects it to change at any time.
    let result =
        unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
