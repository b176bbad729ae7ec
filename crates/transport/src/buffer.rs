#![expect(unsafe_code, reason = "memory is mapped, and unmapped")]

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Memory to send from without a copy. It is pages of its own: where the kernel still reads what was given up, it reads what was
/// there, and not what somebody else has put into the same place since, as memory of the allocator's would be.
///
/// Takes memory as it is written, not when it is made.
pub struct Buffer {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is the only owner of its mapping, which any thread can use and unmap.
unsafe impl Send for Buffer {}
// SAFETY: what is shared can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Of so many bytes, all zero; more than none.
    ///
    /// # Errors
    /// As mmap(2): this process has no address space, or no mappings, left.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the kernel chooses a place where nothing is.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, flags) }?;
        let address = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, bytes })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, was zeroed by the kernel, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else of this program has it.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody refers to it any more. Should it fail, the memory stays taken, which harms nothing.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
