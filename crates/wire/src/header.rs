//! The fixed header of every frame.

use crate::{MAX_CONTROL_BYTES, WireError, missing, pages};

/// Bytes of an encoded [`FrameHeader`].
pub const HEADER_BYTES: usize = 16;

/// First two bytes of every frame, "WB".
const MAGIC: u16 = u16::from_le_bytes(*b"WB");

/// What a frame carries. Number 2 is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`Message`](crate::Message); control connection only.
    Control = 1,
    /// A [`Batch`](crate::Batch) and its page data.
    Pages = 3,
    /// A [`RoundEnd`](crate::RoundEnd); the channel has no more pages in this round.
    RoundEnd = 4,
    /// A [`Request`](crate::Request) for pages that a running machine waits for.
    Request = 5,
}

/// Header of a frame.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | magic "WB" |
/// | 2 | 1 | kind |
/// | 3 | 1 | zero |
/// | 4 | 4 | length of the structured part, bytes |
/// | 8 | 4 | sequence number of the frame on its connection, from 0, wrapping |
/// | 12 | 4 | CRC-32 (IEEE 802.3) of bytes 0–11 followed by the structured part |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Bytes of the structured part, at most [`FrameKind::max_length`].
    pub length: u32,
    /// Number of the frame on its connection.
    pub sequence: u32,
    crc: u32,
}

impl FrameKind {
    /// Longest structured part of such a frame, in bytes.
    #[must_use]
    pub fn max_length(self) -> u32 {
        match self {
            Self::Control => MAX_CONTROL_BYTES,
            Self::Pages => pages::MAX_TABLE_BYTES,
            Self::RoundEnd => pages::ROUND_END_BYTES,
            Self::Request => missing::REQUEST_BYTES,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Control, Self::Pages, Self::RoundEnd, Self::Request]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

impl FrameHeader {
    /// Encodes the header for `structured`, which must be at most [`FrameKind::max_length`] bytes long.
    #[must_use]
    pub fn encode(kind: FrameKind, sequence: u32, structured: &[u8]) -> [u8; HEADER_BYTES] {
        debug_assert!(structured.len() <= kind.max_length() as usize);
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = kind as u8;
        bytes[4..8].copy_from_slice(&(structured.len() as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_le_bytes());
        let crc = checksum(&bytes, structured);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header and checks everything but the checksum, which also covers the bytes that follow.
    ///
    /// # Errors
    /// Foreign bytes, an unknown kind or flag, or a length over the cap of its kind.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
        if magic != MAGIC {
            return Err(WireError::NotWhimbrel { found: u16::from_be_bytes([bytes[0], bytes[1]]) });
        }
        let kind = FrameKind::from_number(bytes[2]).ok_or(WireError::Kind { found: bytes[2] })?;
        if bytes[3] != 0 {
            return Err(WireError::Malformed(format!("header with {} where zero must be", bytes[3])));
        }
        let (length, limit) = (word(4), kind.max_length());
        if length > limit {
            return Err(WireError::TooLong { kind, length, limit });
        }
        Ok(Self { kind, length, sequence: word(8), crc: word(12) })
    }

    /// Checks that `structured` came as it was sent, and that this is frame number `expected` of its connection.
    ///
    /// # Errors
    /// The checksum or the sequence number is wrong.
    pub fn check(&self, raw: &[u8; HEADER_BYTES], structured: &[u8], expected: u32) -> Result<(), WireError> {
        if structured.len() != self.length as usize || checksum(raw, structured) != self.crc {
            return Err(WireError::Checksum { what: "header or table" });
        }
        if self.sequence == expected {
            Ok(())
        } else {
            Err(WireError::Sequence { found: self.sequence, expected })
        }
    }
}

fn checksum(header: &[u8; HEADER_BYTES], structured: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..12]);
    hasher.update(structured);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was() {
        let body = [7; 24];
        let raw = FrameHeader::encode(FrameKind::RoundEnd, 9, &body);
        let header = FrameHeader::decode(&raw).unwrap();
        assert_eq!((header.kind, header.length, header.sequence), (FrameKind::RoundEnd, 24, 9));
        header.check(&raw, &body, 9).unwrap();
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let body = [1, 2, 3, 4];
        let raw = FrameHeader::encode(FrameKind::Control, 0, &body);
        for bit in 0..(raw.len() + body.len()) * 8 {
            let (mut raw, mut body) = (raw, body);
            if bit / 8 < raw.len() {
                raw[bit / 8] ^= 1 << (bit % 8);
            } else {
                body[bit / 8 - raw.len()] ^= 1 << (bit % 8);
            }
            let outcome = FrameHeader::decode(&raw).and_then(|header| header.check(&raw, &body, 0));
            assert!(outcome.is_err(), "flipping bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_length_over_the_cap_is_refused_before_anything_is_read() {
        let mut raw = FrameHeader::encode(FrameKind::Pages, 0, &[]);
        raw[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(FrameHeader::decode(&raw), Err(WireError::TooLong { length: u32::MAX, .. })));
    }

    #[test]
    fn a_web_browser_is_told_apart() {
        assert_eq!(FrameHeader::decode(b"GET / HTTP/1.1\r\n"), Err(WireError::NotWhimbrel { found: 0x4745 }));
    }

    #[test]
    fn a_repeated_frame_is_noticed() {
        let raw = FrameHeader::encode(FrameKind::Control, 4, &[]);
        let header = FrameHeader::decode(&raw).unwrap();
        assert_eq!(header.check(&raw, &[], 5), Err(WireError::Sequence { found: 4, expected: 5 }));
    }
}
