//! Page data that is not received straight into its place: it is held, unpacked, and found sound as a whole before a byte of it reaches
//! guest memory.

use encodings::{Delta, Unpacker};
use transport::Connection;
use wire::{Batch, Encoding, Features, PAGE_BYTES, Run, WireError};

use crate::frames::FrameError;

/// Of one channel. Takes as much memory as the longest batch so far needs, twice [`wire::MAX_HELD_BYTES`] at most, and some 160 KiB for
/// zstd.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    unpacker: Unpacker,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

/// Refuses a batch that is encoded in a way that was not agreed on.
///
/// # Errors
/// That.
pub(super) fn is_agreed(batch: &Batch, features: Features) -> Result<(), WireError> {
    if features.has(batch.needs()) {
        return Ok(());
    }
    Err(WireError::Malformed("page batch with an encoding that was not agreed on".into()))
}

impl Encoded {
    /// Receives what follows the table of `batch`. Returns its data: exactly as many bytes as its runs have in all.
    pub(super) fn receive(&mut self, connection: &Connection, batch: &Batch) -> Result<&[u8], FrameError> {
        // Both are bounded: the table was decoded.
        let (sent, bytes) = (batch.sent_bytes() as usize, batch.data_bytes() as usize);
        let Some((packing, _)) = batch.packed else {
            let plain = room(&mut self.plain, bytes);
            connection.receive(plain)?;
            return Ok(plain);
        };
        let (packed, plain) = (room(&mut self.packed, sent), room(&mut self.plain, bytes));
        connection.receive(packed)?;
        let unpacked = self.unpacker.unpack(packing, packed, plain);
        unpacked
            .map_err(|error| WireError::Malformed(format!("page batch whose data is no good: {error}")))?;
        Ok(plain)
    }
}

/// The first so many bytes of a buffer.
fn room(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    &mut buffer[..bytes]
}

/// The runs of a batch, each with its data.
pub(super) fn runs<'a>(batch: &'a Batch, mut data: &'a [u8]) -> impl Iterator<Item = (&'a Run, &'a [u8])> {
    batch.runs.iter().map(move |run| {
        let (own, rest) = data.split_at(data.len().min(run.data_bytes() as usize));
        data = rest;
        (run, own)
    })
}

/// The pages of a run of differences, each with its own.
pub(super) fn deltas<'a>(
    run: &Run,
    mut data: &'a [u8],
) -> impl Iterator<Item = Result<(u64, Delta<'a>), WireError>> {
    let pages = run.first_page..run.first_page + u64::from(run.pages);
    let last = pages.end - 1;
    pages.map(move |page| {
        let malformed = |what: String| WireError::Malformed(format!("page {page} as a difference: {what}"));
        let (delta, rest) = Delta::split_from(data).map_err(|error| malformed(error.to_string()))?;
        data = rest;
        if page == last && !rest.is_empty() {
            return Err(malformed(format!("{} bytes are left over", rest.len())));
        }
        Ok((page, delta))
    })
}

/// Looks through all differences of a batch. `has` says of which pages something was received before.
///
/// # Errors
/// One is not as it must be, or of a page that was never sent.
pub(super) fn check(batch: &Batch, data: &[u8], has: impl Fn(u64) -> bool) -> Result<(), WireError> {
    for (run, data) in runs(batch, data) {
        let whole = match run.encoding {
            Encoding::Delta { .. } => {
                for delta in deltas(run, data) {
                    let (page, _) = delta?;
                    if !has(page) {
                        let what = format!("page {page} as a difference from what was never sent");
                        return Err(WireError::Malformed(what));
                    }
                }
                true
            }
            Encoding::Raw => data.len() == run.pages as usize * PAGE_BYTES,
            Encoding::Zero => data.is_empty(),
        };
        if !whole {
            return Err(WireError::Malformed("page batch with less data than its runs have".into()));
        }
    }
    Ok(())
}
