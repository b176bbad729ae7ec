//! Locks on disk images, so that no two virtual machines write one image, and none reads what another writes.
//!
//! They are advisory locks of the open file (fcntl(2), "Open file description locks"), laid out so that they also
//! exclude QEMU, which locks single bytes (QEMU, block/file-posix.c, `RAW_LOCK_PERM_BASE`): a writer of ours locks
//! all of these bytes, and not the file, since there is storage that takes a lock of the whole file for more than one among machines;
//! a reader says at QEMU's byte that no other program may write, and looks whether one does. A program that locks the whole
//! file is excluded too, and so is an older release of ours, which did.
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
    sync::atomic::{AtomicBool, Ordering},
};

use config::DiskLocking;

/// All bytes that QEMU may lock: first and number.
const QEMU_BYTES: (i64, i64) = (100, 200);
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
    mode: DiskLocking,
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
    #[error(
        "Cannot lock disk image '{}', as its storage has no locks or cannot reach who keeps them: on NFS use version 4, or have the lock \
         services run on client and server (rpc.statd, lockd) and mount it without nolock. With lock=warn the machine runs without a lock \
         where there is none, with lock=off it always does, and nothing keeps a second machine from the image",
        path.display()
    )]
    NoLocks {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is wrong with the storage.
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
    pub(crate) fn new(file: &File, path: PathBuf, read_only: bool, mode: DiskLocking) -> io::Result<Self> {
        let random = uuid::Uuid::new_v4().as_u64_pair().1;
        let mark = MARKS.start + (random % (MARKS.end - MARKS.start) as u64) as i64;
        Ok(Self {
            file: file.try_clone()?,
            path,
            read_only,
            mode,
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
        let is_set = self.held.load(Ordering::SeqCst) && self.is_marked.load(Ordering::SeqCst);
        is_set.then_some(self.mark)
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

    /// Whether a lock of this image is seen by somebody who has opened it too: where it is not, that no mark is seen says nothing. May wait
    /// for a file server.
    pub(crate) fn locks_are_seen(&self) -> bool {
        let seen = || {
            let other = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
            fcntl(&other, libc::F_OFD_SETLK, Range::byte(libc::F_RDLCK, self.mark))?;
            self.conflict(Range::byte(libc::F_WRLCK, self.mark))
        };
        seen().is_ok_and(|holder| holder.is_some())
    }

    /// Sets the mark ahead of the lock, unless another machine has locked all of the image: then it is set with the lock. May wait
    /// for a file server.
    pub(crate) fn set_mark(&self) -> Result<(), DiskLockError> {
        if self.mode != DiskLocking::Off && !self.is_marked.load(Ordering::SeqCst) {
            self.set(Range::byte(libc::F_RDLCK, self.mark))?;
            self.is_marked.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Takes the lock; it may be held already. Where the storage has no locks, or none are wanted, nothing happens.
    pub(crate) fn lock(&self) -> Result<(), DiskLockError> {
        if self.mode == DiskLocking::Off {
            return Ok(());
        }
        match if self.read_only { self.lock_to_read() } else { self.lock_to_write() } {
            Ok(()) => {}
            Err(error @ DiskLockError::NoLocks { .. }) if self.mode == DiskLocking::Warn => {
                let path = self.path.display();
                tracing::warn!(%path, "a disk image is not locked, as its storage has no locks: nothing keeps a second machine from it");
                tracing::debug!("{}", engine::chain(&error));
                return Ok(());
            }
            Err(error) => {
                self.unlock();
                return Err(error);
            }
        }
        self.held.store(true, Ordering::SeqCst);
        // Without it the contents tell which image this is.
        if let Err(error) = self.set_mark() {
            tracing::debug!("{}", engine::chain(&error));
        }
        Ok(())
    }

    /// Gives the lock up; it may be free already.
    pub(crate) fn unlock(&self) {
        let held = self.held.swap(false, Ordering::SeqCst);
        let marked = self.is_marked.swap(false, Ordering::SeqCst);
        let (bytes, mark) = (Range::qemu(libc::F_UNLCK), Range::byte(libc::F_UNLCK, self.mark));
        for range in [bytes, mark] {
            // One that could not be had may be held in part.
            if let Err(error) = fcntl(&self.file, libc::F_OFD_SETLK, range)
                && (held || marked)
            {
                tracing::error!(path = %self.path.display(), %error, "cannot unlock a disk image");
            }
        }
    }

    fn lock_to_write(&self) -> Result<(), DiskLockError> {
        self.set(Range::qemu(libc::F_WRLCK))
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
        let path = self.path.clone();
        match source.raw_os_error() {
            Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => {
                DiskLockError::NoLocks { path, source }
            }
            _ => DiskLockError::Failed { path, source },
        }
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
    bytes: i64,
}

impl Range {
    fn qemu(kind: i32) -> Self {
        let (start, bytes) = QEMU_BYTES;
        Self { kind, start, bytes }
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
        DiskLock::new(&file, image.path().to_owned(), read_only, DiskLocking::On).unwrap()
    }

    #[test]
    fn a_writer_locks_no_more_than_the_bytes_that_tell_of_it() {
        let image = NamedTempFile::new().unwrap();
        let holder = opened(&image, false);
        holder.lock().unwrap();
        let other = File::options().read(true).write(true).open(image.path()).unwrap();
        let lock = |start| fcntl(&other, libc::F_OFD_SETLK, Range::byte(libc::F_WRLCK, start));
        for free in [0, 99, 300, 1 << 30, (1 << 62) - 1] {
            lock(free).unwrap_or_else(|error| panic!("byte {free}: {error}"));
        }
        for taken in [100, QEMU_WRITES, QEMU_NO_WRITERS, 299, holder.mark] {
            assert!(lock(taken).is_err(), "byte {taken}");
        }
    }

    #[test]
    fn an_older_release_that_locks_the_whole_image_excludes_this_one_and_is_excluded() {
        let image = NamedTempFile::new().unwrap();
        let older = File::options().read(true).write(true).open(image.path()).unwrap();
        let all = |kind| fcntl(&older, libc::F_OFD_SETLK, Range { kind, start: 0, bytes: MARKS.start });
        for read_only in [false, true] {
            let ours = opened(&image, read_only);
            all(libc::F_WRLCK).unwrap();
            assert!(matches!(ours.lock(), Err(DiskLockError::InUse { .. })));
            all(libc::F_UNLCK).unwrap();
            ours.lock().unwrap();
            assert!(all(libc::F_WRLCK).is_err());
        }
    }

    #[test]
    fn an_image_that_is_not_to_be_locked_has_no_lock_and_no_mark() {
        let image = NamedTempFile::new().unwrap();
        let file = File::options().read(true).write(true).open(image.path()).unwrap();
        let free = DiskLock::new(&file, image.path().to_owned(), false, DiskLocking::Off).unwrap();
        free.set_mark().unwrap();
        free.lock().unwrap();
        assert_eq!(free.mark(), None);
        opened(&image, false).lock().unwrap();
    }

    #[test]
    fn storage_without_locks_is_named_with_what_to_do() {
        let image = NamedTempFile::new().unwrap();
        for errno in [libc::ENOLCK, libc::EOPNOTSUPP] {
            let error = opened(&image, false).failed(io::Error::from_raw_os_error(errno)).to_string();
            assert!(error.contains("lock=warn") && error.contains("rpc.statd"), "{error}");
        }
        let error = opened(&image, false).failed(io::Error::from_raw_os_error(libc::EIO)).to_string();
        assert!(!error.contains("lock=warn"), "{error}");
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
    fn whether_locks_are_seen_is_found_out_whoever_has_some_and_leaves_none() {
        for mode in [DiskLocking::On, DiskLocking::Off] {
            let image = NamedTempFile::new().unwrap();
            let file = File::options().read(true).write(true).open(image.path()).unwrap();
            let lock = DiskLock::new(&file, image.path().to_owned(), false, mode).unwrap();
            assert!(lock.locks_are_seen());
            let looker = opened(&image, false);
            assert!(!looker.shows(lock.mark).unwrap(), "it is gone with the look");
            looker.lock().unwrap();
            assert!(lock.locks_are_seen());
        }
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
