//! KVM's dirty log in the form that migration wants ([`ram::DirtyLog`]).

use std::io;

use parking_lot::Mutex;
use ram::DirtyLog;
use vmm_sys_util::errno;

use super::{MemorySlots, ioctl};

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
        let end = first_page.checked_add(pages).filter(|end| *end <= all);
        let end = end.ok_or_else(|| invalid("pages past the end of the block"))?;
        if !first_page.is_multiple_of(64) || !(pages.is_multiple_of(64) || end == all) {
            return Err(invalid("the range to clear is not on a multiple of 64 pages"));
        }
        if (bits.len() as u64) < pages.div_ceil(64) {
            return Err(invalid("fewer bits than pages to clear"));
        }
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

/// A set of `pages` pages with every page in it, and nothing past the last one.
fn all_pages(pages: u64) -> Vec<u64> {
    let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
    let mut bits = vec![u64::MAX; words];
    if let (Some(last), rest @ 1..) = (bits.last_mut(), pages % 64) {
        *last = (1 << rest) - 1;
    }
    bits
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn io_error(error: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
