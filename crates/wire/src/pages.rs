//! Page batches: what travels on the page channels.
//!
//! A batch is a table of runs, followed by the contents of its raw pages in the order of the table. The receiver knows
//! from the table where every byte goes before it reads the first one, so pages are received straight into place. Where pages travel as
//! differences, or all that follows the table is packed, it is received into a buffer first, whose length is bounded.

use std::{fmt, ops::AddAssign};

use serde::{Deserialize, Serialize};

use crate::{Features, FrameHeader, FrameKind, HEADER_BYTES, PAGE_BYTES, WireError};

/// Most runs in a batch. With the header and table in one piece, a batch stays under `IOV_MAX` (1024) pieces, so that it
/// can be sent and received with one system call.
pub const MAX_RUNS: usize = 512;

/// Most bytes of page data that follow the table of a batch (8 MiB).
pub const MAX_BATCH_BYTES: u64 = 8 << 20;

/// Most bytes of page data, as they are before packing, of a batch that is packed or has differences (1 MiB): so much a channel of the
/// destination has to hold.
pub const MAX_HELD_BYTES: u64 = 1 << 20;

/// Most bytes of the difference of a page.
pub const MAX_DELTA_BYTES: u64 = 2048;

/// The round of pages that follow a machine that runs at the destination: they belong to none.
pub const PUSHED: u32 = u32::MAX;

/// Round 4, block 2, whether a sum follows the runs 1, packing 1.
const BATCH_HEAD_BYTES: usize = 8;
/// Of the length of packed data, behind the runs.
const PACKED_BYTES: usize = 4;
/// Of the sum of a batch.
const SUM_BYTES: usize = 8;
/// First page 8, pages 4, bytes of data 4, encoding 1, zeros 3.
const RUN_BYTES: usize = 20;
pub(crate) const MAX_TABLE_BYTES: u32 =
    (BATCH_HEAD_BYTES + MAX_RUNS * RUN_BYTES + PACKED_BYTES + SUM_BYTES) as u32;
/// Round 4, flags 4, raw pages 8, zero pages 8, pages as differences 8, zeros 8 for encodings to come.
pub(crate) const ROUND_END_BYTES: u32 = 40;

/// How the pages of a run are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The contents follow the table.
    Raw,
    /// All bytes are zero; nothing follows.
    Zero,
    /// As differences from what was sent of them before, one after the other; only with [`Features::DELTAS`], and not for pages that
    /// follow a machine that runs.
    Delta {
        /// Bytes that follow the table for all pages of the run, 1 to [`MAX_DELTA_BYTES`] each.
        bytes: u32,
    },
}

/// How all that follows the table of a batch is packed; only with [`Features::PACKING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Packing {
    /// A block of LZ4.
    Lz4 = 1,
    /// A frame of Zstandard.
    Zstd = 2,
}

impl Encoding {
    /// Bytes that follow the table for so many pages.
    #[must_use]
    pub fn data_bytes(self, pages: u64) -> u64 {
        match self {
            Self::Raw => pages.saturating_mul(PAGE_BYTES as u64),
            Self::Zero => 0,
            Self::Delta { bytes } => bytes.into(),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zero => 1,
            Self::Delta { .. } => 2,
        }
    }

    /// Of a run that ends with a page that is sent so, and another behind it; `None` if they are not sent alike.
    fn joined(self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Delta { bytes }, Self::Delta { bytes: more }) => {
                bytes.checked_add(more).map(|bytes| Self::Delta { bytes })
            }
            (Self::Raw, Self::Raw) | (Self::Zero, Self::Zero) => Some(self),
            _ => None,
        }
    }
}

/// How many pages were sent in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageCounts {
    /// Pages with their contents.
    pub raw: u64,
    /// Pages that are all zero.
    pub zero: u64,
    /// Pages as differences; only with [`Features::DELTAS`].
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub delta: u64,
}

fn is_nothing(pages: &u64) -> bool {
    *pages == 0
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
    /// At most [`MAX_RUNS`], with at most [`MAX_BATCH_BYTES`] of data in all; [`MAX_HELD_BYTES`] where they are packed or differences.
    pub runs: Vec<Run>,
    /// How what follows the table is packed, and how many bytes that are: fewer than [`Self::data_bytes`].
    pub packed: Option<(Packing, u32)>,
    /// Of the raw pages, by which damage is found before anybody uses them; only with [`Features::SUMS`].
    pub sum: Option<u64>,
}

/// Last frame of a round on a page channel. The destination lets no channel go past the end of a round before all
/// have reached it: so a page that is sent twice, on two channels, ends as it was sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundEnd {
    /// The round that ends.
    pub round: u32,
    /// Whether no further round follows.
    pub last: bool,
    /// Pages that this channel carried in the round.
    pub pages: PageCounts,
}

impl PageCounts {
    /// Counts `pages` more that are sent so.
    pub fn add(&mut self, encoding: Encoding, pages: u64) {
        let count = match encoding {
            Encoding::Raw => &mut self.raw,
            Encoding::Zero => &mut self.zero,
            Encoding::Delta { .. } => &mut self.delta,
        };
        *count = count.saturating_add(pages);
    }

    /// All pages, however they are sent.
    #[must_use]
    pub fn total(self) -> u64 {
        self.raw.saturating_add(self.zero).saturating_add(self.delta)
    }
}

impl AddAssign for PageCounts {
    fn add_assign(&mut self, more: Self) {
        self.add(Encoding::Raw, more.raw);
        self.add(Encoding::Zero, more.zero);
        self.add(Encoding::Delta { bytes: 0 }, more.delta);
    }
}

impl fmt::Display for PageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages", self.raw)?;
        if self.delta > 0 {
            write!(f, ", {} pages as differences", self.delta)?;
        }
        write!(f, " and {} zero pages", self.zero)
    }
}

impl Batch {
    /// Pages in the batch.
    #[must_use]
    pub fn pages(&self) -> PageCounts {
        let mut pages = PageCounts::default();
        self.runs.iter().for_each(|run| pages.add(run.encoding, u64::from(run.pages)));
        pages
    }

    /// Bytes of page data, before they are packed.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.runs.iter().map(Run::data_bytes).sum()
    }

    /// Bytes that follow the table.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.packed.map_or_else(|| self.data_bytes(), |(_, bytes)| bytes.into())
    }

    /// Whether what follows the table is not just the contents of pages, to be put in their place as it comes.
    #[must_use]
    pub fn is_encoded(&self) -> bool {
        self.packed.is_some() || self.runs.iter().any(|run| matches!(run.encoding, Encoding::Delta { .. }))
    }

    /// What both sides must have agreed on for such a batch.
    #[must_use]
    pub fn needs(&self) -> Features {
        let packing = if self.packed.is_some() { Features::PACKING } else { Features::default() };
        let has_deltas = self.runs.iter().any(|run| matches!(run.encoding, Encoding::Delta { .. }));
        if has_deltas { packing.and(Features::DELTAS) } else { packing }
    }

    /// Adds a page, joining it to the last run where possible. Pages come in ascending order.
    /// Returns whether the batch is now full and must be sent before more is added.
    pub fn push(&mut self, page: u64, encoding: Encoding) -> bool {
        let joined = self.runs.last_mut().and_then(|run| {
            let is_next = run.first_page + u64::from(run.pages) == page && run.pages < u32::MAX;
            let encoding = run.encoding.joined(encoding).filter(|_| is_next)?;
            Some((run, encoding))
        });
        match joined {
            Some((run, encoding)) => (run.pages, run.encoding) = (run.pages + 1, encoding),
            None => self.runs.push(Run { first_page: page, pages: 1, encoding }),
        }
        self.runs.len() >= MAX_RUNS
    }

    /// Encodes header and table as frame number `sequence`, into `frame` (emptied first). The raw pages follow it.
    pub fn encode_into(&self, sequence: u32, frame: &mut Vec<u8>) {
        frame.clear();
        frame.resize(HEADER_BYTES, 0);
        frame.extend_from_slice(&self.round.to_le_bytes());
        frame.extend_from_slice(&self.block.to_le_bytes());
        let packing = self.packed.map_or(0, |(packing, _)| packing as u8);
        frame.extend_from_slice(&[u8::from(self.sum.is_some()), packing]);
        for run in &self.runs {
            frame.extend_from_slice(&run.first_page.to_le_bytes());
            frame.extend_from_slice(&run.pages.to_le_bytes());
            // More than fits is more than a batch may have, and is refused.
            frame.extend_from_slice(&u32::try_from(run.data_bytes()).unwrap_or(u32::MAX).to_le_bytes());
            frame.extend_from_slice(&[run.encoding.number(), 0, 0, 0]);
        }
        if let Some((_, bytes)) = self.packed {
            frame.extend_from_slice(&bytes.to_le_bytes());
        }
        if let Some(sum) = self.sum {
            frame.extend_from_slice(&sum.to_le_bytes());
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
        let (runs, sum) = match head[6] {
            0 => (runs, None),
            1 => match runs.split_last_chunk::<SUM_BYTES>() {
                Some((runs, sum)) => (runs, Some(u64::from_le_bytes(*sum))),
                None => return malformed("without its sum"),
            },
            _ => return malformed("with a head of an unknown kind"),
        };
        let packing = match head[7] {
            0 => None,
            1 => Some(Packing::Lz4),
            2 => Some(Packing::Zstd),
            _ => return malformed("packed in an unknown way"),
        };
        let (runs, packed) = match (packing, runs.split_last_chunk::<PACKED_BYTES>()) {
            (None, _) => (runs, None),
            (Some(packing), Some((runs, bytes))) => (runs, Some((packing, u32::from_le_bytes(*bytes)))),
            (Some(_), None) => return malformed("without the length of its data"),
        };
        if runs.len() % RUN_BYTES != 0 || runs.len() / RUN_BYTES > MAX_RUNS {
            return malformed("with a table of the wrong size");
        }
        (self.sum, self.packed) = (sum, packed);
        self.round = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        self.block = u16::from_le_bytes([head[4], head[5]]);
        let Some(limit) = block_pages(self.block) else {
            return malformed("for a block that does not exist");
        };
        self.runs.clear();
        let mut data_bytes = 0;
        for bytes in runs.chunks_exact(RUN_BYTES) {
            let run = Run::decode(bytes, limit)?;
            data_bytes += run.data_bytes();
            self.runs.push(run);
        }
        if data_bytes > if self.is_encoded() { MAX_HELD_BYTES } else { MAX_BATCH_BYTES } {
            return malformed("with too much data");
        }
        match self.packed {
            Some((_, bytes)) if bytes == 0 || u64::from(bytes) >= data_bytes => {
                malformed("that packing does not make shorter")
            }
            _ => Ok(()),
        }
    }
}

impl Run {
    fn decode(bytes: &[u8], block_pages: u64) -> Result<Self, WireError> {
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        let first_page = u64::from_le_bytes(first);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (pages, data_bytes) = (word(8), word(12));
        let encoding = match bytes[16..] {
            [0, 0, 0, 0] => Encoding::Raw,
            [1, 0, 0, 0] => Encoding::Zero,
            [2, 0, 0, 0] => Encoding::Delta { bytes: data_bytes },
            _ => return Err(WireError::Malformed(format!("run with unknown encoding {:?}", &bytes[16..]))),
        };
        let run = Self { first_page, pages, encoding };
        let in_range = match encoding {
            Encoding::Raw | Encoding::Zero => u64::from(data_bytes) == run.data_bytes(),
            Encoding::Delta { bytes } => {
                bytes >= pages && u64::from(bytes) <= u64::from(pages) * MAX_DELTA_BYTES
            }
        };
        if !in_range {
            return Err(WireError::Malformed(format!(
                "run of {pages} pages with {data_bytes} bytes of data"
            )));
        }
        match first_page.checked_add(u64::from(pages)) {
            Some(end) if pages > 0 && end <= block_pages => Ok(run),
            _ => Err(WireError::Malformed(format!(
                "run of {pages} pages from page {first_page} is not within its block of {block_pages} pages"
            ))),
        }
    }

    /// Bytes that follow the table for this run.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.encoding.data_bytes(u64::from(self.pages))
    }
}

impl RoundEnd {
    /// Encodes the whole frame, number `sequence` of its channel.
    #[must_use]
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend_from_slice(&self.round.to_le_bytes());
        frame.extend_from_slice(&u32::from(self.last).to_le_bytes());
        frame.extend_from_slice(&self.pages.raw.to_le_bytes());
        frame.extend_from_slice(&self.pages.zero.to_le_bytes());
        frame.extend_from_slice(&self.pages.delta.to_le_bytes());
        frame.extend_from_slice(&[0; 8]);
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
        if body[32..].iter().any(|byte| *byte != 0) {
            return Err(WireError::Malformed("round end with counts of an unknown encoding".into()));
        }
        Ok(Self { round: word(0), last, pages: PageCounts { raw: long(8), zero: long(16), delta: long(24) } })
    }
}

/// Writes the header into the first bytes of `frame`, for all that follows.
pub(crate) fn seal(frame: &mut [u8], kind: FrameKind, sequence: u32) {
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&FrameHeader::encode(kind, sequence, body));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(runs: &[(u64, u32, Encoding)]) -> Batch {
        let runs = runs.iter().map(|&(first_page, pages, encoding)| Run { first_page, pages, encoding });
        Batch { round: 3, block: 1, runs: runs.collect(), ..Batch::default() }
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
        let too_many = (MAX_BATCH_BYTES / PAGE_BYTES as u64) as u32 + 1;
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
    fn a_run_whose_data_has_another_length_than_its_pages_is_refused() {
        let mut frame = Vec::new();
        batch(&[(0, 2, Encoding::Raw)]).encode_into(0, &mut frame);
        let table = &mut frame[HEADER_BYTES..];
        table[BATCH_HEAD_BYTES + 12..][..4].copy_from_slice(&8191_u32.to_le_bytes());
        assert!(Batch::default().decode_from(table, |_| Some(9)).is_err());
    }

    #[test]
    fn a_round_end_comes_back_as_it_was() {
        let end = RoundEnd { round: 7, last: true, pages: PageCounts { raw: 1 << 40, zero: 3, delta: 9 } };
        let mut frame = end.encode(1);
        assert_eq!(RoundEnd::decode(&frame[HEADER_BYTES..]), Ok(end));
        // What this release cannot count it must not pass over.
        frame[HEADER_BYTES + 32] = 1;
        assert!(RoundEnd::decode(&frame[HEADER_BYTES..]).is_err());
    }

    #[test]
    fn counts_that_a_peer_made_up_do_not_overflow() {
        let mut counts = PageCounts { raw: u64::MAX, zero: u64::MAX, delta: u64::MAX };
        counts += counts;
        counts.add(Encoding::Zero, 1);
        assert_eq!((counts.total(), counts.zero), (u64::MAX, u64::MAX));
    }
}
