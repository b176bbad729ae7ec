//! Page batches: what travels on the page channels.
//!
//! A batch is a table of runs, followed by the contents of its raw pages in the order of the table. The receiver knows
//! from the table where every byte goes before it reads the first one, so pages are received straight into place.

use crate::{FrameHeader, FrameKind, HEADER_BYTES, PAGE_BYTES, SessionId, WireError};

/// Most runs in a batch. With the header and table in one piece, a batch stays under `IOV_MAX` (1024) pieces, so that it
/// can be sent and received with one system call.
pub const MAX_RUNS: usize = 512;

/// Most raw pages in a batch (8 MiB).
pub const MAX_BATCH_PAGES: u64 = 2048;

const BATCH_HEAD_BYTES: usize = 8;
const RUN_BYTES: usize = 16;
pub(crate) const MAX_TABLE_BYTES: u32 = (BATCH_HEAD_BYTES + MAX_RUNS * RUN_BYTES) as u32;
pub(crate) const CHANNEL_HELLO_BYTES: u32 = 20;
pub(crate) const ROUND_END_BYTES: u32 = 24;

/// How the pages of a run are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// The contents follow the table.
    Raw = 0,
    /// All bytes are zero; nothing follows.
    Zero = 1,
}

/// Pages that lie side by side in a block and are sent alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first page within the block.
    pub first_page: u64,
    /// How many pages, at least 1.
    pub pages: u32,
    /// How they are sent.
    pub encoding: Encoding,
}

/// Pages of one block that travel together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The round in which they are sent.
    pub round: u32,
    /// Number of the block, as in [`Hello::blocks`](crate::Hello::blocks).
    pub block: u16,
    /// At most [`MAX_RUNS`], with at most [`MAX_BATCH_PAGES`] raw pages in all.
    pub runs: Vec<Run>,
}

/// First frame of a page channel: says to which attempt it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelHello {
    /// Protocol version that was agreed on.
    pub version: u16,
    /// Number of the channel, from 0.
    pub index: u16,
    /// The attempt.
    pub session: SessionId,
}

/// Last frame of a round on a page channel. The destination lets no channel go past the end of a round before all
/// have reached it: so a page that is sent twice, on two channels, ends as it was sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundEnd {
    /// The round that ends.
    pub round: u32,
    /// Whether no further round follows.
    pub last: bool,
    /// Raw pages that this channel carried in the round.
    pub raw_pages: u64,
    /// Zero pages that this channel carried in the round.
    pub zero_pages: u64,
}

impl Batch {
    /// Raw pages in the batch.
    #[must_use]
    pub fn raw_pages(&self) -> u64 {
        self.pages(Encoding::Raw)
    }

    /// Zero pages in the batch.
    #[must_use]
    pub fn zero_pages(&self) -> u64 {
        self.pages(Encoding::Zero)
    }

    fn pages(&self, encoding: Encoding) -> u64 {
        self.runs.iter().filter(|run| run.encoding == encoding).map(|run| u64::from(run.pages)).sum()
    }

    /// Adds a page, joining it to the last run where possible. Pages come in ascending order.
    /// Answers whether the batch is now full and must be sent before more is added.
    pub fn push(&mut self, page: u64, encoding: Encoding) -> bool {
        match self.runs.last_mut() {
            Some(run)
                if run.encoding == encoding
                    && run.first_page + u64::from(run.pages) == page
                    && run.pages < u32::MAX =>
            {
                run.pages += 1;
            }
            _ => self.runs.push(Run { first_page: page, pages: 1, encoding }),
        }
        self.runs.len() >= MAX_RUNS
    }

    /// Encodes header and table as frame number `sequence`, into `frame` (emptied first). The raw pages follow it.
    pub fn encode_into(&self, sequence: u32, frame: &mut Vec<u8>) {
        frame.clear();
        frame.resize(HEADER_BYTES, 0);
        frame.extend_from_slice(&self.round.to_le_bytes());
        frame.extend_from_slice(&self.block.to_le_bytes());
        frame.extend_from_slice(&[0; 2]);
        for run in &self.runs {
            frame.extend_from_slice(&run.first_page.to_le_bytes());
            frame.extend_from_slice(&run.pages.to_le_bytes());
            frame.extend_from_slice(&[run.encoding as u8, 0, 0, 0]);
        }
        seal(frame, FrameKind::Pages, sequence);
    }

    /// Decodes a table into `self`, whose buffer is used again. `block_pages` answers how many pages a block has.
    ///
    /// # Errors
    /// Runs that are empty, of an unknown encoding, outside of their block, or more than a batch may have.
    pub fn decode_from(
        &mut self,
        table: &[u8],
        block_pages: impl Fn(u16) -> Option<u64>,
    ) -> Result<(), WireError> {
        let malformed = |what: &str| Err(WireError::Malformed(format!("page batch {what}")));
        let Some((head, runs)) = table.split_at_checked(BATCH_HEAD_BYTES) else {
            return malformed("without a head");
        };
        if runs.len() % RUN_BYTES != 0 || runs.len() / RUN_BYTES > MAX_RUNS || head[6..] != [0, 0] {
            return malformed("with a table of the wrong size");
        }
        self.round = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        self.block = u16::from_le_bytes([head[4], head[5]]);
        let Some(limit) = block_pages(self.block) else {
            return malformed("for a block that does not exist");
        };
        self.runs.clear();
        let mut raw_pages = 0;
        for bytes in runs.chunks_exact(RUN_BYTES) {
            let run = Run::decode(bytes, limit)?;
            raw_pages += if run.encoding == Encoding::Raw { u64::from(run.pages) } else { 0 };
            self.runs.push(run);
        }
        if raw_pages > MAX_BATCH_PAGES { malformed("with too many raw pages") } else { Ok(()) }
    }
}

impl Run {
    fn decode(bytes: &[u8], block_pages: u64) -> Result<Self, WireError> {
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        let first_page = u64::from_le_bytes(first);
        let pages = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let encoding = match bytes[12..16] {
            [0, 0, 0, 0] => Encoding::Raw,
            [1, 0, 0, 0] => Encoding::Zero,
            _ => return Err(WireError::Malformed(format!("run with unknown encoding {:?}", &bytes[12..16]))),
        };
        match first_page.checked_add(u64::from(pages)) {
            Some(end) if pages > 0 && end <= block_pages => Ok(Self { first_page, pages, encoding }),
            _ => Err(WireError::Malformed(format!(
                "run of {pages} pages from page {first_page} is not within its block of {block_pages} pages"
            ))),
        }
    }

    /// Bytes that follow the table for this run.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        if self.encoding == Encoding::Raw { self.pages as usize * PAGE_BYTES } else { 0 }
    }
}

impl ChannelHello {
    /// Encodes the whole frame; it is frame 0 of its channel.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(&self.version.to_le_bytes());
        frame.extend_from_slice(&self.index.to_le_bytes());
        frame.extend_from_slice(&self.session.0);
        seal(&mut frame, FrameKind::ChannelHello, 0);
        frame
    }

    /// Decodes the structured part.
    ///
    /// # Errors
    /// The part has another size.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let [v0, v1, i0, i1, session @ ..] = body else {
            return Err(WireError::Malformed("channel hello that is too short".into()));
        };
        let session =
            session.try_into().map_err(|_| WireError::Malformed("channel hello of the wrong size".into()))?;
        let (version, index) = (u16::from_le_bytes([*v0, *v1]), u16::from_le_bytes([*i0, *i1]));
        Ok(Self { version, index, session: SessionId(session) })
    }
}

impl RoundEnd {
    /// Encodes the whole frame, number `sequence` of its channel.
    #[must_use]
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(&self.round.to_le_bytes());
        frame.extend_from_slice(&u32::from(self.last).to_le_bytes());
        frame.extend_from_slice(&self.raw_pages.to_le_bytes());
        frame.extend_from_slice(&self.zero_pages.to_le_bytes());
        seal(&mut frame, FrameKind::RoundEnd, sequence);
        frame
    }

    /// Decodes the structured part.
    ///
    /// # Errors
    /// The part has another size, or a flag that does not exist.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let Ok(body) = <&[u8; ROUND_END_BYTES as usize]>::try_from(body) else {
            return Err(WireError::Malformed("round end of the wrong size".into()));
        };
        let word = |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let last = match word(4) {
            0 => false,
            1 => true,
            other => return Err(WireError::Malformed(format!("round end with unknown flags {other:#x}"))),
        };
        Ok(Self { round: word(0), last, raw_pages: long(8), zero_pages: long(16) })
    }
}

/// Writes the header into the first bytes of `frame`, for all that follows.
fn seal(frame: &mut [u8], kind: FrameKind, sequence: u32) {
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&FrameHeader::encode(kind, sequence, body));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(runs: &[(u64, u32, Encoding)]) -> Batch {
        let runs = runs.iter().map(|&(first_page, pages, encoding)| Run { first_page, pages, encoding });
        Batch { round: 3, block: 1, runs: runs.collect() }
    }

    fn through_the_wire(batch: &Batch, block_pages: u64) -> Result<Batch, WireError> {
        let mut frame = Vec::new();
        batch.encode_into(8, &mut frame);
        let raw: [u8; HEADER_BYTES] = frame[..HEADER_BYTES].try_into().unwrap();
        FrameHeader::decode(&raw)?.check(&raw, &frame[HEADER_BYTES..], 8)?;
        let mut decoded = Batch::default();
        decoded.decode_from(&frame[HEADER_BYTES..], |block| (block == 1).then_some(block_pages))?;
        Ok(decoded)
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let batch = batch(&[(0, 5, Encoding::Raw), (5, 1000, Encoding::Zero), (1 << 40, 1, Encoding::Raw)]);
        assert_eq!(through_the_wire(&batch, 1 << 41), Ok(batch));
    }

    #[test]
    fn a_run_past_the_end_of_its_block_is_refused() {
        for run in [
            (10, 1, Encoding::Raw),
            (9, 2, Encoding::Zero),
            (u64::MAX, 2, Encoding::Zero),
            (0, 0, Encoding::Raw),
        ] {
            assert!(through_the_wire(&batch(&[run]), 10).is_err(), "{run:?}");
        }
    }

    #[test]
    fn more_raw_pages_than_a_batch_may_have_are_refused() {
        let too_many = MAX_BATCH_PAGES as u32 + 1;
        assert!(through_the_wire(&batch(&[(0, too_many, Encoding::Raw)]), 1 << 20).is_err());
    }

    #[test]
    fn pages_side_by_side_become_one_run() {
        let mut batch = Batch::default();
        for page in [4, 5, 6] {
            assert!(!batch.push(page, Encoding::Raw));
        }
        batch.push(7, Encoding::Zero);
        batch.push(9, Encoding::Zero);
        let runs: Vec<_> = batch.runs.iter().map(|run| (run.first_page, run.pages)).collect();
        assert_eq!(runs, [(4, 3), (7, 1), (9, 1)]);
    }

    #[test]
    fn channel_hello_and_round_end_come_back_as_they_were() {
        let hello = ChannelHello { version: 1, index: 63, session: SessionId([9; 16]) };
        assert_eq!(ChannelHello::decode(&hello.encode()[HEADER_BYTES..]), Ok(hello));
        let end = RoundEnd { round: 7, last: true, raw_pages: 1 << 40, zero_pages: 3 };
        assert_eq!(RoundEnd::decode(&end.encode(1)[HEADER_BYTES..]), Ok(end));
    }
}
