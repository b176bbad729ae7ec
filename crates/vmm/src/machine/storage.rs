//! What may take long in the storage of the disks: flushing an image, taking its lock, giving it up. Each disk has a thread for that,
//! so that nobody waits for storage that does not answer for longer than they like.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use devices::blk::{DiskCounters, DiskFigures, Flusher};
use parking_lot::Mutex;

use super::{ids, resources::OpenDisk};
use crate::{
    disk_lock::{DiskLock, DiskLockError},
    seccomp::{self, Role},
};

/// How long a lock may take. A machine may stand still meanwhile.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// A flush ahead that takes longer means that the storage does not answer.
pub(super) const AHEAD_PATIENCE: Duration = Duration::from_secs(10);
/// What was flushed so recently leaves little to flush.
const RECENT: Duration = Duration::from_secs(10);

/// The storage of all disks of a machine. Dropping it gives the locks up.
#[derive(Debug)]
pub(super) struct Storage(Vec<Keeper>);

/// The storage of one disk.
#[derive(Debug)]
struct Keeper {
    id: String,
    lock: Arc<DiskLock>,
    flusher: Arc<Flusher>,
    counters: DiskCounters,
    jobs: Sender<Job>,
    flushes: Arc<Mutex<Flushes>>,
}

/// The flushes ahead of one disk.
#[derive(Debug, Default)]
struct Flushes {
    /// When the one under way began.
    began: Option<Instant>,
    /// When the last one that succeeded was over, and how long it took.
    last: Option<(Instant, Duration)>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Why something could not be done with the storage of a disk.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// What the guest has written to a disk may not be on it.
    #[error("Disk '{disk}' ('{path}') could not be flushed: what the guest wrote may not be on it")]
    Flush {
        /// The disk.
        disk: String,
        /// Its image.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The storage does not answer.
    #[error(
        "The storage of disk '{disk}' ('{path}') has not answered within {patience:?}, and could not {what}: see whether its file system is \
         frozen, or its file server gone"
    )]
    NoAnswer {
        /// The disk.
        disk: String,
        /// Its image.
        path: String,
        /// What was asked of it.
        what: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The image cannot be locked.
    #[error(transparent)]
    Lock(#[from] DiskLockError),
}

impl Storage {
    /// Starts the threads.
    pub(super) fn new(disks: &[OpenDisk]) -> io::Result<Self> {
        let keeper = |(index, open): (usize, &OpenDisk)| {
            let (jobs, inbox) = channel();
            thread::Builder::new().name(format!("storage{index}")).spawn(move || serve(&inbox))?;
            Ok(Keeper {
                id: ids::disk(index),
                lock: open.lock.clone(),
                flusher: open.disk.flusher(),
                counters: open.disk.counters(),
                jobs,
                flushes: Arc::default(),
            })
        };
        disks.iter().enumerate().map(keeper).collect::<io::Result<_>>().map(Self)
    }

    /// Takes the locks of all disks. Those that are held already stay; if one cannot be had, none is held.
    pub(super) fn lock(&self) -> Result<(), StorageError> {
        let locked = self.on_all("be locked", LOCK_PATIENCE, |keeper| {
            let lock = keeper.lock.clone();
            move || lock.lock()
        });
        let locked = locked.and_then(|results| Ok(results.into_iter().collect::<Result<(), _>>()?));
        if locked.is_err() {
            // What hangs gives its lock up when it comes back.
            self.0.iter().for_each(Keeper::unlock_later);
        }
        locked
    }

    /// Gives the locks of all disks up.
    pub(super) fn unlock(&self) -> Result<(), StorageError> {
        self.on_all("be unlocked", LOCK_PATIENCE, |keeper| {
            let lock = keeper.lock.clone();
            move || lock.unlock()
        })?;
        Ok(())
    }

    /// Flushes all disks at once.
    pub(super) fn flush(&self, patience: Duration) -> Result<(), StorageError> {
        let results = self.on_all("be flushed", patience, |keeper| {
            let flusher = keeper.flusher.clone();
            move || flusher.flush()
        })?;
        let failed = self.0.iter().zip(results).find_map(|(keeper, result)| Some((keeper, result.err()?)));
        failed.map_or(Ok(()), |(keeper, source)| Err(keeper.not_flushed(source)))
    }

    /// Has all disks flushed while their guest goes on, unless they are being flushed, and waits so long at most. Returns how long a
    /// flush takes now, as far as that can be told: those that are over, or what the ones under way have taken up to now.
    ///
    /// # Errors
    /// One has been under way for too long.
    pub(super) fn flush_ahead(&self, wait: Duration) -> Result<Duration, StorageError> {
        let deadline = Instant::now() + wait;
        let begun: Vec<_> = self.0.iter().map(Keeper::begin_flush).collect();
        for done in begun.iter().flatten() {
            // Whether it came in time, or the thread is gone, is seen below.
            let _ = done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        self.0.iter().try_fold(Duration::ZERO, |most, keeper| Ok(most.max(keeper.takes()?)))
    }

    /// Flushes what has not been flushed lately, while the guest goes on. That it fails is told by the flush of the stopped machine.
    ///
    /// # Errors
    /// One does not answer.
    pub(super) fn flush_bulk(&self) -> Result<(), StorageError> {
        self.flush_bulk_within(AHEAD_PATIENCE)
    }

    fn flush_bulk_within(&self, patience: Duration) -> Result<(), StorageError> {
        let deadline = Instant::now() + patience;
        let late: Vec<_> = self.0.iter().filter(|keeper| !keeper.is_flushed_lately()).collect();
        // One that is under way was begun for those who do not wait. What is asked of the disk's thread now is done after it.
        let done = |keeper: &&Keeper| keeper.begin_flush().unwrap_or_else(|| keeper.begin(|| ()));
        let begun: Vec<_> = late.iter().map(done).collect();
        for (keeper, done) in late.into_iter().zip(begun) {
            let left = deadline.saturating_duration_since(Instant::now());
            done.recv_timeout(left).map_err(|_| keeper.no_answer("be flushed", patience))?;
        }
        Ok(())
    }

    /// What each disk has done for the guest. Waits for nothing.
    pub(super) fn figures(&self) -> Vec<DiskFigures> {
        self.0.iter().map(|keeper| keeper.counters.figures()).collect()
    }

    /// What is said of a thread that has been at one request for so long: the disk's, if it is of one.
    pub(super) fn does_not_answer(&self, thread: &str, patience: Duration) -> StorageError {
        let path = self.path_of(thread).unwrap_or_default();
        StorageError::NoAnswer { disk: thread.into(), path, what: "do what the guest asked for", patience }
    }

    /// The image of the disk that this thread works for, if it works for one.
    pub(super) fn path_of(&self, thread: &str) -> Option<String> {
        self.0.iter().find(|keeper| keeper.id == thread).map(Keeper::path)
    }

    /// Has something done with each disk, all at once, and waits for all of it.
    fn on_all<T: Send + 'static, J: FnOnce() -> T + Send + 'static>(
        &self,
        what: &'static str,
        patience: Duration,
        job: impl Fn(&Keeper) -> J,
    ) -> Result<Vec<T>, StorageError> {
        let deadline = Instant::now() + patience;
        let begun: Vec<_> = self.0.iter().map(|keeper| keeper.begin(job(keeper))).collect();
        let done = |(keeper, done): (&Keeper, Receiver<T>)| {
            let left = deadline.saturating_duration_since(Instant::now());
            done.recv_timeout(left).map_err(|_| keeper.no_answer(what, patience))
        };
        self.0.iter().zip(begun).map(done).collect()
    }
}

impl Drop for Storage {
    /// Whoever else looks at the images, the locks go with the machine.
    fn drop(&mut self) {
        // What hangs gives its lock up when it comes back, or with the process.
        let _ = self.unlock();
    }
}

impl Keeper {
    fn begin<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (reply, result) = channel();
        // Where the thread is gone, the result's channel says so.
        let _ = self.jobs.send(Box::new(move || {
            // Nobody waits for it any more only where it took too long.
            let _ = reply.send(job());
        }));
        result
    }

    fn unlock_later(&self) {
        let lock = self.lock.clone();
        drop(self.begin(move || lock.unlock()));
    }

    /// Begins a flush, unless one is under way.
    fn begin_flush(&self) -> Option<Receiver<()>> {
        let began = Instant::now();
        let mut flushes = self.flushes.lock();
        if flushes.began.is_some() {
            return None;
        }
        flushes.began = Some(began);
        drop(flushes);
        let (flusher, flushes) = (self.flusher.clone(), self.flushes.clone());
        Some(self.begin(move || {
            let flushed = flusher.flush();
            let mut flushes = flushes.lock();
            flushes.began = None;
            // One that failed is told by the flush of the stopped machine, or by the guest's own.
            if flushed.is_ok() {
                flushes.last = Some((Instant::now(), began.elapsed()));
            }
        }))
    }

    fn takes(&self) -> Result<Duration, StorageError> {
        let flushes = self.flushes.lock();
        let under_way = flushes.began.map(|began| began.elapsed());
        if under_way.is_some_and(|so_far| so_far >= AHEAD_PATIENCE) {
            return Err(self.no_answer("be flushed", AHEAD_PATIENCE));
        }
        let last = flushes.last.map(|(_, took)| took);
        // The one under way may have had more to do than what is left to do.
        Ok(under_way.max(last.filter(|_| under_way.is_none())).unwrap_or_default())
    }

    fn is_flushed_lately(&self) -> bool {
        self.flushes.lock().last.is_some_and(|(when, _)| when.elapsed() < RECENT)
    }

    fn path(&self) -> String {
        self.lock.path().display().to_string()
    }

    fn not_flushed(&self, source: io::Error) -> StorageError {
        StorageError::Flush { disk: self.id.clone(), path: self.path(), source }
    }

    fn no_answer(&self, what: &'static str, patience: Duration) -> StorageError {
        StorageError::NoAnswer { disk: self.id.clone(), path: self.path(), what, patience }
    }
}

/// The life of a thread: it ends with the storage, or when what it does comes back.
fn serve(jobs: &Receiver<Job>) {
    if let Err(error) = seccomp::enter(Role::Storage) {
        tracing::error!("{error}");
        return;
    }
    jobs.iter().for_each(|job| job());
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use config::DiskLocking;
    use devices::blk::{Disk, DiskOptions};

    use super::*;

    /// A disk, and a job of its thread that ends when the sender says so, or is dropped.
    fn busy(folder: &tempfile::TempDir) -> (Storage, Sender<()>) {
        let path = folder.path().join("disk.img");
        std::fs::write(&path, [0; 4096]).unwrap();
        let (jobs, inbox) = channel::<Job>();
        thread::spawn(move || inbox.iter().for_each(|job| job()));
        let disk = Disk::open(&path, DiskOptions::default()).unwrap();
        let file = File::open(&path).unwrap();
        let lock = Arc::new(DiskLock::new(&file, path, true, DiskLocking::Off).unwrap());
        let (flusher, counters) = (disk.flusher(), disk.counters());
        let keeper = Keeper { id: ids::disk(0), lock, flusher, counters, jobs, flushes: Arc::default() };
        let (go_on, wait) = channel();
        drop(keeper.begin(move || wait.recv()));
        (Storage(vec![keeper]), go_on)
    }

    #[test]
    fn a_flush_that_is_under_way_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (storage, go_on) = busy(&folder);
        // As before the first round: nobody waits for it, and the machine is stopped a moment later.
        storage.flush_ahead(Duration::ZERO).unwrap();
        let storage = &storage;
        thread::scope(|scope| {
            let stop = scope.spawn(|| storage.flush_bulk());
            drop(go_on);
            stop.join().unwrap().unwrap();
        });
        assert!(storage.0[0].is_flushed_lately());
    }

    #[test]
    fn storage_that_does_not_answer_is_named_when_the_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let (storage, go_on) = busy(&folder);
        storage.flush_ahead(Duration::ZERO).unwrap();
        let patience = Duration::from_millis(50);
        let began = Instant::now();
        let error = storage.flush_bulk_within(patience).unwrap_err().to_string();
        assert!(error.contains("disk.img') has not answered within 50ms"), "{error}");
        assert!(began.elapsed() >= patience);
        drop(go_on);
    }
}
