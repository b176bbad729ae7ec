//! Records after the handshake (RFC 8446, 5.2), sealed and opened where they lie.
//!
//! The keys are rustls's ([`Secrets`](super::secrets::Secrets)), the cipher is ring's. rustls would do records as well, with three
//! copies of every page on the way out and two on the way in, where here it is one and one.

use std::ops::Range;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, Error, InvalidMessage, PeerMisbehaved};

/// Most bytes that a record carries.
pub(super) const RECORD_BYTES: usize = 16 << 10;
/// Most bytes that a record takes on the wire beyond what it carries, whoever made it (RFC 8446, 5.2).
pub(super) const RECORD_OVERHEAD: usize = HEADER_BYTES + 256;
/// Bytes in front of what a record carries.
pub(super) const HEADER_BYTES: usize = 5;
/// Bytes of a tag, the same for all ciphers that are used.
const TAG_BYTES: usize = 16;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// The key of one direction, and how many records it was used for.
#[derive(Debug)]
pub(super) struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// A record that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) kind: Kind,
    /// Where in the buffer it lay in is what it carries.
    pub(super) content: Range<usize>,
    /// How many bytes of the buffer it took.
    pub(super) used: usize,
}

impl Keys {
    /// `sequence` is the number of the next record.
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher that is not known here".into())),
        };
        let unfit = |_| Error::General("a key that is too long or too short".into());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(unfit)?;
        let iv = iv.as_ref().try_into().map_err(|_| Error::General("an IV of another length".into()))?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// Encrypts the `bytes` bytes behind the first [`HEADER_BYTES`] of `record`, at most [`RECORD_BYTES`], into a record at its front.
    /// There is room for them and [`RECORD_OVERHEAD`]. Returns the record's length.
    pub(super) fn seal(&mut self, kind: Kind, record: &mut [u8], bytes: usize) -> Result<usize, Error> {
        record[HEADER_BYTES + bytes] = kind as u8;
        self.seal_inner(record, bytes + 1)
    }

    /// As [`seal`](Self::seal), of `bytes` bytes with their kind and whatever zeros behind them.
    pub(super) fn seal_inner(&mut self, record: &mut [u8], bytes: usize) -> Result<usize, Error> {
        let nonce = self.next_nonce().ok_or(Error::EncryptError)?;
        let sealed = bytes + TAG_BYTES;
        let header = header(sealed as u16);
        let (front, content) = record.split_at_mut(HEADER_BYTES);
        let (content, tag) = content.split_at_mut(bytes);
        front.copy_from_slice(&header);
        let computed = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), content);
        tag[..TAG_BYTES].copy_from_slice(computed.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(HEADER_BYTES + sealed)
    }

    /// Decrypts the record at the front of `arrived`. `None` where it is not whole yet.
    ///
    /// # Errors
    /// It was not sealed with these keys, in this place, or carries what no record may.
    pub(super) fn open(&mut self, arrived: &mut [u8]) -> Result<Option<Opened>, Error> {
        let Some((&mut header, rest)) = arrived.split_first_chunk_mut::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let sealed = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if HEADER_BYTES + sealed > RECORD_BYTES + RECORD_OVERHEAD {
            return Err(Error::PeerSentOversizedRecord);
        }
        let Some(sealed) = rest.get_mut(..sealed) else { return Ok(None) };
        let nonce = self.next_nonce().ok_or(Error::DecryptError)?;
        let used = HEADER_BYTES + sealed.len();
        // With the header as it arrived: one of another kind or version was changed on the way, and does not decrypt.
        let inner = self.key.open_in_place(nonce, Aad::from(header), sealed);
        let inner = inner.map_err(|_| Error::DecryptError)?;
        if inner.len() > RECORD_BYTES + 1 {
            return Err(Error::PeerSentOversizedRecord);
        }
        // Zeros behind the kind hide how long the content is.
        let bytes = inner.iter().rposition(|byte| *byte != 0);
        let bytes = bytes.ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
        let kind = Kind::of(inner[bytes]).ok_or(InvalidMessage::InvalidContentType)?;
        Ok(Some(Opened { kind, content: HEADER_BYTES..HEADER_BYTES + bytes, used }))
    }

    /// The nonce of the next record (RFC 8446, 5.3). `None` once there is none that was not used.
    fn next_nonce(&mut self) -> Option<Nonce> {
        let next = self.sequence.checked_add(1)?;
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence = next;
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Alert, Self::Handshake, Self::Data].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// How a record of `sealed` encrypted bytes begins: application data, TLS 1.2.
fn header(sealed: u16) -> [u8; HEADER_BYTES] {
    let [high, low] = sealed.to_be_bytes();
    [Kind::Data as u8, 3, 3, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes written as in RFCs.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn keys(key: &str, iv: &str, sequence: u64) -> Keys {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &hex(key)).unwrap());
        Keys { key, iv: hex(iv).try_into().unwrap(), sequence }
    }

    /// Of the client of RFC 8448, section 3, for application data.
    fn of_client(sequence: u64) -> Keys {
        keys("17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9", sequence)
    }

    fn sealed(keys: &mut Keys, kind: Kind, content: &[u8]) -> Vec<u8> {
        let mut record = [&[0; HEADER_BYTES], content, &[0; RECORD_OVERHEAD]].concat();
        let bytes = keys.seal(kind, &mut record, content.len()).unwrap();
        record.truncate(bytes);
        record
    }

    /// What `content`, with its kind and its padding already behind it, is on the wire.
    fn sealed_as_it_is(keys: &mut Keys, content: &[u8]) -> Vec<u8> {
        let mut content = content.to_vec();
        let header = header((content.len() + TAG_BYTES) as u16);
        let nonce = keys.next_nonce().unwrap();
        keys.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut content).unwrap();
        [&header[..], &content].concat()
    }

    #[test]
    fn records_are_those_of_rfc_8448() {
        let fifty: Vec<u8> = (0..50).collect();
        let data = hex(
            "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 \
             19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 \
             69 49 15 e4",
        );
        let farewell = hex("17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3");
        let mut client = of_client(0);
        assert_eq!(sealed(&mut client, Kind::Data, &fifty), data);
        assert_eq!(sealed(&mut client, Kind::Alert, &[1, 0]), farewell);
        let mut arrived = [data, farewell].concat();
        let mut there = of_client(0);
        let first = there.open(&mut arrived).unwrap().unwrap();
        assert_eq!((first.kind, &arrived[first.content]), (Kind::Data, &fifty[..]));
        let second = there.open(&mut arrived[first.used..]).unwrap().unwrap();
        assert_eq!((second.kind, &arrived[first.used..][second.content]), (Kind::Alert, &[1, 0][..]));
    }

    #[test]
    fn what_is_sealed_opens_whatever_its_length() {
        let (mut here, mut there) = (of_client(7), of_client(7));
        for bytes in [0, 1, 15, 16, 17, 16_383, RECORD_BYTES] {
            let content: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
            let mut record = sealed(&mut here, Kind::Data, &content);
            assert!(record.len() <= bytes + RECORD_OVERHEAD);
            let opened = there.open(&mut record).unwrap().unwrap();
            assert_eq!((opened.kind, opened.used), (Kind::Data, record.len()));
            assert!(record[opened.content] == content, "{bytes}");
        }
    }

    #[test]
    fn a_record_that_is_not_whole_waits_for_the_rest() {
        let (mut here, mut there) = (of_client(0), of_client(0));
        let record = sealed(&mut here, Kind::Data, b"a page");
        for bytes in 0..record.len() {
            assert_eq!(there.open(&mut record[..bytes].to_vec()), Ok(None), "{bytes}");
        }
        assert!(there.open(&mut record.clone()).unwrap().is_some());
    }

    #[test]
    fn a_changed_bit_anywhere_is_found() {
        let record = sealed(&mut of_client(0), Kind::Data, b"a page");
        for bit in 0..8 * record.len() {
            // A length that grew waits for more, which then does not decrypt.
            let mut changed = record.clone();
            changed.resize(RECORD_BYTES * 4 + HEADER_BYTES, 0);
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = of_client(0).open(&mut changed).unwrap_err();
            assert!(matches!(error, Error::DecryptError | Error::PeerSentOversizedRecord), "{bit}: {error}");
        }
    }

    #[test]
    fn a_record_has_its_place() {
        let mut here = of_client(0);
        let (mut first, mut second) =
            (sealed(&mut here, Kind::Data, b"one"), sealed(&mut here, Kind::Data, b"two"));
        assert_eq!(of_client(0).open(&mut second.clone()), Err(Error::DecryptError));
        let mut there = of_client(0);
        assert!(there.open(&mut first.clone()).unwrap().is_some());
        assert_eq!(there.open(&mut first), Err(Error::DecryptError));
        assert!(of_client(1).open(&mut second).unwrap().is_some());
    }

    #[test]
    fn what_no_record_may_carry_is_refused() {
        let most = [vec![1; RECORD_BYTES], vec![Kind::Data as u8]].concat();
        let open = |content: &[u8]| {
            let mut record = sealed_as_it_is(&mut of_client(0), content);
            of_client(0).open(&mut record).map(|opened| opened.unwrap().content.len())
        };
        assert_eq!(open(&most), Ok(RECORD_BYTES));
        assert_eq!(open(&[&most[..], &[0]].concat()), Err(Error::PeerSentOversizedRecord));
        assert_eq!(open(&[&most[..], &[0; 240]].concat()), Err(Error::PeerSentOversizedRecord));
        assert_eq!(open(&[1, 2, 3, Kind::Data as u8, 0, 0, 0]), Ok(3), "padding");
        assert_eq!(open(&[0; 9]), Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into()));
        assert_eq!(open(&[]), Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into()));
        for kind in [20, 24, 99] {
            assert_eq!(open(&[1, kind]), Err(InvalidMessage::InvalidContentType.into()));
        }
        // From its header, before any of it has come.
        let oversize = (RECORD_BYTES + 257) as u16;
        assert_eq!(of_client(0).open(&mut header(oversize)), Err(Error::PeerSentOversizedRecord));
        assert_eq!(of_client(0).open(&mut [23, 3, 3, 0, 3, 1, 2, 3]), Err(Error::DecryptError));
    }

    #[test]
    fn no_number_is_used_twice() {
        let (mut here, mut there) = (of_client(u64::MAX - 1), of_client(u64::MAX - 1));
        let mut last = sealed(&mut here, Kind::Data, b"last");
        assert_eq!(here.seal(Kind::Data, &mut [0; 64], 4), Err(Error::EncryptError));
        assert_eq!(here.seal(Kind::Data, &mut [0; 64], 4), Err(Error::EncryptError));
        assert!(there.open(&mut last.clone()).unwrap().is_some());
        assert_eq!(there.open(&mut last), Err(Error::DecryptError));
    }
}
