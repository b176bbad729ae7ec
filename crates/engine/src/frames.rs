//! Whole frames over a connection.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use transport::{Connection, TransportError};
use wire::{FrameHeader, FrameKind, HEADER_BYTES, Message, WireError};

/// Reads frames off one connection, checking that none is lost, repeated or damaged.
#[derive(Debug)]
pub(crate) struct FrameReader {
    sequence: u32,
    body: Vec<u8>,
    /// Bytes of the stream up to the end of the last whole frame, its page data not counted.
    offset: u64,
}

/// Memory taken at once for a frame; a longer one grows as its bytes really arrive.
const STEP_BYTES: usize = 64 << 10;

/// How long a message may take to go out. The migration thread waits for it, and the machine may be stopped.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that are read ahead of what was dealt with: a peer that talks faster than it is listened to has to wait, and
/// cannot fill this process's memory.
const READ_AHEAD: usize = 16;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl FrameReader {
    pub(crate) fn new() -> Self {
        Self { sequence: 0, body: Vec::new(), offset: 0 }
    }

    /// Reads the next frame: its kind and its structured part. Page data, if any, is still on the connection.
    pub(crate) fn read(&mut self, connection: &Connection) -> Result<(FrameKind, &[u8]), FrameError> {
        let mut raw = [0; HEADER_BYTES];
        connection.receive(&mut raw)?;
        let header = FrameHeader::decode(&raw)?;
        let length = header.length as usize;
        self.body.clear();
        while self.body.len() < length {
            let have = self.body.len();
            self.body.resize(length.min(have + STEP_BYTES), 0);
            connection.receive(&mut self.body[have..])?;
        }
        header.check(&raw, &self.body, self.sequence)?;
        self.sequence = self.sequence.wrapping_add(1);
        self.offset += (HEADER_BYTES + length) as u64;
        Ok((header.kind, &self.body))
    }

    /// Bytes of all whole frames so far, without the page data that followed some.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next frame, which must be a message.
    pub(crate) fn read_message(&mut self, connection: &Connection) -> Result<Message, FrameError> {
        match self.read(connection)? {
            (FrameKind::Control, body) => Ok(Message::decode(body)?),
            (other, _) => Err(WireError::Kind { found: other as u8 }.into()),
        }
    }
}

/// Sends messages on a control connection.
#[derive(Debug)]
pub(crate) struct MessageSender {
    sequence: u32,
}

impl MessageSender {
    pub(crate) fn new() -> Self {
        Self { sequence: 0 }
    }

    pub(crate) fn send(&mut self, connection: &Connection, message: &Message) -> Result<(), FrameError> {
        let frame = message.encode(self.sequence)?;
        // Who parts does not wait: the end of the connection says the same.
        let is_farewell = matches!(message, Message::Abort { .. } | Message::Bye);
        connection.send_within(&frame, if is_farewell { Duration::ZERO } else { SEND_TIMEOUT })?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }
}

/// Permission to read ahead; goes with the connection whose messages are read.
#[derive(Debug)]
pub(crate) struct ReadAhead(Receiver<()>);

/// The reading side of [`ReadAhead`].
#[derive(Debug)]
pub(crate) struct Reading(Sender<()>);

impl ReadAhead {
    pub(crate) fn new() -> (Self, Reading) {
        let (sender, receiver) = bounded(READ_AHEAD);
        (Self(receiver), Reading(sender))
    }

    /// A message was dealt with: one more may be read. Without this the reader stops; when this is dropped it ends.
    pub(crate) fn dealt_with_one(&self) {
        // Empty only if the message was read with the permission of another connection.
        let _ = self.0.try_recv();
    }
}

impl Reading {
    /// Reads messages and hands them over, until the connection ends, or `hear` answers that nobody listens any more.
    pub(crate) fn read_all(
        self,
        mut reader: FrameReader,
        connection: &Connection,
        hear: impl Fn(Result<Message, FrameError>) -> bool,
    ) {
        while self.0.send(()).is_ok() {
            let heard = reader.read_message(connection);
            let over = heard.is_err();
            if !hear(heard) || over {
                return;
            }
        }
    }
}
