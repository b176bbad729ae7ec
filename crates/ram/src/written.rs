//! Pages that are written to the file that memory is made of, not through a mapping of it.

use std::{io, ops::Range};

use rustix::io::Errno;
use vm_memory::FileOffset;

use crate::PAGE_SIZE;

/// Writes pages of a block to its file. Returns how many, from the first on, even if the rest failed. `bytes` are theirs.
///
/// The kernel makes no page zero that is written as a whole, and nothing faults. A page that the file does not have yet costs half of what it costs
/// through a mapping (measured on Linux 6.18 in batches of 256 KiB: 1.3 µs in place of 2.5; where the file has it, with `UFFDIO_CONTINUE` to map it
/// afterwards, 0.9 in place of 1.7). Writers of one file wait for each other.
pub(crate) fn write(file: &FileOffset, pages: &Range<u64>, bytes: &[u8]) -> (u64, io::Result<()>) {
    let at = file.start() + pages.start * PAGE_SIZE as u64;
    let mut written = 0;
    let result = loop {
        match rustix::io::pwrite(file.file(), &bytes[written..], at + written as u64) {
            Ok(0) if written < bytes.len() => break Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(errno) => break Err(errno.into()),
        }
        if written == bytes.len() {
            break Ok(());
        }
    };
    ((written / PAGE_SIZE) as u64, result)
}
