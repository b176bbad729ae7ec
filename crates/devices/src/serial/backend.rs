use std::{collections::VecDeque, io, path::PathBuf};

use crate::Watch;

/// Where the bytes of a serial port go to and come from.
///
/// Nothing here ever waits for the other end: [`Self::write`] is called on a vCPU thread.
pub trait Backend: Send + std::fmt::Debug {
    /// The descriptors to watch; tokens are the backend's own.
    fn watches(&self) -> Vec<Watch>;

    /// The descriptor of the watch with this `token` is ready, or may be.
    fn ready(&mut self, token: u32);

    /// Takes what the guest sent. What the other end does not take now is kept for later, up to a limit, or dropped.
    fn write(&mut self, bytes: &[u8]);

    /// Fetches input; returns how many bytes there were, 0 if there are none for now. Only called when there is room
    /// for it: input that the guest does not take stays where it is.
    fn read(&mut self, room: &mut [u8]) -> usize;
}

/// Why a serial port has nowhere to go.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The standard streams cannot be had.
    #[error("Cannot use standard input and output for the serial port")]
    Stdio(#[source] io::Error),
    /// The file cannot be opened.
    #[error(
        "Cannot open '{path}' for the output of the serial port: check the directory and its permissions"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread that writes a file cannot be started.
    #[error(
        "Cannot start the thread that writes the output of the serial port: raise the limit of processes (ulimit -u)"
    )]
    Thread(#[source] io::Error),
    /// Nobody reads the pipe.
    #[error(
        "Nobody reads the pipe '{path}', where the output of the serial port is to go: start its reader first"
    )]
    Unread {
        /// The pipe.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("Cannot listen on '{path}' for the serial port: check the directory and its permissions")]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another program listens there already.
    #[error(
        "'{path}' is in use by another process or is not a socket: give the serial port a path of its own"
    )]
    InUse {
        /// Path of the socket.
        path: PathBuf,
    },
}

/// Bytes held for an end that does not take them now. Past this, output is dropped: a reader that sleeps must not
/// stop the guest.
const BACKLOG_BYTES: usize = 64 << 10;

/// Output that waits for its reader.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
}

impl Backlog {
    /// Adds what fits.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let room = BACKLOG_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend(&bytes[..bytes.len().min(room)]);
    }

    /// Hands bytes to `write`, which returns how many it took, until nothing is left or it takes none.
    pub(super) fn drain(&mut self, mut write: impl FnMut(&[u8]) -> usize) {
        while !self.bytes.is_empty() {
            let taken = write(self.bytes.as_slices().0);
            if taken == 0 {
                break;
            }
            self.bytes.drain(..taken);
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}
