//! KVM's dirty log in the form that migration wants ([`ram::DirtyLog`]).

use std::io;

use parking_lot::Mutex;
use ram::DirtyLog;

use super::{
    MemorySlots,
    bits::{all_pages, check_range, invalid},
    ioctl::{self, io_error},
};

/// The dirty log of one VM.
#[derive(Debug)]
pub(crate) struct KvmDirtyLog {
    slots: MemorySlots,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// KVM reports a page until we clear it, and starts with all pages reported.
    Manual,
    /// Old KVM forgets what it has reported, and re-arms it at once. What was reported and not cleared is carried here,
    /// one set per block; empty while logging is off.
    Carried(Vec<Mutex<Vec<u64>>>),
}

impl KvmDirtyLog {
    /// The log of the VM with these slots. `manual_protect` says what the VM was created with.
    pub(crate) fn new(slots: MemorySlots, manual_protect: bool) -> Self {
        let mode = if manual_protect {
            Mode::Manual
        } else {
            Mode::Carried(slots.ram.blocks().iter().map(|_| Mutex::new(Vec::new())).collect())
        };
        Self { slots, mode }
    }

    fn block(&self, block: usize) -> io::Result<(u32, u64)> {
        let pages = self.slots.ram.blocks().get(block).map(ram::Block::pages);
        match (u32::try_from(block), pages) {
            (Ok(slot), Some(pages)) => Ok((slot, pages)),
            _ => Err(invalid("no such memory block")),
        }
    }
}

impl DirtyLog for KvmDirtyLog {
    fn start(&self) -> io::Result<()> {
        if let Mode::Carried(carried) = &self.mode {
            for (carried, block) in carried.iter().zip(self.slots.ram.blocks()) {
                *carried.lock() = all_pages(block.pages());
            }
        }
        self.slots.set_logging(true).map_err(io_error)
    }

    fn stop(&self) -> io::Result<()> {
        self.slots.set_logging(false).map_err(io_error)?;
        if let Mode::Carried(carried) = &self.mode {
            carried.iter().for_each(|carried| *carried.lock() = Vec::new());
        }
        Ok(())
    }

    fn fetch(&self, block: usize, bits: &mut [u64]) -> io::Result<()> {
        let (slot, pages) = self.block(block)?;
        let Mode::Carried(carried) = &self.mode else {
            return ioctl::get_dirty_log(&self.slots.vm, slot, pages, bits).map_err(io_error);
        };
        let mut carried = carried[block].lock();
        ioctl::get_dirty_log(&self.slots.vm, slot, pages, bits).map_err(io_error)?;
        for (carried, bits) in carried.iter_mut().zip(bits) {
            *carried |= *bits;
            *bits = *carried;
        }
        Ok(())
    }

    fn clear(&self, block: usize, first_page: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
        let (slot, all) = self.block(block)?;
        check_range(all, first_page, pages, bits)?;
        let Mode::Carried(carried) = &self.mode else {
            return ioctl::clear_dirty_log(&self.slots.vm, slot, first_page, pages, bits).map_err(io_error);
        };
        let mut carried = carried[block].lock();
        let words = usize::try_from(first_page / 64).unwrap_or(usize::MAX);
        let covered = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        for (carried, bits) in carried.iter_mut().skip(words).zip(bits).take(covered) {
            *carried &= !bits;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kvm_ioctls::VcpuFd;

    use super::{
        super::{
            enable_manual_protect,
            writer_guest::{PAGES, fetch, run, writer},
        },
        *,
    };
    use crate::testing;

    fn machine(manual_protect: bool) -> (KvmDirtyLog, VcpuFd) {
        let (slots, vcpu) = writer(|vm| assert!(!manual_protect || enable_manual_protect(vm)));
        (KvmDirtyLog::new(slots, manual_protect), vcpu)
    }

    /// Old and new kernels keep the same contract.
    #[test]
    fn a_page_is_reported_until_it_is_cleared_and_then_when_it_is_written() {
        if !testing::kvm_is_usable("a_page_is_reported_until_it_is_cleared_and_then_when_it_is_written") {
            return;
        }
        for manual_protect in [true, false] {
            let (log, mut vcpu) = machine(manual_protect);
            log.start().unwrap();
            assert_eq!(fetch(&log), (0..PAGES).collect::<Vec<_>>());
            log.clear(0, 0, PAGES, &[u64::MAX, u64::MAX]).unwrap();
            assert!(fetch(&log).is_empty());
            run(&mut vcpu);
            assert_eq!((fetch(&log), fetch(&log)), (vec![5, 9], vec![5, 9]));
            log.clear(0, 0, 64, &[1 << 5]).unwrap();
            assert_eq!(fetch(&log), [9]);
            run(&mut vcpu);
            assert_eq!(fetch(&log), [5, 9]);
            log.stop().unwrap();
            log.stop().unwrap();
            log.start().unwrap();
            assert_eq!(fetch(&log), (0..PAGES).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_range_that_is_not_of_the_block_is_refused() {
        if !testing::kvm_is_usable("a_range_that_is_not_of_the_block_is_refused") {
            return;
        }
        for manual_protect in [true, false] {
            let (log, _vcpu) = machine(manual_protect);
            log.start().unwrap();
            let bits = [u64::MAX; 4];
            for (block, first, pages) in
                [(1, 0, 64), (0, 1, 64), (0, 0, 63), (0, 64, 64), (0, 128, 0), (0, u64::MAX, 64)]
            {
                assert!(log.clear(block, first, pages, &bits).is_err(), "{block} {first} {pages}");
            }
            assert!(log.clear(0, 0, PAGES, &bits[..1]).is_err());
            assert!(log.fetch(0, &mut [0; 1]).is_err());
            assert!(log.fetch(7, &mut [0; 2]).is_err());
        }
    }
}
