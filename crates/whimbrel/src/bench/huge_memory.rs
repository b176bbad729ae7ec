//! Memory of huge pages, as guests have it.

use std::{io, ptr, slice};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Memory of this process alone, in huge pages of 2 MiB that are taken from the host's pool.
#[derive(Debug)]
pub(super) struct HugeMemory {
    start: *mut u8,
    bytes: usize,
}

impl HugeMemory {
    /// `bytes` of zeros, a multiple of 2 MiB. No page of it is there before it is touched.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        // SAFETY: without a wanted address the kernel maps where nothing else is, so no other memory changes.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Ok(Self { start: start.cast(), bytes })
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the mapping begins at `start`, is `bytes` long, readable, writable and zero where nothing was written. It stays
        // until `self` is dropped, and is reachable through `self` alone, which is borrowed as long as the slice lives.
        unsafe { slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing refers to it any more.
        let outcome = unsafe { munmap(self.start.cast(), self.bytes) };
        debug_assert!(outcome.is_ok(), "{outcome:?}");
    }
}
