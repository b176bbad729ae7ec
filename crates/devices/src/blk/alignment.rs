use std::fs::File;

use rustix::{
    fs::{AtFlags, StatxFlags, statx},
    io::Errno,
};

use super::SECTOR;

/// What direct I/O needs of addresses in memory, and of places in an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alignment {
    pub(super) memory: usize,
    pub(super) offset: u32,
}

impl Alignment {
    /// What `file` needs (statx(2), STATX_DIOALIGN since Linux 6.1); before that a page, which suits all. `None` where there is
    /// no direct I/O.
    pub(super) fn of(file: &File) -> Result<Option<Self>, Errno> {
        let statx = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
        if statx.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
            return Ok(Some(Self { memory: 4096, offset: 4096 }));
        }
        let (memory, offset) = (statx.stx_dio_mem_align, statx.stx_dio_offset_align);
        let there_is = memory.is_power_of_two() && offset.is_power_of_two();
        Ok(there_is.then(|| Self { memory: memory as usize, offset: offset.max(SECTOR as u32) }))
    }

    /// Whether blocks of `bytes` bytes, at multiples of that in memory and in the image, can be read.
    pub(super) fn suits(self, bytes: usize) -> bool {
        self.memory <= bytes && self.offset as usize <= bytes
    }
}
