//! What encryption costs a processor at least: the bare cipher of the records, by the library that makes them.

use std::time::{Duration, Instant};

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Bytes in a record of TLS.
const RECORD: usize = 16 << 10;
/// Measured for that many records, several times, of which the fastest counts: what else the host does is not the cipher's.
const RECORDS: u64 = 512;
const TIMES: usize = 5;

/// How long AES-128-GCM takes to encrypt and decrypt a GiB on one thread.
pub(crate) fn bare_cipher_per_gib() -> Duration {
    let fastest = (0..TIMES).filter_map(|_| seal_and_open()).min().unwrap_or_default();
    fastest.mul_f64((1_u64 << 30) as f64 / (RECORDS * RECORD as u64) as f64)
}

fn seal_and_open() -> Option<Duration> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).ok()?);
    let mut record = vec![1; RECORD];
    let began = Instant::now();
    for number in 0..RECORDS {
        let nonce = || {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&number.to_be_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut record).ok()?;
        key.open_in_place(nonce(), Aad::empty(), &mut record).ok()?;
        record.truncate(RECORD);
    }
    Some(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cipher_takes_time() {
        assert!(bare_cipher_per_gib() > Duration::ZERO);
    }
}
