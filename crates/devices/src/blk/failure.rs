//! What becomes of a request that the image did not carry out.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What is done about a request that failed at the image; QEMU's `werror` and `rerror`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told of an I/O error.
    Report,
    /// The machine is stopped, and the request is done again when it runs on. The guest hears nothing.
    Stop,
    /// As [`Self::Stop`] where there is no space for what was written, else as [`Self::Report`].
    StopAtNoSpace,
}

/// What is done about failed requests of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Of requests that change the image, flushes included.
    pub write: OnError,
    /// Of requests that read it.
    pub read: OnError,
}

/// A request failed at the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFailure {
    /// It was to change the image.
    pub write: bool,
    /// There is no space left for what it writes.
    pub no_space: bool,
    /// What the system said, and whether the image has become too short.
    pub reason: String,
    /// The request that waits for the machine to be stopped and to run on; `None` if the guest was told of an error.
    pub waiting: Option<Waiting>,
}

/// A request that waits until the machine has been stopped and runs on. A handle; equal to its clones only.
#[derive(Clone, Debug)]
pub struct Waiting(Arc<AtomicBool>);

/// Who hears of failed requests. Called on the disk's thread with the device locked: an implementation takes note and returns.
pub trait DiskWatch: Send + Sync + std::fmt::Debug {
    /// A request failed.
    fn failed(&self, failure: DiskFailure);
}

impl Default for ErrorPolicy {
    /// QEMU's default.
    fn default() -> Self {
        Self { write: OnError::StopAtNoSpace, read: OnError::Report }
    }
}

impl OnError {
    /// Whether `error` stops the machine.
    pub(super) fn stops_at(self, error: &io::Error) -> bool {
        match self {
            Self::Report => false,
            Self::Stop => true,
            Self::StopAtNoSpace => is_no_space(error),
        }
    }
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Whether it still does: the machine did not run on since.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Waiting {}

/// The file system or the device is full, or whoever owns the image may not use more of it.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
