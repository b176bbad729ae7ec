use std::{
    io::{self, IsTerminal},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    io::Errno,
};

use super::{Backend, BackendError, backend::Backlog};
use crate::{Interest, Watch};

const INPUT: u32 = 0;
const OUTPUT: u32 = 1;

/// Bytes that a pipe or socket takes without blocking once it is writable (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// An open descriptor for output, and maybe one for input: the terminal, pipes, a file.
///
/// They are asked before each read and write whether they are ready and never switched to non-blocking, since other
/// processes (the shell) share them.
#[derive(Debug)]
pub struct Descriptors {
    input: Option<OwnedFd>,
    output: OwnedFd,
    /// What is written at once: one byte to a terminal, which promises no more.
    chunk: usize,
    backlog: Backlog,
}

impl Descriptors {
    /// Standard input and output of this process.
    ///
    /// # Errors
    /// They are closed, or the process has too many descriptors.
    pub fn stdio() -> Result<Self, BackendError> {
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(BackendError::Stdio)?;
        let output = io::stdout().as_fd().try_clone_to_owned().map_err(BackendError::Stdio)?;
        Ok(Self::new(Some(input), output))
    }

    /// Any descriptors.
    #[must_use]
    pub fn new(input: Option<OwnedFd>, output: OwnedFd) -> Self {
        let chunk = if output.is_terminal() { 1 } else { CHUNK };
        Self { input, output, chunk, backlog: Backlog::default() }
    }

    fn flush(&mut self) {
        let (output, chunk) = (&self.output, self.chunk);
        self.backlog.drain(|bytes| {
            let bytes = &bytes[..bytes.len().min(chunk)];
            if !is_ready(output.as_fd(), PollFlags::OUT) {
                return 0;
            }
            match rustix::io::write(output, bytes) {
                Ok(written) => written,
                Err(Errno::INTR | Errno::AGAIN) => 0,
                // Nobody will ever read this: a pipe without reader, a terminal that is gone.
                Err(_) => bytes.len(),
            }
        });
    }
}

impl Backend for Descriptors {
    fn watches(&self) -> Vec<Watch> {
        let input = self.input.as_ref().map(|fd| (fd.as_fd(), Interest::Read, INPUT));
        let all = input.into_iter().chain([(self.output.as_fd(), Interest::ReadWrite, OUTPUT)]);
        all.filter(|(fd, ..)| can_be_watched(*fd))
            .map(|(fd, interest, token)| Watch { fd: fd.as_raw_fd(), interest, token })
            .collect()
    }

    fn ready(&mut self, _token: u32) {
        self.flush();
    }

    fn write(&mut self, bytes: &[u8]) {
        self.backlog.add(bytes);
        self.flush();
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        let Some(input) = &self.input else { return 0 };
        if !is_ready(input.as_fd(), PollFlags::IN) {
            return 0;
        }
        // At the end of the input the descriptor stays open, as it is being watched.
        rustix::io::read(input, room).unwrap_or(0)
    }
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, what)];
    // A hang-up counts as ready: the read or write then says what is the matter without blocking.
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Regular files and /dev/null cannot be watched (epoll_ctl(2), EPERM); they never keep anybody waiting either.
fn can_be_watched(fd: BorrowedFd<'_>) -> bool {
    let Ok(probe) = epoll::create(epoll::CreateFlags::CLOEXEC) else { return true };
    epoll::add(&probe, fd, epoll::EventData::new_u64(0), epoll::EventFlags::empty()) != Err(Errno::PERM)
}
