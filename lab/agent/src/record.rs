//! Records that a disk writer writes, so that whoever sees the disk, from the inside or the outside, can tell what it holds.

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a record: one page, the least that may not be torn, is less than what is written at once.
pub const RECORD_BYTES: usize = 8192;

/// Record `number`: the number, bytes that follow from it, and a checksum.
#[must_use]
pub fn make(number: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..RECORD_BYTES as u64 / 8 - 1)
        .flat_map(|word| {
            if word == 0 { number } else { xxh3_64(&(number ^ word << 48).to_le_bytes()) }.to_le_bytes()
        })
        .collect();
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// The number of the record in `bytes`; none if they are not one whole record.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == make(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_record_is_read_and_a_torn_one_is_not() {
        let (old, new) = (make(1), make(2));
        assert_eq!(new.len(), RECORD_BYTES);
        assert_eq!(read(&new), Some(2));
        assert_eq!(read(&[&new[..4096], &old[4096..]].concat()), None);
        assert_eq!(read(&[0; RECORD_BYTES]), None);
        assert_eq!(read(&new[..100]), None);
    }
}
