//! Locks on disk images, so that no two virtual machines write one image, and none reads what another writes.
//!
//! They are advisory locks of the open file (fcntl(2), "Open file description locks"), laid out so that they also
//! exclude QEMU, which locks single bytes (QEMU, block/file-posix.c, `RAW_LOCK_PERM_BASE`): a writer of ours locks
//! everything up to where marks are; a reader says at QEMU's byte that no other program may write, and looks whether one does.
//!
//! Each lock also has a mark: one byte far behind the end of every image, chosen at random, which is locked for reading
//! only. Who looks at another image does not find it, and who does find it has the image that is locked here, under
//! whatever path and on whatever host. A mark is in nobody's way, so that a destination sets its own before the source's
//! machine is stopped: where each lock is a question to a file server, that is one less in the downtime. Where locks are not shared between hosts (block devices, some network file systems)
//! it is not found, which then says nothing.
#![expect(unsafe_code, reason = "fcntl takes a pointer")]

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// QEMU: locked (shared) by everyone who writes the image.
const QEMU_WRITES: i64 = 100 + 1;
/// QEMU: locked (shared) by everyone who does not want others to write the image.
const QEMU_NO_WRITERS: i64 = 200 + 1;

/// Where marks are: 2^62 to 2^63 - 2, so that a byte is left behind each.
const MARKS: std::ops::Range<i64> = 1 << 62..i64::MAX;

/// The lock of one image. It is free at first, and when it is dropped and the image is closed.
#[derive(Debug)]
pub(crate) struct DiskLock {
    file: File,
    path: PathBuf,
    read_only: bool,
    mark: i64,
    is_marked: AtomicBool,
    held: AtomicBool,
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
        let random = uuid::Uuid::new_v4().as_u64_pair().1;
        let mark = MARKS.start + (random % (MARKS.end - MARKS.start) as u64) as i64;
        Ok(Self {
            file: file.try_clone()?,
            path,
            read_only,
            mark,
            is_marked: AtomicBool::default(),
            held: AtomicBool::default(),
        })
    }

    /// The image.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where others find the mark, while the lock is held.
    pub(crate) fn mark(&self) -> Option<i64> {
        self.held.load(Ordering::SeqCst).then_some(self.mark)
    }

    /// Whether this is an image that another process has locked with this mark. May wait for a file server.
    pub(crate) fn shows(&self, mark: i64) -> io::Result<bool> {
        // A peer chose it. Elsewhere are bytes that others lock in the same way.
        if !MARKS.contains(&mark) {
            return Ok(false);
        }
        let may_read = self.conflict(Range::byte(libc::F_RDLCK, mark))?.is_none();
        let may_write = self.conflict(Range::byte(libc::F_WRLCK, mark))?.is_none();
        Ok(may_read && !may_write)
    }

    /// Sets the mark ahead of the lock, unless another machine has locked all of the image: then it is set with the lock. May wait
    /// for a file server.
    pub(crate) fn set_mark(&self) -> Result<(), DiskLockError> {
        if !self.is_marked.load(Ordering::SeqCst) {
            self.set(Range::byte(libc::F_RDLCK, self.mark))?;
            self.is_marked.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Takes the lock; it may be held already.
    pub(crate) fn lock(&self) -> Result<(), DiskLockError> {
        let locked = if self.read_only { self.lock_to_read() } else { self.lock_to_write() };
        let locked = locked.and_then(|()| self.set_mark());
        match locked {
            Ok(()) => self.held.store(true, Ordering::SeqCst),
            Err(_) => self.unlock(),
        }
        locked
    }

    /// Gives the lock up; it may be free already.
    pub(crate) fn unlock(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.is_marked.store(false, Ordering::SeqCst);
        if let Err(error) = fcntl(&self.file, libc::F_OFD_SETLK, Range::everything(libc::F_UNLCK)) {
            tracing::error!(path = %self.path.display(), %error, "cannot unlock a disk image");
        }
    }

    fn lock_to_write(&self) -> Result<(), DiskLockError> {
        self.set(Range { kind: libc::F_WRLCK, start: 0, bytes: MARKS.start })
    }

    fn lock_to_read(&self) -> Result<(), DiskLockError> {
        self.set(Range::byte(libc::F_RDLCK, QEMU_NO_WRITERS))?;
        match self.conflict(Range::byte(libc::F_WRLCK, QEMU_WRITES)) {
            Ok(None) => Ok(()),
            Ok(Some(holder)) => Err(self.in_use(&holder)),
            Err(source) => Err(self.failed(source)),
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

/// The locks of all disks of a machine, which go with it, whoever else still looks at the images.
#[derive(Debug)]
pub(crate) struct DiskLocks(Vec<Arc<DiskLock>>);

impl DiskLocks {
    pub(crate) fn new(locks: Vec<Arc<DiskLock>>) -> Self {
        Self(locks)
    }

    /// Takes all. Those that are held already stay; if one cannot be had, none is held.
    pub(crate) fn lock(&self) -> Result<(), DiskLockError> {
        let result = self.0.iter().try_for_each(|lock| lock.lock());
        if result.is_err() {
            self.unlock();
        }
        result
    }

    /// Gives all up.
    pub(crate) fn unlock(&self) {
        self.0.iter().for_each(|lock| lock.unlock());
    }
}

impl Drop for DiskLocks {
    fn drop(&mut self) {
        self.unlock();
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
    fn a_mark_is_seen_on_the_image_that_is_locked_and_on_no_other() {
        for read_only in [false, true] {
            let (image, other) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
            let (holder, looker) = (opened(&image, read_only), opened(&image, read_only));
            let elsewhere = opened(&other, read_only);
            assert_eq!(holder.mark(), None);
            holder.lock().unwrap();
            let mark = holder.mark().unwrap();
            assert!(looker.shows(mark).unwrap());
            assert!(!elsewhere.shows(mark).unwrap());
            assert!(!looker.shows(mark - 1).unwrap() && !looker.shows(looker.mark).unwrap());
            // Nor is it seen where a third machine has another image.
            elsewhere.lock().unwrap();
            assert!(!opened(&other, read_only).shows(mark).unwrap());
            holder.lock().unwrap();
            assert!(looker.shows(mark).unwrap(), "locks that are held stay");
            holder.unlock();
            assert_eq!(holder.mark(), None);
            assert!(!looker.shows(mark).unwrap());
        }
    }

    #[test]
    fn who_waits_for_an_image_has_its_mark_there_before_the_lock() {
        for read_only in [false, true] {
            let image = NamedTempFile::new().unwrap();
            let (holder, waits, looker) =
                (opened(&image, false), opened(&image, read_only), opened(&image, read_only));
            holder.lock().unwrap();
            waits.set_mark().unwrap();
            assert!(looker.shows(waits.mark).unwrap() && looker.shows(holder.mark).unwrap());
            assert_eq!(waits.mark(), None, "it does not say that it has the image");
            holder.lock().unwrap();
            holder.unlock();
            waits.lock().unwrap();
            assert!(matches!(holder.lock(), Err(DiskLockError::InUse { .. })));
            assert!(looker.shows(waits.mark().unwrap()).unwrap());
        }
    }

    #[test]
    fn the_locks_of_a_machine_that_is_gone_are_free_whoever_still_looks_at_its_images() {
        let image = NamedTempFile::new().unwrap();
        let (held, other) = (Arc::new(opened(&image, false)), opened(&image, false));
        let locks = DiskLocks::new(vec![held.clone()]);
        locks.lock().unwrap();
        assert!(other.lock().is_err());
        drop(locks);
        other.lock().unwrap();
        drop(held);
    }

    #[test]
    fn what_a_peer_calls_a_mark_is_no_other_lock() {
        let image = NamedTempFile::new().unwrap();
        let (reader, looker) = (opened(&image, true), opened(&image, true));
        reader.lock().unwrap();
        for place in [QEMU_NO_WRITERS, 0, -1, i64::MIN, i64::MAX] {
            assert!(!looker.shows(place).unwrap(), "{place}");
        }
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
