use ram::{Ram, digest, piece_name};
use wire::control::DIGEST_PIECE_BYTES;

/// Compares all memory with what it was at the source, with `threads` threads.
///
/// # Errors
/// Which pieces differ, in a sentence.
pub(super) fn verify(ram: &Ram, expected: &[u64], threads: usize) -> Result<(), String> {
    let found = digest(ram, DIGEST_PIECE_BYTES, threads);
    if expected.len() != found.len() {
        return Err(format!("{} digests came for {} pieces of memory", expected.len(), found.len()));
    }
    let differ = (0..found.len()).filter(|&piece| expected[piece] != found[piece]);
    let names: Vec<_> = differ.filter_map(|piece| piece_name(ram, DIGEST_PIECE_BYTES, piece)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(format!("Memory is not as it was at the source: {}", names.join(", ")))
}
