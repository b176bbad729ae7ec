//! The ring in which KVM writes down the pages that one vCPU dirties.
#![expect(unsafe_code, reason = "the ring is memory that the kernel writes at the same time")]

use std::{
    io,
    mem::size_of,
    os::fd::AsRawFd,
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
    /// Entries before it that KVM is to have back.
    owed: u32,
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
        Self::map_at(vcpu, i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE as i64, count)
    }

    fn map_at(file: &impl AsRawFd, offset: i64, count: u32) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping; nothing is replaced.
        let entries = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes(count),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        match NonNull::new(entries.cast()) {
            Some(entries) if entries.as_ptr() as isize != -1 => Ok(Self { entries, count, next: 0, owed: 0 }),
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
            (
                std::ptr::read_volatile(&raw const (*entry).slot),
                std::ptr::read_volatile(&raw const (*entry).offset),
            )
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
    /// in between back with the next `KVM_RESET_DIRTY_RINGS`. Looks for that place. Returns how many places that is, if it is known by now.
    pub(super) fn catch_up(&mut self) -> Option<u32> {
        let places = (0..self.count).find(|places| self.is_dirty(*places))?;
        (0..places).for_each(|_| self.give_back());
        Some(places)
    }

    fn give_back(&mut self) {
        self.flags(self.next).store(RESET, Ordering::Release);
        self.next = self.next.wrapping_add(1);
        self.owed = self.owed.saturating_add(1);
    }

    /// Has KVM have back what was taken out. `reset` is `KVM_RESET_DIRTY_RINGS`. Returns whether it took all of it.
    ///
    /// Where KVM has written over an entry that it was to have back, one that is not marked is among those that it waits for, and it would
    /// wait for ever. Nobody knows how many these are: one after the other is marked, from the last on, until it goes on.
    pub(super) fn settle<E>(&mut self, mut reset: impl FnMut() -> Result<u32, E>) -> Result<bool, E> {
        let owed = self.owed;
        let mut had_back = reset()?;
        let is_whole = had_back >= owed;
        let mut marked = Vec::new();
        if had_back == 0 && owed > 0 {
            for index in (1..=self.count).map(|back| self.next.wrapping_sub(back)) {
                match self.flags(index).compare_exchange(0, RESET, Ordering::Release, Ordering::Relaxed) {
                    Err(RESET) => continue,
                    // It is filled in: what is taken out next may be what KVM waits for.
                    Err(_) => break,
                    Ok(_) => marked.push(index),
                }
                had_back = reset()?;
                if had_back > 0 {
                    break;
                }
            }
        }
        for index in marked {
            // It was not what KVM waited for.
            let _ = self.flags(index).compare_exchange(RESET, 0, Ordering::Release, Ordering::Relaxed);
        }
        self.owed = owed.saturating_sub(had_back);
        Ok(is_whole)
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

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use super::*;

    const COUNT: u32 = 256;

    /// KVM's end of a ring.
    struct Filler {
        file: File,
        next: u32,
    }

    fn ring() -> (Ring, Filler) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes(COUNT) as u64).unwrap();
        (Ring::map_at(&file, 0, COUNT).unwrap(), Filler { file, next: 0 })
    }

    impl Filler {
        fn at(&self) -> u64 {
            bytes(self.next % COUNT) as u64
        }

        fn fill(&mut self, pages: impl IntoIterator<Item = u64>) {
            for page in pages {
                let entry: Vec<u8> =
                    [&DIRTY.to_ne_bytes()[..], &7_u32.to_ne_bytes(), &page.to_ne_bytes()].concat();
                self.file.write_all_at(&entry, self.at()).unwrap();
                self.next += 1;
            }
        }

        /// What KVM does for `KVM_RESET_DIRTY_RINGS`: has those back that are marked so, from `from` on.
        fn reset_from(&self, from: &mut u32) -> u32 {
            let begun = *from;
            loop {
                let place = bytes(*from % COUNT) as u64;
                let mut flags = [0; 4];
                self.file.read_exact_at(&mut flags, place).unwrap();
                if u32::from_ne_bytes(flags) & RESET == 0 {
                    return *from - begun;
                }
                self.file.write_all_at(&[0; 4], place).unwrap();
                *from += 1;
            }
        }

        /// Has so many entries back that were taken out.
        fn reset(&self, first: u32, count: u32) {
            for index in first..first + count {
                let place = bytes(index % COUNT) as u64;
                let mut flags = [0; 4];
                self.file.read_exact_at(&mut flags, place).unwrap();
                assert_eq!(u32::from_ne_bytes(flags), RESET);
                self.file.write_all_at(&[0; 4], place).unwrap();
            }
        }
    }

    fn taken(ring: &mut Ring) -> Vec<u64> {
        std::iter::from_fn(|| ring.take()).map(|page| page.page).collect()
    }

    #[test]
    fn pages_come_out_in_their_order_also_around_the_end() {
        let (mut ring, mut kvm) = ring();
        assert_eq!(ring.take(), None);
        for round in 0..5 {
            let first = kvm.next;
            let pages = round * 1000..round * 1000 + 100;
            kvm.fill(pages.clone());
            assert!(ring.is_dirty(99) && !ring.is_dirty(100));
            assert_eq!(taken(&mut ring), pages.collect::<Vec<_>>());
            kvm.reset(first, 100);
        }
        kvm.fill([5]);
        assert_eq!(ring.take(), Some(DirtyPage { slot: 7, page: 5 }));
    }

    #[test]
    fn entries_that_were_to_be_given_back_and_were_written_over_hold_nothing_up() {
        let (mut ring, mut kvm) = ring();
        let mut had_back = 0;
        kvm.fill(0..u64::from(COUNT) - 24);
        assert_eq!(taken(&mut ring).len(), COUNT as usize - 24);
        // Before KVM has them back it writes over the first ten of them.
        kvm.fill(1000..1034);
        assert!(!ring.settle(|| Ok::<_, ()>(kvm.reset_from(&mut had_back))).unwrap());
        assert_eq!(taken(&mut ring), (1000..1034).collect::<Vec<_>>());
        // In some rounds it is as if nothing had been.
        for round in 0..3 {
            ring.settle(|| Ok::<_, ()>(kvm.reset_from(&mut had_back))).unwrap();
            kvm.fill([round]);
            assert_eq!(taken(&mut ring), [round]);
        }
        assert!(ring.settle(|| Ok::<_, ()>(kvm.reset_from(&mut had_back))).unwrap());
        assert_eq!((had_back, ring.next, ring.owed), (kvm.next, kvm.next, 0));
    }

    #[test]
    fn what_goes_on_elsewhere_after_too_much_was_written_is_found() {
        let (mut ring, mut kvm) = ring();
        kvm.fill(0..u64::from(COUNT) + 20);
        assert!(ring.is_dirty(COUNT - 1));
        // The first twenty are lost, those that stand there came last.
        assert_eq!(taken(&mut ring).len(), COUNT as usize);
        kvm.reset(0, COUNT);
        assert_eq!(ring.catch_up(), None);
        kvm.fill([1, 2, 3]);
        assert!(taken(&mut ring).is_empty());
        assert_eq!(ring.catch_up(), Some(20));
        assert_eq!(taken(&mut ring), [1, 2, 3]);
        kvm.reset(COUNT, 23);
        kvm.fill([4]);
        assert_eq!(taken(&mut ring), [4]);
    }
}
