#![expect(unsafe_code, reason = "the kernel reads and writes guest memory, which is never a Rust reference")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use vm_memory::{
    GuestAddress, GuestMemoryBackend, VolatileSlice,
    bitmap::{AtomicBitmap, BS, Bitmap},
};

use super::{GuestError, MAX_PARTS};
use crate::GuestMemory;

/// Buffers of guest memory that the driver handed over, all readable or all writable by the device.
///
/// Data moves between them and files without a copy in between. Every write into them is marked in the dirty bitmap,
/// after it has happened.
#[derive(Clone, Debug, Default)]
pub struct Buffers<'m> {
    parts: Vec<Part<'m>>,
}

/// A range of guest memory without a gap, in the guest's addresses and in ours.
#[derive(Clone, Debug)]
struct Part<'m> {
    address: u64,
    slice: VolatileSlice<'m, BS<'m, AtomicBitmap>>,
}

impl<'m> Buffers<'m> {
    /// Adds `bytes` bytes at `address`.
    ///
    /// # Errors
    /// The range is not guest memory, or there are too many parts.
    pub fn push(
        &mut self,
        memory: &'m GuestMemory,
        address: GuestAddress,
        bytes: usize,
    ) -> Result<(), GuestError> {
        let mut address = address.0;
        for slice in GuestMemoryBackend::get_slices(memory, GuestAddress(address), bytes) {
            let slice = slice.map_err(|_| GuestError::OutsideMemory { address, bytes })?;
            if self.parts.len() == MAX_PARTS {
                return Err(GuestError::TooManyBuffers);
            }
            let part = Part { address, slice };
            address = address.saturating_add(part.slice.len() as u64);
            self.parts.push(part);
        }
        Ok(())
    }

    /// Adds the buffers of `other`. False if that would be too many parts; then nothing is added.
    #[must_use]
    pub fn append(&mut self, other: &Self) -> bool {
        let fits = self.parts.len() + other.parts.len() <= MAX_PARTS;
        if fits {
            self.parts.extend_from_slice(&other.parts);
        }
        fits
    }

    /// Bytes of all buffers together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.slice.len()).sum()
    }

    /// There are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first `bytes` bytes off, or all if there are fewer.
    #[must_use]
    pub fn take_front(&mut self, bytes: usize) -> Self {
        let mut front = Vec::new();
        let mut missing = bytes;
        while missing > 0 && !self.parts.is_empty() {
            let Part { address, slice } = &self.parts[0];
            if slice.len() <= missing {
                missing -= slice.len();
                front.push(self.parts.remove(0));
                continue;
            }
            let (address, Ok((head, tail))) = (*address, slice.split_at(missing)) else { break };
            front.push(Part { address, slice: head });
            self.parts[0] = Part { address: address + missing as u64, slice: tail };
            missing = 0;
        }
        Self { parts: front }
    }

    /// Takes the last `bytes` bytes off, or all if there are fewer.
    #[must_use]
    pub fn take_back(&mut self, bytes: usize) -> Self {
        let front = self.take_front(self.len().saturating_sub(bytes));
        std::mem::replace(self, front)
    }

    /// Fills `data` from the start of the buffers; returns how many bytes there were.
    pub fn read(&self, data: &mut [u8]) -> usize {
        let mut done = 0;
        for part in &self.parts {
            done += part.slice.copy_to(&mut data[done..]);
        }
        done
    }

    /// Writes `data` to the start of the buffers; returns how many bytes fitted.
    pub fn write(&self, data: &[u8]) -> usize {
        let mut done = 0;
        for part in &self.parts {
            let bytes = part.slice.len().min(data.len() - done);
            part.slice.copy_from(&data[done..done + bytes]);
            done += bytes;
        }
        done
    }

    /// Guest-physical address and length in bytes of each buffer.
    pub fn ranges(&self) -> impl Iterator<Item = (GuestAddress, usize)> {
        self.parts.iter().map(|part| (GuestAddress(part.address), part.slice.len()))
    }

    /// Every buffer starts and ends on a multiple of `alignment` bytes of host memory.
    #[must_use]
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.parts.iter().all(|part| {
            (part.slice.ptr_guard().as_ptr() as usize).is_multiple_of(alignment)
                && part.slice.len().is_multiple_of(alignment)
        })
    }

    /// One readv from `fd` into the buffers.
    ///
    /// # Errors
    /// As readv(2).
    pub fn read_from(&self, fd: impl AsFd) -> io::Result<usize> {
        let vectors = self.vectors();
        // SAFETY: the vectors name mapped guest memory, which lives as long as the 'm of the slices; the kernel
        // tolerates that the guest writes there at the same time, and no Rust reference to it exists.
        self.filled(unsafe {
            libc::readv(fd.as_fd().as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int)
        })
    }

    /// One preadv from `fd` at `offset` into the buffers.
    ///
    /// # Errors
    /// As preadv(2).
    pub fn read_from_at(&self, fd: impl AsFd, offset: u64) -> io::Result<usize> {
        let vectors = self.vectors();
        let offset = file_offset(offset)?;
        // SAFETY: as in `read_from`.
        self.filled(unsafe {
            libc::preadv(fd.as_fd().as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int, offset)
        })
    }

    /// One writev of the buffers to `fd`.
    ///
    /// # Errors
    /// As writev(2).
    pub fn write_to(&self, fd: impl AsFd) -> io::Result<usize> {
        let vectors = self.vectors();
        // SAFETY: as in `read_from`; the kernel only reads the memory here.
        count(unsafe { libc::writev(fd.as_fd().as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int) })
    }

    /// One pwritev of the buffers to `fd` at `offset`.
    ///
    /// # Errors
    /// As pwritev(2).
    pub fn write_to_at(&self, fd: impl AsFd, offset: u64) -> io::Result<usize> {
        let vectors = self.vectors();
        let offset = file_offset(offset)?;
        // SAFETY: as in `write_to`.
        count(unsafe {
            libc::pwritev(fd.as_fd().as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int, offset)
        })
    }

    fn vectors(&self) -> Vec<libc::iovec> {
        let vector = |Part { slice, .. }: &Part<'m>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        self.parts.iter().map(vector).collect()
    }

    /// Marks what a system call with this result wrote. After an error some of it may be written: then all counts.
    fn filled(&self, result: isize) -> io::Result<usize> {
        let result = count(result);
        let mut dirty = match &result {
            Ok(bytes) => *bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => usize::MAX,
        };
        for Part { slice, .. } in &self.parts {
            let bytes = slice.len().min(dirty);
            if bytes == 0 {
                break;
            }
            slice.bitmap().mark_dirty(0, bytes);
            dirty -= bytes;
        }
        result
    }
}

fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
