use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{Machine, StorageError};
use crate::{io_loop::IoThread, vcpu::Vcpu};

/// How long the parts of a pause took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PauseTimings {
    /// Until no vCPU was in the guest.
    pub vcpus: Duration,
    /// From then until all I/O threads were parked.
    pub io: Duration,
    /// From then until the disks were flushed.
    pub flush: Duration,
}

/// Why a pause was not complete. The machine is paused nevertheless, unless [`PauseError::runs_on`] says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// What the guest has written to a disk may not be on it.
    #[error(transparent)]
    Flush(#[from] StorageError),
    /// A thread did not come to a stop: storage does not answer, or it waits for memory that is still to come. The machine is not
    /// paused, and runs on.
    #[error(
        "The machine could not be stopped within {patience:?}, and runs on: {who} waits for storage, or for memory that is still at \
         the machine's last place"
    )]
    Waits {
        /// What waits.
        who: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// Pages of its memory go on coming. The machine is not paused, and runs on.
    #[error(
        "The machine was not stopped, and runs on: threads that place pages of it, which come from where it was, do not end"
    )]
    Pages,
    /// Its memory was given up, and a vCPU does not come to a stop. It is never let run again.
    #[error("{who} has not come to a stop within {patience:?}, though no page is to come any more")]
    Stuck {
        /// Which vCPU.
        who: String,
        /// How long it was waited for.
        patience: Duration,
    },
}

/// How long threads may take to come to a stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a flush may take once the machine is stopped.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
/// How long vCPUs may take to come to a stop whose memory is about to be given up.
const LACKING_PATIENCE: Duration = Duration::from_secs(1);

impl PauseError {
    /// Whether the machine runs on.
    #[must_use]
    pub fn runs_on(&self) -> bool {
        matches!(self, Self::Waits { .. } | Self::Pages)
    }
}

impl Machine {
    /// Lets the guest run. Does nothing if it does already.
    pub fn resume(&self) {
        let _transition = self.transition.lock();
        self.start();
    }

    /// Stops the guest between two instructions, and the devices between two requests; flushes the disks. Nothing writes
    /// guest memory from then on until [`Self::resume`]. Does nothing if it is paused already.
    ///
    /// # Errors
    /// A disk could not be flushed, and the machine is paused all the same; or a thread does not come to a stop in ten seconds, and
    /// the machine runs on.
    pub fn pause(&self) -> Result<PauseTimings, PauseError> {
        let _transition = self.transition.lock();
        self.stop()
    }

    /// Has each vCPU do nothing for this long, once, in their order. A machine that is stopped meanwhile does not wait for that.
    pub(crate) fn rest_vcpus(&self, pieces: &[Duration]) {
        for (vcpu, piece) in self.board.vcpus.iter().zip(pieces).filter(|(_, piece)| !piece.is_zero()) {
            vcpu.rest(*piece);
        }
    }

    /// Stops the machine, which lacks pages and needs none of them any more: it starts anew, or ends. `forget_missing` has them forgotten,
    /// and returns whether that is done. Does nothing else if the machine is paused already.
    ///
    /// A vCPU for which KVM touches guest memory itself (a page table, an instruction, a clock page) waits for a page that is missing
    /// in the kernel, and no signal brings it out. It comes out when the page is forgotten, with what was read as zero, and stops
    /// there; by then no thread of a device works, so that nothing comes of it.
    ///
    /// # Errors
    /// As [`Self::pause`], and see [`PauseError`].
    pub(crate) fn stop_lacking(&self, forget_missing: impl FnOnce() -> bool) -> Result<(), PauseError> {
        let _transition = self.transition.lock();
        self.stop_and_forget(forget_missing)
    }

    /// [`Self::stop_lacking`] while the transition is locked.
    pub(super) fn stop_and_forget(&self, forget_missing: impl FnOnce() -> bool) -> Result<(), PauseError> {
        if !self.is_running() {
            return if forget_missing() { Ok(()) } else { Err(PauseError::Pages) };
        }
        self.board.vcpus.iter().for_each(Vcpu::ask_to_stop);
        self.io.iter().for_each(IoThread::ask_to_park);
        let runs_on = |error| {
            self.let_threads_run();
            Err(error)
        };
        if let Err(who) = self.wait_for_io(Instant::now() + PATIENCE) {
            return runs_on(PauseError::Waits { who, patience: PATIENCE });
        }
        // Most come out by themselves. Whichever does not is let out.
        let _ = self.wait_for_vcpus(Instant::now() + LACKING_PATIENCE);
        if !forget_missing() {
            return runs_on(PauseError::Pages);
        }
        self.running.store(false, Ordering::Release);
        self.wait_for_vcpus(Instant::now() + PATIENCE)
            .map_err(|who| PauseError::Stuck { who, patience: PATIENCE })?;
        self.flush_disks()
    }

    /// Whether the guest runs. Never waits.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Puts what the guest has written on stable storage. Before a pause that is to be short, this takes the bulk of the
    /// writing out of it.
    ///
    /// # Errors
    /// The first disk that could not be flushed, while the others were; or one whose storage does not answer for ten seconds.
    pub fn flush_disks(&self) -> Result<(), PauseError> {
        Ok(self.storage.flush(FLUSH_PATIENCE)?)
    }

    /// [`Self::resume`] while the transition is locked.
    pub(super) fn start(&self) {
        if !self.is_running() {
            self.tell_that_it_stood_still();
            // What a device has to tell the guest is there before the guest looks.
            self.let_threads_run();
            self.running.store(true, Ordering::Release);
        }
    }

    fn let_threads_run(&self) {
        self.io.iter().for_each(IoThread::run);
        self.board.vcpus.iter().for_each(Vcpu::run);
    }

    /// Waits until all threads that were asked to have come to a stop. Returns when no vCPU was in the guest.
    ///
    /// # Errors
    /// One has not; which.
    fn wait_until_parked(&self, deadline: Instant) -> Result<Instant, String> {
        self.wait_for_vcpus(deadline)?;
        let stopped = Instant::now();
        self.io.iter().for_each(IoThread::ask_to_park);
        self.wait_for_io(deadline).map(|()| stopped)
    }

    fn wait_for_vcpus(&self, deadline: Instant) -> Result<(), String> {
        let vcpus = self.board.vcpus.iter().position(|vcpu| !vcpu.wait_until_parked(Some(deadline)));
        vcpus.map_or(Ok(()), |index| Err(format!("vCPU {index}")))
    }

    fn wait_for_io(&self, deadline: Instant) -> Result<(), String> {
        let io = self.io.iter().find(|thread| !thread.wait_until_parked(Some(deadline)));
        io.map_or(Ok(()), |thread| {
            let path = self.storage.path_of(thread.name());
            let path = path.map_or_else(String::new, |path| format!(" ('{path}')"));
            Err(format!("thread '{}'{path}", thread.name()))
        })
    }

    /// [`Self::pause`] while the transition is locked.
    pub(super) fn stop(&self) -> Result<PauseTimings, PauseError> {
        if !self.is_running() {
            return Ok(PauseTimings::default());
        }
        let start = Instant::now();
        // Asking all before waiting for one: the slowest decides, not their sum.
        self.board.vcpus.iter().for_each(Vcpu::ask_to_stop);
        let stopped = self.wait_until_parked(start + PATIENCE).map_err(|who| {
            // A thread that parks only now finds that it is to run, and does.
            self.let_threads_run();
            PauseError::Waits { who, patience: PATIENCE }
        })?;
        let (vcpus, io) = (stopped - start, start.elapsed());
        self.running.store(false, Ordering::Release);
        self.flush_disks()?;
        Ok(PauseTimings { vcpus, io: io - vcpus, flush: start.elapsed() - io })
    }
}
