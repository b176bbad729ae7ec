use std::{
    fs::File,
    io::{self, IsTerminal},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    io::Errno,
};

use super::{
    Backend, BackendError,
    backend::Backlog,
    writer::{Confine, Writer},
};
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
    output: Output,
}

#[derive(Debug)]
enum Output {
    /// Something that can be asked whether it takes more.
    Stream {
        fd: OwnedFd,
        /// What is written at once: one byte to a terminal, which promises no more.
        chunk: usize,
        backlog: Backlog,
    },
    /// A file, which always says that it does: a thread waits for its storage.
    File(Writer),
}

impl Descriptors {
    /// Standard input and output of this process.
    ///
    /// A thread writes where output is a file, which `confine` confines.
    ///
    /// # Errors
    /// They are closed, the process has too many descriptors, or the thread cannot be started.
    pub fn stdio(confine: Confine) -> Result<Self, BackendError> {
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(BackendError::Stdio)?;
        let output = io::stdout().as_fd().try_clone_to_owned().map_err(BackendError::Stdio)?;
        Self::new(Some(input), output, confine)
    }

    /// Any descriptors.
    ///
    /// # Errors
    /// As [`Self::stdio`].
    pub fn new(input: Option<OwnedFd>, output: OwnedFd, confine: Confine) -> Result<Self, BackendError> {
        let file = File::from(output);
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let output = if is_file {
            Output::File(Writer::start(file, confine).map_err(BackendError::Thread)?)
        } else {
            let chunk = if file.is_terminal() { 1 } else { CHUNK };
            Output::Stream { fd: file.into(), chunk, backlog: Backlog::default() }
        };
        Ok(Self { input, output })
    }

    fn flush(&mut self) {
        let Output::Stream { fd, chunk, backlog } = &mut self.output else { return };
        backlog.drain(|bytes| {
            let bytes = &bytes[..bytes.len().min(*chunk)];
            if !is_ready(fd.as_fd(), PollFlags::OUT) {
                return 0;
            }
            match rustix::io::write(&*fd, bytes) {
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
        let output = match &self.output {
            Output::Stream { fd, .. } => Some((fd.as_fd(), Interest::ReadWrite, OUTPUT)),
            Output::File(_) => None,
        };
        let all = input.into_iter().chain(output);
        all.filter(|(fd, ..)| can_be_watched(*fd))
            .map(|(fd, interest, token)| Watch { fd: fd.as_raw_fd(), interest, token })
            .collect()
    }

    fn ready(&mut self, _token: u32) {
        self.flush();
    }

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.output {
            Output::Stream { backlog, .. } => backlog.add(bytes),
            Output::File(writer) => writer.write(bytes),
        }
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
