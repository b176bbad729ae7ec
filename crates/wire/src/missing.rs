//! Which pages the destination lacks: sets of them, and requests for those that a running machine waits for.

use serde::{Deserialize, Serialize};

use crate::{FrameKind, HEADER_BYTES, WireError, pages::seal};

/// Most bytes of a set in one message: pages of 4 GiB of guest memory.
const MAX_BIT_BYTES: usize = 128 << 10;

/// Most pages of one [`Request`]: those of a huge page of 2 MiB.
pub const MAX_REQUESTED_PAGES: u32 = 512;

/// Block 2, zeros 2, pages 4, first page 8.
pub(crate) const REQUEST_BYTES: u32 = 16;

/// Some pages of one block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageBits {
    /// Number of the block, as in [`Hello::blocks`](crate::Hello::blocks).
    pub block: u16,
    /// Page of the first bit: a multiple of 64.
    pub first_page: u64,
    /// One bit a page, the lowest of each byte first. Pages beyond are not in the set.
    #[serde(with = "serde_bytes")]
    pub bits: Vec<u8>,
}

/// Pages that a running machine waits for, which the source sends before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Number of the block.
    pub block: u16,
    /// Number of the first page within the block.
    pub first_page: u64,
    /// How many, 1 to [`MAX_REQUESTED_PAGES`]. Those among them that were sent already are not sent again.
    pub pages: u32,
}

impl PageBits {
    /// Cuts the set of a block, one bit a page, into messages; there is none for stretches that are empty.
    pub fn cut(block: u16, words: &[u64]) -> impl Iterator<Item = Self> {
        words.chunks(MAX_BIT_BYTES / 8).enumerate().filter_map(move |(number, words)| {
            let used = words.iter().rposition(|word| *word != 0)? + 1;
            let bits = words[..used].iter().flat_map(|word| word.to_le_bytes()).collect();
            let first_page = (number * MAX_BIT_BYTES * 8) as u64;
            Some(Self { block, first_page, bits })
        })
    }

    /// The words of the set, from [`Self::first_page`] on.
    ///
    /// # Errors
    /// The set does not begin at a multiple of 64, or is larger than one message may have.
    pub fn words(&self) -> Result<Vec<u64>, WireError> {
        if !self.first_page.is_multiple_of(64) || self.bits.len() > MAX_BIT_BYTES {
            return Err(WireError::Malformed(format!(
                "set of {} bytes for pages from {} of block {}",
                self.bits.len(),
                self.first_page,
                self.block
            )));
        }
        Ok(self.bits.chunks(8).map(word).collect())
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

impl Request {
    /// Encodes the whole frame, number `sequence` of its connection.
    #[must_use]
    pub fn encode(&self, sequence: u32) -> [u8; HEADER_BYTES + REQUEST_BYTES as usize] {
        let mut frame = [0; HEADER_BYTES + REQUEST_BYTES as usize];
        frame[16..18].copy_from_slice(&self.block.to_le_bytes());
        frame[20..24].copy_from_slice(&self.pages.to_le_bytes());
        frame[24..].copy_from_slice(&self.first_page.to_le_bytes());
        seal(&mut frame, FrameKind::Request, sequence);
        frame
    }

    /// Decodes the structured part. `block_pages` returns how many pages a block has.
    ///
    /// # Errors
    /// The part has another size, or asks for no pages, for too many, or for such as do not exist.
    pub fn decode(body: &[u8], block_pages: impl Fn(u16) -> Option<u64>) -> Result<Self, WireError> {
        let malformed = |what: String| Err(WireError::Malformed(format!("request {what}")));
        let Ok(body) = <&[u8; REQUEST_BYTES as usize]>::try_from(body) else {
            return malformed(format!("of {} bytes", body.len()));
        };
        let mut first = [0; 8];
        first.copy_from_slice(&body[8..]);
        let request = Self {
            block: u16::from_le_bytes([body[0], body[1]]),
            first_page: u64::from_le_bytes(first),
            pages: u32::from_le_bytes([body[4], body[5], body[6], body[7]]),
        };
        let Self { block, first_page, pages } = request;
        let Some(limit) = block_pages(block) else {
            return malformed(format!("for block {block}, which does not exist"));
        };
        let end = first_page.checked_add(u64::from(pages));
        if body[2..4] != [0, 0]
            || !(1..=MAX_REQUESTED_PAGES).contains(&pages)
            || end.is_none_or(|end| end > limit)
        {
            return malformed(format!(
                "for {pages} pages from page {first_page} of block {block}, which has {limit}"
            ));
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameHeader;

    #[test]
    fn a_set_comes_back_in_pieces_without_those_that_are_empty() {
        let mut words = vec![0; 40_000];
        (words[3], words[16_384 + 7], words[39_999]) = (0b101, u64::MAX, 1 << 63);
        let pieces: Vec<_> = PageBits::cut(2, &words).collect();
        assert_eq!(pieces.len(), 3);
        let mut back = vec![0; words.len()];
        for piece in &pieces {
            let first = (piece.first_page / 64) as usize;
            let found = piece.words().unwrap();
            back[first..first + found.len()].copy_from_slice(&found);
        }
        assert_eq!(back, words);
        assert_eq!(PageBits::cut(0, &[0; 100_000]).count(), 0);
    }

    #[test]
    fn a_set_that_is_too_large_or_out_of_step_is_refused() {
        let bits = |first_page, bytes| PageBits { block: 0, first_page, bits: vec![1; bytes] };
        assert_eq!(bits(64, 9).words().unwrap(), [0x0101_0101_0101_0101, 1]);
        assert!(bits(63, 8).words().is_err());
        assert!(bits(0, MAX_BIT_BYTES + 1).words().is_err());
    }

    #[test]
    fn a_request_comes_back_and_one_beyond_memory_is_refused() {
        let request = Request { block: 1, first_page: 0x0102_0304_0506, pages: 512 };
        let frame = request.encode(7);
        let raw: [u8; HEADER_BYTES] = frame[..HEADER_BYTES].try_into().unwrap();
        FrameHeader::decode(&raw).unwrap().check(&raw, &frame[HEADER_BYTES..], 7).unwrap();
        let body = &frame[HEADER_BYTES..];
        let pages = |end| move |block| (block == 1).then_some(end);
        let end = request.first_page + 512;
        assert_eq!(Request::decode(body, pages(end)), Ok(request));
        assert!(Request::decode(body, pages(end - 1)).is_err());
        assert!(Request::decode(body, |_| None).is_err());
        assert!(Request::decode(&body[1..], pages(end)).is_err());
        for (first_page, count) in [(0, 0), (0, 513), (u64::MAX, 2)] {
            let frame = Request { block: 1, first_page, pages: count }.encode(0);
            assert!(Request::decode(&frame[HEADER_BYTES..], pages(1 << 40)).is_err(), "{first_page} {count}");
        }
    }
}
