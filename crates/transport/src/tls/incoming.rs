//! What has arrived and was not asked for yet.

use std::{io, ops::Range, os::fd::BorrowedFd, time::Instant};

use rustls::{Error, PeerMisbehaved};

use super::{
    Side,
    messages::Message,
    records::{Keys, RECORD_BYTES, RECORD_OVERHEAD},
};
use crate::vectored;

/// As many bytes as are read with one system call, if there are so many: 1 MiB, as in clear.
const BUFFER_BYTES: usize = 64 * (RECORD_BYTES + RECORD_OVERHEAD);

/// How many records in a row may carry nothing.
const MOST_EMPTY: u32 = 32;

/// One buffer: records are opened where they arrived, and handed over from there.
pub(super) struct Incoming {
    buffer: Box<[u8]>,
    /// Where what arrived and was not looked at is.
    raw: Range<usize>,
    /// Where what was decrypted and not handed over is: in front of it.
    plain: Range<usize>,
    empty: u32,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), raw: 0..0, plain: 0..0, empty: 0 }
    }

    /// What was not looked at yet.
    pub(super) fn raw(&mut self) -> &mut [u8] {
        &mut self.buffer[self.raw.clone()]
    }

    /// The first bytes of what was not looked at yet are used up.
    pub(super) fn used(&mut self, bytes: usize) {
        self.raw.start += bytes;
    }

    /// Whether anything is kept.
    pub(super) fn has_kept(&self) -> bool {
        !self.raw.is_empty() || !self.plain.is_empty()
    }

    /// Hands over at most `wanted` bytes that are decrypted. Returns how many.
    pub(super) fn give(&mut self, wanted: usize, place: &mut impl FnMut(&[u8])) -> usize {
        let bytes = wanted.min(self.plain.len());
        if bytes > 0 {
            place(&self.buffer[self.plain.start..self.plain.start + bytes]);
            self.plain.start += bytes;
        }
        bytes
    }

    /// Opens the next record, once all of the one before is handed over. `None` where it is not whole yet. If it carries
    /// [bytes](Message::Bytes), these can be handed over.
    pub(super) fn open(&mut self, keys: &mut Keys, from: Side) -> Result<Option<Message>, Error> {
        let Some(record) = keys.open(&mut self.buffer[self.raw.clone()])? else { return Ok(None) };
        let content = self.raw.start + record.content.start..self.raw.start + record.content.end;
        self.raw.start += record.used;
        let message = Message::read(record.kind, &self.buffer[content.clone()], from)?;
        if message == Message::Bytes {
            self.plain = content;
            self.empty = 0;
        } else {
            self.empty += 1;
            if self.empty > MOST_EMPTY {
                return Err(PeerMisbehaved::TooManyEmptyFragments.into());
            }
        }
        Ok(Some(message))
    }

    /// Reads more from the socket, at least a byte, and returns it. What was decrypted is handed over. Gives up at `until`.
    pub(super) fn read(&mut self, fd: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<&[u8]> {
        if self.raw.start > 0 {
            self.buffer.copy_within(self.raw.clone(), 0);
            self.raw = 0..self.raw.len();
        }
        let room = &mut self.buffer[self.raw.end..];
        if room.is_empty() {
            return Err(io::Error::other(
                "more arrived than a record or a message of the handshake may have",
            ));
        }
        let read = match until {
            None => vectored::receive_some(fd, room)?,
            Some(until) => vectored::receive_some_until(fd, room, until)?,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let begin = self.raw.end;
        self.raw.end += read;
        Ok(&self.buffer[begin..self.raw.end])
    }
}
