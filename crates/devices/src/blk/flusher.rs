use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::io::retry_on_intr;

/// Flushes an image beside the disk that it belongs to, which goes on meanwhile.
#[derive(Debug)]
pub struct Flusher {
    file: Arc<File>,
    read_only: bool,
    /// A flush that the guest did not ask for failed: what it wrote before may be lost, and it does not know.
    lost: AtomicBool,
}

impl Flusher {
    pub(super) fn new(file: Arc<File>, read_only: bool) -> Self {
        Self { file, read_only, lost: AtomicBool::new(false) }
    }

    /// Puts everything written so far on stable storage, on behalf of the host. Takes as long as the storage does. The system tells
    /// once of what it could not write: the guest's next flush fails too where this does.
    ///
    /// # Errors
    /// As fdatasync(2).
    pub fn flush(&self) -> io::Result<()> {
        let flushed = self.sync();
        if flushed.is_err() {
            self.lost.store(true, Ordering::SeqCst);
        }
        flushed
    }

    /// The same, as the guest asked for it.
    pub(super) fn flush_for_guest(&self) -> io::Result<()> {
        if self.lost.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("what was written before could not be put on stable storage"));
        }
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.file))?) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_hears_once_of_what_was_lost_in_a_flush_of_the_host() {
        // What cannot be flushed: fdatasync(2) on a pipe is EINVAL.
        let (_reader, writer) = io::pipe().unwrap();
        let broken = Arc::new(File::from(std::os::fd::OwnedFd::from(writer)));
        let whole = Arc::new(tempfile::tempfile().unwrap());
        let mut flusher = Flusher::new(broken, false);
        flusher.flush().unwrap_err();
        flusher.file = whole;
        flusher.flush_for_guest().unwrap_err();
        flusher.flush_for_guest().unwrap();
    }
}
