//! Whole frames over a connection.

use std::time::Instant;

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
        self.read_with(|bytes| connection.receive(bytes))
    }

    fn read_with(
        &mut self,
        receive: impl Fn(&mut [u8]) -> Result<(), TransportError>,
    ) -> Result<(FrameKind, &[u8]), FrameError> {
        let mut raw = [0; HEADER_BYTES];
        receive(&mut raw)?;
        let header = FrameHeader::decode(&raw)?;
        let length = header.length as usize;
        self.body.clear();
        while self.body.len() < length {
            let have = self.body.len();
            self.body.resize(length.min(have + STEP_BYTES), 0);
            receive(&mut self.body[have..])?;
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
        message(self.read(connection)?)
    }

    /// The same, for a message that must have come whole by `deadline`.
    pub(crate) fn read_message_by(
        &mut self,
        connection: &Connection,
        deadline: Instant,
    ) -> Result<Message, FrameError> {
        message(self.read_with(|bytes| connection.receive_by(bytes, deadline))?)
    }
}

fn message((kind, body): (FrameKind, &[u8])) -> Result<Message, FrameError> {
    match kind {
        FrameKind::Control => Ok(Message::decode(body)?),
        other => Err(WireError::Kind { found: other as u8 }.into()),
    }
}
