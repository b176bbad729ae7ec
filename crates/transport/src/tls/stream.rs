//! An encrypted connection after its handshake.
//!
//! Each direction has keys and a buffer of its own, made once, and a lock that only those wait for who use the same direction. What
//! both need is the [secrets](Secrets), when keys are renewed.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::{Mutex, MutexGuard};
use rustls::Error;

use super::{
    Certificate, Security, Side, TlsError,
    exporter::{Exported, Exporter},
    incoming::Incoming,
    messages::{self, FAREWELL, Message},
    outgoing::Outgoing,
    records::{Keys, Kind},
    secrets::Secrets,
    session::Agreed,
};
use crate::{Buffer, vectored};

/// An encrypted connection, without its socket.
pub(crate) struct Stream {
    incoming: Mutex<Receiver>,
    outgoing: Mutex<Outgoing>,
    secrets: Secrets,
    /// The other side has asked that this side's keys be renewed.
    are_keys_unwanted: AtomicBool,
    /// How often this side's keys were renewed.
    rekeys: AtomicU64,
    /// Why nothing can be sent or received any more.
    over: OnceLock<Error>,
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

struct Receiver {
    arrived: Incoming,
    keys: Keys,
    /// The other side has said that nothing follows.
    is_over: bool,
}

impl Stream {
    /// After the handshake. `arrived` has what came behind it. Fails where there is no memory for what is sent.
    pub(super) fn new(
        agreed: Agreed,
        rekey_after: u64,
        arrived: Incoming,
        exporter: Exporter,
        facts: Facts,
    ) -> io::Result<Self> {
        Ok(Self {
            incoming: Mutex::new(Receiver { arrived, keys: agreed.to_receive_with, is_over: false }),
            outgoing: Mutex::new(Outgoing::new(agreed.to_send_with, rekey_after)?),
            secrets: agreed.secrets,
            are_keys_unwanted: AtomicBool::new(false),
            rekeys: AtomicU64::new(0),
            over: OnceLock::new(),
            exporter,
            facts,
        })
    }

    /// Sends what `fill` puts into the buffers that it is given, until it leaves one that is not full. Gives up at `until`.
    pub(crate) fn send_from(
        &self,
        fd: BorrowedFd<'_>,
        until: Option<Instant>,
        fill: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<(), StreamError> {
        self.send_by(until, fill, |records, bytes| Ok(send(fd, &records[..bytes], until)?))
    }

    /// The same, by `send`, which gets a buffer, and how much of it is to be sent. It may keep that one and leave another in its
    /// place, as long.
    pub(crate) fn send_by<E: From<StreamError>>(
        &self,
        until: Option<Instant>,
        mut fill: impl FnMut(&mut [u8]) -> usize,
        mut send: impl FnMut(&mut Buffer, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut outgoing = lock(&self.outgoing, until).map_err(StreamError::from)?;
        loop {
            self.check()?;
            let mut is_last = false;
            while !is_last {
                self.renew_keys(&mut outgoing).map_err(|error| self.end(error))?;
                let Some(room) = outgoing.room() else { break };
                let room_bytes = room.len();
                let bytes = fill(room);
                is_last = bytes < room_bytes;
                if bytes > 0 {
                    outgoing.seal(Kind::Data, bytes).map_err(|error| self.end(error))?;
                }
            }
            let (records, bytes) = outgoing.take_buffer();
            send(records, bytes)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// If they were used for long enough, or the other side has asked for it.
    fn renew_keys(&self, outgoing: &mut Outgoing) -> Result<(), Error> {
        let are_unwanted = self.are_keys_unwanted.swap(false, Ordering::Relaxed);
        if are_unwanted || outgoing.are_keys_worn() {
            outgoing.renew_keys(&self.secrets)?;
            self.rekeys.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
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
        let Receiver { arrived, keys, is_over } = &mut *incoming;
        loop {
            wanted -= arrived.give(wanted, &mut place);
            if wanted == 0 {
                return Ok(());
            }
            if *is_over {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.check()?;
            let message = arrived.open(keys, self.facts.peer).and_then(|message| {
                if let Some(Message::KeysAreRenewed { yours_too }) = message {
                    *keys = self.secrets.next_to_receive_with()?;
                    self.are_keys_unwanted.fetch_or(yours_too, Ordering::Relaxed);
                }
                Ok(message)
            });
            match message {
                Ok(Some(Message::End)) => *is_over = true,
                Ok(Some(_)) => {}
                Ok(None) => {
                    arrived.read(fd, until)?;
                }
                Err(error) => {
                    self.say_why(fd, &error);
                    return Err(self.end(error));
                }
            }
        }
    }

    /// Whether something has come already that was not handed over. While another thread receives, it is that thread's.
    pub(crate) fn has_kept(&self) -> bool {
        self.incoming.try_lock().is_some_and(|incoming| incoming.arrived.has_kept())
    }

    /// Sends an alert, if there is room for it at once.
    fn say_why(&self, fd: BorrowedFd<'_>, error: &Error) {
        // Whoever sends at this moment fails soon, and without it.
        let Some(mut outgoing) = self.outgoing.try_lock() else { return };
        if let Some(alert) = messages::alert(error)
            && outgoing.say(Kind::Alert, &alert).is_ok()
        {
            // The other side sees the end of the connection otherwise.
            let _ = send(fd, outgoing.take(), Some(Instant::now()));
        }
    }

    /// Tells the other side that nothing follows, if that can be done at once.
    pub(crate) fn say_farewell(&self, fd: BorrowedFd<'_>) {
        let Some(mut outgoing) = self.outgoing.try_lock() else { return };
        if self.over.get().is_none() && outgoing.say(Kind::Alert, &FAREWELL).is_ok() {
            let _ = send(fd, outgoing.take(), Some(Instant::now()));
        }
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
            rekeys: self.rekeys.load(Ordering::Relaxed),
        }
    }

    /// The session is over for both directions.
    fn end(&self, error: Error) -> StreamError {
        let _ = self.over.set(error.clone());
        self.explain(error)
    }

    fn check(&self) -> Result<(), StreamError> {
        self.over.get().map_or(Ok(()), |error| Err(self.explain(error.clone())))
    }

    fn explain(&self, error: Error) -> StreamError {
        StreamError::Tls(TlsError::of(error, self.facts.peer))
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
