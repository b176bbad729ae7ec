//! The ring in which KVM writes down the pages that one vCPU dirties.
#![expect(unsafe_code, reason = "the ring is memory that the kernel writes at the same time")]

use std::{
    io,
    mem::size_of,
    os::fd::AsRawFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};
use kvm_ioctls::VcpuFd;
use ram::PAGE_SIZE;

/// An entry is filled in, and KVM may have it back (Linux, Documentation/virt/kvm/api.rst, 8.29).
const DIRTY: u32 = 1;
const RESET: u32 = 2;

/// The ring of one vCPU, mapped. It is read by one thread at a time.
#[derive(Debug)]
pub(super) struct Ring {
    entries: NonNull<kvm_dirty_gfn>,
    count: u32,
    /// The entry to be read next, counted without an end.
    next: u32,
}

/// A page in a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirtyPage {
    pub(super) slot: u32,
    pub(super) page: u64,
}

impl Ring {
    /// Maps the ring of `vcpu`, in whose VM rings of `count` entries were enabled.
    pub(super) fn map(vcpu: &VcpuFd, count: u32) -> io::Result<Self> {
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE as i64;
        // SAFETY: a fresh shared mapping of a vCPU descriptor, at the place where its ring is; nothing is replaced.
        let entries = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes(count),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset,
            )
        };
        match NonNull::new(entries.cast()) {
            Some(entries) if entries.as_ptr() as isize != -1 => Ok(Self { entries, count, next: 0 }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes the next page out, if there is one. KVM has the entry back with the next `KVM_RESET_DIRTY_RINGS`.
    pub(super) fn take(&mut self) -> Option<DirtyPage> {
        if !self.is_dirty(0) {
            return None;
        }
        let entry = self.entry(self.next);
        // SAFETY: the entry is within the mapping, which lives as long as `self`. KVM filled it in before it set the flag that was read
        // with `Acquire`, and does not touch it again before it has it back.
        let (slot, page) = unsafe {
            (std::ptr::read_volatile(&raw const (*entry).slot), std::ptr::read_volatile(&raw const (*entry).offset))
        };
        self.give_back();
        Some(DirtyPage { slot, page })
    }

    /// Whether the entry so many places after the next one is filled in: then all before it are, too.
    pub(super) fn is_dirty(&self, places: u32) -> bool {
        self.flags(self.next.wrapping_add(places)).load(Ordering::Acquire) & DIRTY != 0
    }

    /// How many entries it has.
    pub(super) fn capacity(&self) -> u32 {
        self.count
    }

    /// After KVM has written over entries that were not taken out yet, it goes on some places after the next one, and has those
    /// in between back with the next `KVM_RESET_DIRTY_RINGS`. Looks for that place. Returns whether there is one by now.
    pub(super) fn catch_up(&mut self) -> bool {
        let Some(places) = (0..self.count).find(|places| self.is_dirty(*places)) else { return false };
        (0..places).for_each(|_| self.give_back());
        true
    }

    fn give_back(&mut self) {
        self.flags(self.next).store(RESET, Ordering::Release);
        self.next = self.next.wrapping_add(1);
    }

    fn entry(&self, index: u32) -> *mut kvm_dirty_gfn {
        // `count` is a power of two, so that it also fits where the number overflows.
        // SAFETY: the remainder is less than the number of entries that are mapped.
        unsafe { self.entries.as_ptr().add((index % self.count) as usize) }
    }

    fn flags(&self, index: u32) -> &AtomicU32 {
        // SAFETY: the flags of an entry within the mapping, which lives as long as `self`; aligned as the entry is. The kernel accesses
        // them at the same time, hence the atomic.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.entry(index)).flags) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and not used after this.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes(self.count)) };
    }
}

// SAFETY: the mapping belongs to no thread, and is only read and written with a reference to the ring.
unsafe impl Send for Ring {}

fn bytes(count: u32) -> usize {
    count as usize * size_of::<kvm_dirty_gfn>()
}
