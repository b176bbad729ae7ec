//! Records that this side is about to send.

use std::io;

use rustls::Error;

use crate::Buffer;

use super::{
    messages::KEYS_ARE_RENEWED,
    records::{HEADER_BYTES, Keys, Kind, RECORD_BYTES, RECORD_OVERHEAD},
    secrets::Secrets,
};

/// Records that are sent with one system call: 512 KiB. A smaller buffer would stay in a core's cache between the cipher and the
/// kernel's copy, but each system call wakes the other side.
const RECORDS_AT_ONCE: usize = 32;

/// After how many records keys are renewed, however short they are: a quarter of what AES-GCM may be used for (RFC 8446, 5.5).
const REKEY_AFTER_RECORDS: u64 = 1 << 22;

/// Bytes of the buffer.
const BUFFER_BYTES: usize = RECORDS_AT_ONCE * (RECORD_BYTES + RECORD_OVERHEAD);

/// One buffer, in which records are made one behind the other.
pub(super) struct Outgoing {
    records: Buffer,
    used: usize,
    keys: Keys,
    /// With the present keys.
    sent_bytes: u64,
    sent_records: u64,
    rekey_after: u64,
}

impl Outgoing {
    /// Keys are to be renewed after `rekey_after` bytes. Fails where there is no memory for the buffer.
    pub(super) fn new(keys: Keys, rekey_after: u64) -> io::Result<Self> {
        let records = Buffer::new(BUFFER_BYTES)?;
        Ok(Self { records, used: 0, keys, sent_bytes: 0, sent_records: 0, rekey_after })
    }

    /// Where the next record's bytes are to be put; `None` where there is no room for them and for a renewal of keys.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        let begin = self.used + HEADER_BYTES;
        let is_enough = begin + RECORD_BYTES + 2 * RECORD_OVERHEAD <= self.records.len();
        is_enough.then(|| &mut self.records[begin..begin + RECORD_BYTES])
    }

    /// Makes a record of the first `bytes` bytes that were put into the [room](Self::room).
    pub(super) fn seal(&mut self, kind: Kind, bytes: usize) -> Result<(), Error> {
        self.used += self.keys.seal(kind, &mut self.records[self.used..], bytes)?;
        self.sent_bytes += bytes as u64;
        self.sent_records += 1;
        Ok(())
    }

    /// Makes a record of what this side has to say itself; behind one of bytes there is room for it.
    pub(super) fn say(&mut self, kind: Kind, words: &[u8]) -> Result<(), Error> {
        let begin = self.used + HEADER_BYTES;
        self.records[begin..begin + words.len()].copy_from_slice(words);
        self.seal(kind, words.len())
    }

    /// Whether these keys were used for as much as they should be.
    pub(super) fn are_keys_worn(&self) -> bool {
        self.sent_bytes >= self.rekey_after || self.sent_records >= REKEY_AFTER_RECORDS
    }

    /// Tells the other side that what follows is sealed with the next keys, and takes these.
    pub(super) fn renew_keys(&mut self, secrets: &Secrets) -> Result<(), Error> {
        self.say(Kind::Handshake, &KEYS_ARE_RENEWED)?;
        self.keys = secrets.next_to_send_with()?;
        (self.sent_bytes, self.sent_records) = (0, 0);
        Ok(())
    }

    /// The records that were made since this was last called.
    pub(super) fn take(&mut self) -> &[u8] {
        &self.records[..std::mem::take(&mut self.used)]
    }

    /// The same, with their buffer, for which another one as long may be left.
    pub(super) fn take_buffer(&mut self) -> (&mut Buffer, usize) {
        let used = std::mem::take(&mut self.used);
        (&mut self.records, used)
    }
}
