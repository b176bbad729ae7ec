//! Records over a socket.
//!
//! Each direction has a buffer of its own, made once, and a lock that only those wait for who use the same direction. The session's
//! own lock, which both directions need, is held while a record is encrypted or decrypted, never while a peer is waited for.

use std::{io, os::fd::BorrowedFd, time::Instant};

use parking_lot::{Mutex, MutexGuard};

use super::{
    Certificate, Security, Side, TlsError,
    exporter::{Exported, Exporter},
    headers::Headers,
    session::{Found, RECORD_BYTES, RECORD_OVERHEAD, Session},
};
use crate::vectored;

/// Records that are read, or sent, with one system call: 1 MiB, as in clear. Smaller buffers would stay in a core's cache between the
/// kernel's copy and the cipher, but each system call wakes the other side: with 128 KiB a GiB takes a fifth more CPU time. Of both
/// buffers only what is used takes memory.
const RECORDS_AT_ONCE: usize = 64;
const BUFFER_BYTES: usize = RECORDS_AT_ONCE * (RECORD_BYTES + RECORD_OVERHEAD);

/// An encrypted connection, without its socket.
pub(crate) struct Stream {
    session: Mutex<Session>,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    exporter: Exporter,
    facts: Facts,
}

/// Why nothing can be sent or received.
#[derive(Debug)]
pub(crate) enum StreamError {
    Io(io::Error),
    Tls(TlsError),
}

/// What does not change after the handshake.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) cipher: &'static str,
    pub(super) ours: Certificate,
    pub(super) theirs: Certificate,
    pub(super) peer: Side,
}

/// What has arrived and was not asked for yet.
pub(super) struct Incoming {
    /// From the socket; `begin..end` is not decrypted yet.
    raw: Box<[u8]>,
    begin: usize,
    end: usize,
    headers: Headers,
    /// Decrypted; from `given` on not handed over yet.
    plain: Vec<u8>,
    given: usize,
    /// The other side has said that nothing follows.
    is_over: bool,
}

struct Outgoing {
    plain: Box<[u8]>,
    records: Box<[u8]>,
}

impl Stream {
    /// After the handshake.
    pub(super) fn new(session: Session, incoming: Incoming, exporter: Exporter, facts: Facts) -> Self {
        let outgoing = Outgoing {
            plain: vec![0; RECORD_BYTES].into_boxed_slice(),
            records: vec![0; BUFFER_BYTES].into_boxed_slice(),
        };
        Self {
            session: Mutex::new(session),
            incoming: Mutex::new(incoming),
            outgoing: Mutex::new(outgoing),
            exporter,
            facts,
        }
    }

    /// Sends what `fill` puts into the buffers that it is given, until it puts nothing there. Gives up at `until`.
    pub(crate) fn send_from(
        &self,
        fd: BorrowedFd<'_>,
        until: Option<Instant>,
        mut fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<(), StreamError> {
        let mut outgoing = lock(&self.outgoing, until)?;
        let Outgoing { plain, records } = &mut *outgoing;
        loop {
            let mut used = 0;
            let mut is_last = false;
            while !is_last && records.len() - used >= RECORD_BYTES + RECORD_OVERHEAD {
                let bytes = fill(plain);
                is_last = bytes < plain.len();
                if bytes > 0 && !self.seal(&plain[..bytes], records, &mut used, fd, until)? {
                    break;
                }
            }
            send(fd, &records[..used], until)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Encrypts a record behind the `used` bytes of `records`. What the session itself has to say goes first.
    fn seal(
        &self,
        bytes: &[u8],
        records: &mut [u8],
        used: &mut usize,
        fd: BorrowedFd<'_>,
        until: Option<Instant>,
    ) -> Result<bool, StreamError> {
        let mut session = self.session.lock();
        session.settle().map_err(|error| self.explain(error))?;
        if session.has_queued() {
            let queued = session.take_queued();
            // Nobody else sends meanwhile, and the session is free for who receives.
            drop(session);
            send(fd, &records[..*used], until)?;
            send(fd, &queued, until)?;
            *used = 0;
            session = self.session.lock();
        }
        let sealed = session.seal(bytes, &mut records[*used..]).map_err(|error| self.explain(error))?;
        *used += sealed;
        Ok(!session.has_queued())
    }

    /// Receives exactly `wanted` bytes, and hands them to `place` in pieces. Gives up at `until`.
    pub(crate) fn receive_to(
        &self,
        fd: BorrowedFd<'_>,
        until: Option<Instant>,
        mut wanted: usize,
        mut place: impl FnMut(&[u8]),
    ) -> Result<(), StreamError> {
        let mut incoming = lock(&self.incoming, until)?;
        loop {
            wanted -= incoming.give(wanted, &mut place);
            if wanted == 0 {
                return Ok(());
            }
            if incoming.is_over {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let Incoming { raw, begin, end, plain, given, .. } = &mut *incoming;
            let mut session = self.session.lock();
            let (used, found) = session.open(&mut raw[*begin..*end], &mut |bytes| {
                let now = wanted.min(bytes.len());
                place(&bytes[..now]);
                wanted -= now;
                if now < bytes.len() {
                    plain.clear();
                    plain.extend_from_slice(&bytes[now..]);
                    *given = 0;
                }
            });
            drop(session);
            *begin += used;
            match found {
                Ok(Found::Bytes) => {}
                Ok(Found::End) => incoming.is_over = true,
                Ok(Found::Nothing | Found::HandshakeWaits) => incoming.read(fd, until)?,
                Err(error) => {
                    self.say_why(fd);
                    return Err(self.explain(error));
                }
            }
        }
    }

    /// Sends the alert that the session may have queued, if there is room for it at once.
    fn say_why(&self, fd: BorrowedFd<'_>) {
        // Whoever sends at this moment fails soon, and without it.
        let Some(_outgoing) = self.outgoing.try_lock() else { return };
        let queued = self.session.lock().take_queued();
        // The other side sees the end of the connection otherwise.
        let _ = send(fd, &queued, Some(Instant::now()));
    }

    /// Tells the other side that nothing follows, if that can be done at once.
    pub(crate) fn say_farewell(&self, fd: BorrowedFd<'_>) {
        let Some(_outgoing) = self.outgoing.try_lock() else { return };
        let Some(mut session) = self.session.try_lock() else { return };
        let mut words = session.take_queued();
        words.extend(session.farewell());
        drop(session);
        let _ = send(fd, &words, Some(Instant::now()));
    }

    /// A value that only the ends of this connection can compute.
    pub(crate) fn export(&self, label: &str, context: &[u8]) -> Exported {
        self.exporter.export(label, context)
    }

    /// What is known of the connection.
    pub(crate) fn security(&self) -> Security {
        let Facts { cipher, ours, theirs, .. } = &self.facts;
        Security {
            protocol: "TLS 1.3",
            cipher,
            ours: ours.clone(),
            peer: theirs.clone(),
            resumed: false,
            rekeys: self.session.lock().rekeys(),
        }
    }

    fn explain(&self, error: rustls::Error) -> StreamError {
        StreamError::Tls(TlsError::of(error, self.facts.peer))
    }
}

impl Incoming {
    pub(super) fn new() -> Self {
        let raw = vec![0; BUFFER_BYTES].into_boxed_slice();
        let headers = Headers::default();
        Self { raw, begin: 0, end: 0, headers, plain: Vec::new(), given: 0, is_over: false }
    }

    /// What is not decrypted yet.
    pub(super) fn raw(&mut self) -> &mut [u8] {
        &mut self.raw[self.begin..self.end]
    }

    /// The first bytes of what is not decrypted yet are used up.
    pub(super) fn used(&mut self, bytes: usize) {
        self.begin += bytes;
    }

    /// Keeps what was decrypted before anyone asked for it.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.plain.extend_from_slice(bytes);
    }

    /// Reads more from the socket, at least a byte. Gives up at `until`.
    pub(super) fn read(&mut self, fd: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<()> {
        if self.begin > 0 {
            self.raw.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.end == self.raw.len() {
            return Err(io::Error::other(
                "more arrived than a record or a message of the handshake may have",
            ));
        }
        let read = match until {
            None => vectored::receive_some(fd, &mut self.raw[self.end..])?,
            Some(until) => vectored::receive_some_until(fd, &mut self.raw[self.end..], until)?,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.headers.check(&self.raw[self.end..self.end + read])?;
        self.end += read;
        Ok(())
    }

    /// Hands over at most `wanted` bytes that are decrypted already.
    fn give(&mut self, wanted: usize, place: &mut impl FnMut(&[u8])) -> usize {
        let bytes = wanted.min(self.plain.len() - self.given);
        if bytes > 0 {
            place(&self.plain[self.given..self.given + bytes]);
            self.given += bytes;
        }
        bytes
    }
}

/// Waits for who uses the same direction, until `until`.
fn lock<T>(direction: &Mutex<T>, until: Option<Instant>) -> io::Result<MutexGuard<'_, T>> {
    match until {
        None => Ok(direction.lock()),
        Some(until) => direction.try_lock_until(until).ok_or_else(|| io::ErrorKind::TimedOut.into()),
    }
}

fn send(fd: BorrowedFd<'_>, bytes: &[u8], until: Option<Instant>) -> io::Result<()> {
    match until {
        None => vectored::send_all(fd, bytes),
        Some(until) => vectored::send_all_until(fd, bytes, until),
    }
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("facts", &self.facts).finish_non_exhaustive()
    }
}
