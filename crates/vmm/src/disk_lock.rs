//! Locks on disk images, so that no two virtual machines write one image, and none reads what another writes.
//!
//! They are advisory locks of the open file (fcntl(2), "Open file description locks"), laid out so that they also
//! exclude QEMU, which locks single bytes (QEMU, block/file-posix.c, `RAW_LOCK_PERM_BASE`): a writer of ours locks
//! everything; a reader says at QEMU's byte that nobody else may write, and looks whether somebody does.
#![expect(unsafe_code, reason = "fcntl takes a pointer")]

use std::{fs::File, io, os::fd::AsRawFd as _, path::PathBuf};

/// QEMU: locked (shared) by everyone who writes the image.
const QEMU_WRITES: i64 = 100 + 1;
/// QEMU: locked (shared) by everyone who does not want others to write the image.
const QEMU_NO_WRITERS: i64 = 200 + 1;

/// The lock of one image. It is free at first, and when it is dropped and the image is closed.
#[derive(Debug)]
pub(crate) struct DiskLock {
    file: File,
    path: PathBuf,
    read_only: bool,
}

/// Why an image could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum DiskLockError {
    /// Another virtual machine has it.
    #[error("Disk image '{}' is in use by another virtual machine{}: stop it first", path.display(), holder(*pid))]
    InUse {
        /// The image.
        path: PathBuf,
        /// Process that holds it, where the kernel tells.
        pid: Option<i32>,
    },
    /// The file system has no locks, or has run out of them.
    #[error("Cannot lock disk image '{}'", path.display())]
    Failed {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DiskLock {
    /// The lock of `file`, which is open for reading, and unless `read_only` for writing. The descriptor is shared with
    /// the disk's.
    pub(crate) fn new(file: &File, path: PathBuf, read_only: bool) -> io::Result<Self> {
        Ok(Self { file: file.try_clone()?, path, read_only })
    }

    /// Takes the lock; it may be held already.
    pub(crate) fn lock(&self) -> Result<(), DiskLockError> {
        if !self.read_only {
            return self.set(Range::everything(libc::F_WRLCK));
        }
        self.set(Range::byte(libc::F_RDLCK, QEMU_NO_WRITERS))?;
        match self.conflict(Range::byte(libc::F_WRLCK, QEMU_WRITES)) {
            Ok(None) => Ok(()),
            Ok(Some(holder)) => {
                self.unlock();
                Err(self.in_use(&holder))
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Gives the lock up; it may be free already.
    pub(crate) fn unlock(&self) {
        if let Err(error) = fcntl(&self.file, libc::F_OFD_SETLK, Range::everything(libc::F_UNLCK)) {
            tracing::error!(path = %self.path.display(), %error, "cannot unlock a disk image");
        }
    }

    fn set(&self, range: Range) -> Result<(), DiskLockError> {
        match fcntl(&self.file, libc::F_OFD_SETLK, range) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                let holder = self.conflict(range).ok().flatten();
                Err(self.in_use(&holder.unwrap_or(Holder { pid: None })))
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Who holds what is in the way of `range`.
    fn conflict(&self, range: Range) -> io::Result<Option<Holder>> {
        let found = fcntl(&self.file, libc::F_OFD_GETLK, range)?;
        if i32::from(found.l_type) == libc::F_UNLCK {
            return Ok(None);
        }
        // Locks of open files have no process: the kernel says -1.
        Ok(Some(Holder { pid: Some(found.l_pid).filter(|pid| *pid > 0) }))
    }

    fn in_use(&self, holder: &Holder) -> DiskLockError {
        DiskLockError::InUse { path: self.path.clone(), pid: holder.pid }
    }

    fn failed(&self, source: io::Error) -> DiskLockError {
        DiskLockError::Failed { path: self.path.clone(), source }
    }
}

struct Holder {
    pid: Option<i32>,
}

/// A lock on some bytes.
#[derive(Clone, Copy)]
struct Range {
    kind: i32,
    start: i64,
    /// 0 means to the end, however far the file grows.
    bytes: i64,
}

impl Range {
    fn everything(kind: i32) -> Self {
        Self { kind, start: 0, bytes: 0 }
    }

    fn byte(kind: i32, start: i64) -> Self {
        Self { kind, start, bytes: 1 }
    }
}

fn fcntl(file: &File, command: i32, range: Range) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: range.kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: range.start,
        l_len: range.bytes,
        l_pid: 0,
    };
    // SAFETY: both commands take a pointer to a `flock`, which the kernel reads and may write; `lock` lives across the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}

fn holder(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    fn opened(image: &NamedTempFile, read_only: bool) -> DiskLock {
        let file = File::options().read(true).write(!read_only).open(image.path()).unwrap();
        DiskLock::new(&file, image.path().to_owned(), read_only).unwrap()
    }

    #[test]
    fn one_writer_excludes_everybody_until_it_lets_go() {
        let image = NamedTempFile::new().unwrap();
        let (first, second, reader) = (opened(&image, false), opened(&image, false), opened(&image, true));
        first.lock().unwrap();
        first.lock().unwrap();
        assert!(matches!(second.lock(), Err(DiskLockError::InUse { .. })));
        assert!(matches!(reader.lock(), Err(DiskLockError::InUse { .. })));
        first.unlock();
        second.lock().unwrap();
        drop(second);
        reader.lock().unwrap();
    }

    #[test]
    fn readers_share_and_exclude_writers() {
        let image = NamedTempFile::new().unwrap();
        let (first, second, writer) = (opened(&image, true), opened(&image, true), opened(&image, false));
        first.lock().unwrap();
        second.lock().unwrap();
        assert!(matches!(writer.lock(), Err(DiskLockError::InUse { .. })));
    }

    #[test]
    fn a_writing_qemu_excludes_readers_and_writers() {
        let image = NamedTempFile::new().unwrap();
        let qemu = File::open(image.path()).unwrap();
        fcntl(&qemu, libc::F_OFD_SETLK, Range::byte(libc::F_RDLCK, QEMU_WRITES)).unwrap();
        assert!(matches!(opened(&image, true).lock(), Err(DiskLockError::InUse { .. })));
        assert!(matches!(opened(&image, false).lock(), Err(DiskLockError::InUse { .. })));
    }

    #[test]
    fn a_process_that_holds_an_ordinary_lock_is_named() {
        let image = NamedTempFile::new().unwrap();
        let mut child = std::process::Command::new("python3")
            .args(["-c", "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"])
            .arg(image.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        let error = opened(&image, false).lock().unwrap_err();
        drop(child.stdin.take());
        let pid = child.id();
        child.wait().unwrap();
        assert!(error.to_string().contains(&format!("(process {pid})")), "{error}");
    }
}
