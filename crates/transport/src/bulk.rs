#![expect(unsafe_code, reason = "passes on what is promised about pieces")]

use std::{fmt, io, ptr::NonNull, sync::Arc, time::Instant};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt,
};

use crate::{
    Buffer, Connection, Piece, TransportError,
    connection::DEAD_AFTER,
    error_queue::next_completion,
    in_flight::InFlight,
    options::{allow_zero_copy, unacknowledged},
    standstill::{Seen, Standstill},
    tls::StreamError,
    vectored,
};

/// Sends much on one connection: without a copy where that is asked for and the kernel can (`MSG_ZEROCOPY`), else as
/// [`Connection::send_pieces`]. What is small may be sent on the connection itself, in between.
///
/// The kernel reads what is sent where it is, until the other side has it: that is guest memory, or a [`Buffer`]. What it still reads
/// is bounded, and stays in memory (it is *pinned*). On an encrypted connection it is what was encrypted, so that pieces are free at
/// once.
#[derive(Debug)]
pub struct Bulk {
    connection: Arc<Connection>,
    /// Most bytes that the kernel may read at a time.
    most: usize,
    /// Why it copies; `None` as long as it does not.
    why: Option<WhyCopied>,
    /// Goes on where the kernel copies all the same.
    insists: bool,
    sends: InFlight,
    free: Vec<Buffer>,
}

/// Why what is sent is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyCopied {
    /// Nobody asked for anything else.
    NotAsked,
    /// The kernel has nothing else for this kind of connection, such as unix sockets.
    Unsupported,
    /// The kernel copies all the same.
    Copied,
    /// The kernel may pin no more memory.
    NoRoom,
    /// This process has no memory for another buffer.
    NoMemory,
}

/// Least that is worth it: pages are pinned and notifications come for each send, which takes as long as copying some pages
/// (Linux, Documentation/networking/msg_zerocopy.rst, says about 10 KB).
const LEAST: usize = 16 << 10;

impl fmt::Display for WhyCopied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAsked => "it was not asked for",
            Self::Unsupported => "the kernel has no zero-copy for this kind of connection",
            Self::Copied => "the kernel copies all the same, as it does within a host and for network cards that cannot gather",
            Self::NoRoom => "the kernel may pin no more memory: see RLIMIT_MEMLOCK and net.core.optmem_max",
            Self::NoMemory => "this process has no memory for another buffer to send from",
        })
    }
}

impl Bulk {
    /// Has the kernel copy.
    #[must_use]
    pub fn copying(connection: Arc<Connection>) -> Self {
        let (sends, free) = (InFlight::default(), Vec::new());
        Self { connection, most: 0, why: Some(WhyCopied::NotAsked), insists: false, sends, free }
    }

    /// Has the kernel copy nothing, as long as that is possible and of use, and pin `most` bytes at a time.
    #[must_use]
    pub fn without_copy(connection: Arc<Connection>, most: usize) -> Self {
        let why = allow_zero_copy(connection.fd()).is_err().then_some(WhyCopied::Unsupported);
        Self { most: most.max(LEAST), why, ..Self::copying(connection) }
    }

    /// Goes on without a copy of its own where the kernel copies all the same: for tests, which have no network card.
    #[must_use]
    pub fn insisting(self) -> Self {
        Self { insists: true, ..self }
    }

    /// Why what is sent is copied; `None` as long as it is not.
    #[must_use]
    pub fn why_copied(&self) -> Option<WhyCopied> {
        self.why
    }

    /// How many sends were begun without a copy.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.sends.begun()
    }

    /// Of how many the kernel has said that it is done, with all before them.
    ///
    /// # Errors
    /// The connection broke.
    pub fn done(&mut self) -> Result<u64, TransportError> {
        self.hear()?;
        Ok(self.sends.done())
    }

    /// Of how many batches something was copied although nothing should have been, as far as the kernel has said. A batch is what one
    /// call sends; one that is too small to be worth it does not count.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.sends.copied()
    }

    /// Sends `head`, then the bytes of all `pieces`.
    ///
    /// # Safety
    /// The pieces stay mapped until the kernel is [done](Self::done), or what is unmapped is not put to another use before (it is
    /// pages of a mapping of its own, not of the allocator's). They may be written by others meanwhile; what is sent is then some mixture
    /// of old and new.
    ///
    /// # Errors
    /// As [`Connection::send_pieces`].
    pub unsafe fn send_pieces(&mut self, head: &[u8], pieces: &mut [Piece]) -> Result<(), TransportError> {
        let bytes: usize = pieces.iter().map(Piece::bytes).sum();
        let connection = self.connection.clone();
        if bytes < LEAST || self.why == Some(WhyCopied::NotAsked) {
            // SAFETY: the caller's promise.
            return unsafe { connection.send_pieces(head, pieces) };
        }
        self.sends.begin_batch();
        if self.why.is_some() {
            self.sends.copy();
            // SAFETY: the caller's promise.
            return unsafe { connection.send_pieces(head, pieces) };
        }
        let Some(stream) = connection.stream()? else {
            // SAFETY: the caller's promise.
            return unsafe { self.send_plain(head, pieces) };
        };
        // SAFETY: the caller's promise.
        let filler = unsafe { vectored::filler(head, pieces) };
        let sent = stream.send_by(None, filler, |records, bytes| self.send_records(records, bytes));
        sent.map_err(|error: BulkError| match error {
            BulkError::Stream(error) => connection.explain_stream(error),
            BulkError::Transport(error) => error,
        })
    }

    /// Sends `head`, then the first `bytes` bytes of `buffer`, and may leave another one in its place, as long, with whatever in it.
    ///
    /// # Errors
    /// As [`Self::send_pieces`].
    pub fn send_buffer(
        &mut self,
        head: &[u8],
        buffer: &mut Buffer,
        bytes: usize,
    ) -> Result<(), TransportError> {
        let is_encrypted = self.connection.stream()?.is_some();
        if bytes >= LEAST
            && self.why.is_none()
            && !is_encrypted
            && let Some(full) = self.swap(buffer)?
        {
            self.sends.begin_batch();
            return self.send_full(head, full, bytes);
        }
        // SAFETY: the buffer is mapped, and what is encrypted or copied is not read again.
        unsafe { self.send_pieces(head, &mut [piece(buffer, bytes)]) }
    }

    /// Waits until the kernel is done with everything.
    ///
    /// # Errors
    /// The connection broke, or the other side takes nothing for too long.
    pub fn flush(&mut self) -> Result<(), TransportError> {
        self.wait_until(InFlight::is_empty)
    }

    /// Records that were made are sent, and their buffer kept until the kernel is done.
    fn send_records(&mut self, records: &mut Buffer, bytes: usize) -> Result<(), BulkError> {
        if bytes >= LEAST
            && self.why.is_none()
            && let Some(full) = self.swap(records)?
        {
            return Ok(self.send_full(&[], full, bytes)?);
        }
        if self.why.is_some() {
            self.sends.copy();
        }
        Ok(vectored::send_all(self.connection.fd(), &records[..bytes])?)
    }

    /// Takes the buffer, and leaves one of which the kernel is done, or a new one while there is room for it. `None` where there is no
    /// memory for one.
    fn swap(&mut self, buffer: &mut Buffer) -> Result<Option<Buffer>, TransportError> {
        let (bytes, most) = (buffer.len(), self.most);
        self.wait_until(|sends| sends.buffers() == 0 || (sends.buffers() + 1) * bytes <= most)?;
        let spare = match self.free.pop().filter(|spare| spare.len() == bytes) {
            Some(spare) => spare,
            None => match Buffer::new(bytes) {
                Ok(spare) => spare,
                Err(_) => {
                    self.why = Some(WhyCopied::NoMemory);
                    return Ok(None);
                }
            },
        };
        Ok(Some(std::mem::replace(buffer, spare)))
    }

    /// Sends the first `bytes` bytes of a buffer, which is kept until the kernel is done.
    fn send_full(&mut self, head: &[u8], mut full: Buffer, bytes: usize) -> Result<(), TransportError> {
        // SAFETY: it is kept until the kernel is done. Where the connection breaks before, it is unmapped, and the kernel reads what was
        // in it all the same: it is pages of a mapping of its own.
        let sent = unsafe { self.send_plain(head, &mut [piece(&mut full, bytes)]) };
        self.sends.keep(full, &mut self.free);
        sent
    }

    /// Sends to the kernel what it reads where it is.
    ///
    /// # Safety
    /// As [`Self::send_pieces`].
    unsafe fn send_plain(&mut self, head: &[u8], mut pieces: &mut [Piece]) -> Result<(), TransportError> {
        let connection = self.connection.clone();
        if !head.is_empty() {
            vectored::send_head(connection.fd(), head, true).map_err(|error| connection.explain(error))?;
        }
        while !pieces.is_empty() {
            if self.why.is_some() {
                self.sends.copy();
                // SAFETY: the caller's promise.
                let sent = unsafe { vectored::send_all_pieces(connection.fd(), pieces) };
                return sent.map_err(|error| connection.explain(error));
            }
            let most = self.most;
            // Half of it: the other half is on its way meanwhile.
            self.wait_until(|sends| sends.bytes() <= most / 2)?;
            // SAFETY: the caller's promise.
            let (sent, left) = unsafe { vectored::send_without_copy(connection.fd(), pieces, most / 2) };
            pieces = left;
            match sent {
                Ok(sent) => self.sends.begin(sent),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => self.make_room()?,
                Err(error) => return Err(connection.explain(error)),
            }
        }
        self.hear()
    }

    /// The kernel may pin no more, or remember no more sends: what is under way must be done first. Where nothing is, it does not get
    /// better by waiting.
    fn make_room(&mut self) -> Result<(), TransportError> {
        if self.sends.is_empty() {
            self.why = Some(WhyCopied::NoRoom);
            return Ok(());
        }
        let done = self.sends.done();
        self.wait_until(|sends| sends.done() > done)
    }

    /// Waits until the kernel has said enough.
    fn wait_until(&mut self, is_enough: impl Fn(&InFlight) -> bool) -> Result<(), TransportError> {
        let (mut standstill, mut is_over) = (Standstill::begin(Instant::now()), false);
        loop {
            self.hear()?;
            if is_enough(&self.sends) {
                return Ok(());
            }
            if is_over {
                return Err(self.connection.explain(self.why_it_ended()));
            }
            if standstill.lasts(Instant::now(), self.seen()?) >= DEAD_AFTER {
                return Err(TransportError::Slow);
            }
            // It may have said the last before it ended.
            is_over = self.wait_for_word()?;
        }
    }

    /// How far the connection is.
    fn seen(&self) -> Result<Seen, TransportError> {
        let unacknowledged = unacknowledged(self.connection.fd());
        let unacknowledged = unacknowledged.map_err(|error| self.connection.explain(error))?;
        Ok(Seen { done: self.sends.done(), unacknowledged })
    }

    /// What the kernel says of a connection that has ended.
    fn why_it_ended(&self) -> io::Error {
        match sockopt::socket_error(self.connection.fd()) {
            Ok(Err(error)) | Err(error) => error.into(),
            Ok(Ok(())) => io::ErrorKind::ConnectionReset.into(),
        }
    }

    /// Waits until the kernel says something, or the connection ends, for a second at most. Returns whether it has ended.
    fn wait_for_word(&self) -> Result<bool, TransportError> {
        // Errors are always looked for, and that is how it is told.
        let mut look = [PollFd::from_borrowed_fd(self.connection.fd(), PollFlags::empty())];
        match poll(&mut look, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) {
            Ok(_) => Ok(look[0].revents().contains(PollFlags::HUP)),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(self.connection.explain(error.into())),
        }
    }

    /// Takes in what the kernel has said.
    fn hear(&mut self) -> Result<(), TransportError> {
        while !self.sends.is_empty() {
            let told = next_completion(self.connection.fd());
            let Some(completion) = told.map_err(|error| self.connection.explain(error))? else { break };
            let ended = self.sends.end(completion, &mut self.free);
            ended.map_err(|_| {
                self.connection.explain(io::Error::other("the kernel tells of a send that never was"))
            })?;
            if completion.copied && !self.insists {
                self.why.get_or_insert(WhyCopied::Copied);
            }
        }
        Ok(())
    }
}

/// The first `bytes` bytes of a buffer.
fn piece(buffer: &mut Buffer, bytes: usize) -> Piece {
    Piece::new(NonNull::from(&mut buffer[..bytes]).cast(), bytes)
}

/// Why records cannot be sent.
enum BulkError {
    Stream(StreamError),
    Transport(TransportError),
}

impl From<StreamError> for BulkError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl From<TransportError> for BulkError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<io::Error> for BulkError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error.into())
    }
}
