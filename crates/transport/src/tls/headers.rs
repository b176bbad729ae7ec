//! Headers of records of the handshake. A cipher covers what a record carries and how long that is. Kind and version in front of it
//! are covered by TLS too (RFC 8446, 5.2), but rustls takes them for what they have to be, and decrypts whatever is there. Nothing
//! could be gained by changing them; still, what was changed on the way is to end the connection. Records after the handshake are
//! opened with their headers as they arrived.

use std::io;

const BYTES: usize = 5;
/// How every encrypted record begins: application data, TLS 1.2.
const ENCRYPTED: [u8; 3] = [23, 3, 3];

/// Where in the stream of records of one direction the last byte was.
#[derive(Debug, Default)]
pub(super) struct Headers {
    header: [u8; BYTES],
    /// Bytes of the header that have arrived.
    have: usize,
    /// Bytes that the record has left.
    left: usize,
    /// From the first encrypted record on there are no others.
    encrypted: bool,
}

impl Headers {
    /// Looks at what has arrived next.
    ///
    /// # Errors
    /// A record behind an encrypted one is not, or does not say that it is.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let more = (BYTES - self.have).min(bytes.len());
            self.header[self.have..self.have + more].copy_from_slice(&bytes[..more]);
            self.have += more;
            bytes = &bytes[more..];
            if self.have == BYTES {
                self.have = 0;
                self.begin_record()?;
            }
        }
        Ok(())
    }

    fn begin_record(&mut self) -> io::Result<()> {
        let [kind, major, minor, high, low] = self.header;
        self.left = usize::from(u16::from_be_bytes([high, low]));
        self.encrypted |= kind == ENCRYPTED[0];
        if self.encrypted && [kind, major, minor] != ENCRYPTED {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a record arrived that is not encrypted, or was changed on the way",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, minor: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut record = vec![kind, 3, minor, high, low];
        record.resize(BYTES + usize::from(length), 0);
        record
    }

    #[test]
    fn a_handshake_and_what_follows_are_in_order_however_they_arrive() {
        let stream = [record(22, 1, 300), record(20, 3, 1), record(23, 3, 900), record(23, 3, 24)].concat();
        for piece in [1, 4, 5, 7, 1000, stream.len()] {
            let mut headers = Headers::default();
            assert!(stream.chunks(piece).all(|piece| headers.check(piece).is_ok()), "{piece}");
        }
    }

    #[test]
    fn a_changed_bit_in_front_of_an_encrypted_record_is_found() {
        for bit in 0..24 {
            let mut changed = record(23, 3, 40);
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut headers = Headers::default();
            headers.check(&record(23, 3, 40)).unwrap();
            assert!(headers.check(&changed).is_err(), "{bit}");
        }
    }
}
