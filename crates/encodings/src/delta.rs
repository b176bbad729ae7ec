//! A page as its difference from what was there before.
//!
//! ```text
//! runs (1 byte) | run: first word (9 bits) and words - 1 (7 bits), little-endian | words × 8 bytes | next run …
//! ```
//!
//! A *word* is 8 bytes, the unit in which programs mostly change memory: a page with one changed counter takes 11 bytes. Words stand
//! there as they are now, so that a destination writes them and reads nothing. Runs come in ascending order, and one begins where
//! another ends only if that one is as long as a run can be: a difference has one spelling. A page that has not changed at all takes
//! one byte.

use wire::PAGE_BYTES;

use crate::Page;

/// Longest difference, in bytes: a page of which more has changed is cheaper whole.
pub const MAX_DELTA_BYTES: usize = wire::MAX_DELTA_BYTES as usize;

/// Bytes of a word.
const WORD: usize = 8;
/// Words of a page.
const WORDS: usize = PAGE_BYTES / WORD;
/// Most words of a run.
const MAX_RUN_WORDS: usize = 128;
/// Bits of the number of a word.
const FIRST_BITS: u32 = WORDS.trailing_zeros();
/// Bytes before the words of a run.
const RUN_HEAD: usize = 2;

/// The words of a page, a bit each.
type Words = [u64; WORDS / 64];

/// The difference of one page, found sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta<'a> {
    runs: &'a [u8],
}

/// What is wrong with a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// It ends too early.
    #[error("a page's difference ends too early")]
    Short,
    /// It is longer than the page is worth.
    #[error("a page's difference is longer than {MAX_DELTA_BYTES} bytes")]
    Long,
    /// A run goes past the end of its page.
    #[error("a difference goes past the end of its page: {words} words from word {first} on")]
    Outside {
        /// First word.
        first: usize,
        /// How many.
        words: usize,
    },
    /// Runs overlap, go backwards, or could be one.
    #[error("a difference is not in order: word {first} comes where {least} or more must")]
    Order {
        /// First word.
        first: usize,
        /// The lowest that it could be.
        least: usize,
    },
}

/// Appends what is different in `new` to `out`. Returns how many bytes that takes; `None` if it would be more than
/// [`MAX_DELTA_BYTES`], and nothing is appended then.
pub fn encode(old: &Page, new: &Page, out: &mut Vec<u8>) -> Option<usize> {
    let changed = changed_words(old, new);
    let words: u32 = changed.iter().map(|bits| bits.count_ones()).sum();
    if words as usize * WORD >= MAX_DELTA_BYTES {
        return None;
    }
    let begin = out.len();
    out.push(0);
    let (mut runs, mut from) = (0_usize, 0);
    while let Some(first) = next(&changed, from, true) {
        let end = next(&changed, first, false).unwrap_or(WORDS).min(first + MAX_RUN_WORDS);
        let head = first as u16 | ((end - first - 1) as u16) << FIRST_BITS;
        out.extend_from_slice(&head.to_le_bytes());
        out.extend_from_slice(&new[first * WORD..end * WORD]);
        (runs, from) = (runs + 1, end);
    }
    let bytes = out.len() - begin;
    match u8::try_from(runs) {
        Ok(runs) if bytes <= MAX_DELTA_BYTES => {
            out[begin] = runs;
            Some(bytes)
        }
        _ => {
            out.truncate(begin);
            None
        }
    }
}

impl<'a> Delta<'a> {
    /// Takes the difference of one page from the front of `bytes`. Returns it and what is left.
    ///
    /// # Errors
    /// It is not as it must be; see [`DeltaError`].
    pub fn split_from(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), DeltaError> {
        let (&count, all) = bytes.split_first().ok_or(DeltaError::Short)?;
        // Where the next run may begin at the earliest, and where it would be one with the last.
        let (mut least, mut joined) = (0, usize::MAX);
        let mut rest = all;
        for _ in 0..count {
            let (head, behind) = rest.split_first_chunk::<RUN_HEAD>().ok_or(DeltaError::Short)?;
            let (first, words) = unpack(*head);
            if first + words > WORDS {
                return Err(DeltaError::Outside { first, words });
            }
            if first < least || first == joined {
                return Err(DeltaError::Order { first, least });
            }
            rest = behind.get(words * WORD..).ok_or(DeltaError::Short)?;
            least = first + words;
            joined = if words == MAX_RUN_WORDS { usize::MAX } else { least };
        }
        let runs = &all[..all.len() - rest.len()];
        if runs.len() >= MAX_DELTA_BYTES { Err(DeltaError::Long) } else { Ok((Self { runs }, rest)) }
    }

    /// Every run: where it begins in the page, in bytes, and what is there. All are within the page.
    pub fn changes(self) -> impl Iterator<Item = (usize, &'a [u8])> {
        let mut rest = self.runs;
        std::iter::from_fn(move || {
            let (head, behind) = rest.split_first_chunk::<RUN_HEAD>()?;
            let (first, words) = unpack(*head);
            let (bytes, left) = behind.split_at_checked(words * WORD)?;
            rest = left;
            Some((first * WORD, bytes))
        })
    }

    /// Makes of a page as it was what it is.
    pub fn apply(self, page: &mut Page) {
        for (offset, bytes) in self.changes() {
            page[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// First word and number of words of a run.
fn unpack(head: [u8; RUN_HEAD]) -> (usize, usize) {
    let head = usize::from(u16::from_le_bytes(head));
    (head & (WORDS - 1), (head >> FIRST_BITS) + 1)
}

/// Which words differ. Without a branch on the way, so that the compiler takes as many words at a time as the processor can.
fn changed_words(old: &Page, new: &Page) -> Words {
    const STRIPE: usize = 64;
    let mut changed = Words::default();
    let stripes = old.as_chunks::<STRIPE>().0.iter().zip(new.as_chunks::<STRIPE>().0);
    let mut differ = 0_u64;
    for (index, (old, new)) in stripes.enumerate() {
        let difference = words_of(old).zip(words_of(new)).fold(0, |all, (old, new)| all | (old ^ new));
        differ |= u64::from(difference != 0) << index;
    }
    while differ != 0 {
        let stripe = differ.trailing_zeros() as usize;
        let bytes = stripe * STRIPE..(stripe + 1) * STRIPE;
        for (index, (old, new)) in words_of(&old[bytes.clone()]).zip(words_of(&new[bytes])).enumerate() {
            let word = stripe * (STRIPE / WORD) + index;
            changed[word / 64] |= u64::from(old != new) << (word % 64);
        }
        differ &= differ - 1;
    }
    changed
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<WORD>().0.iter().map(|word| u64::from_ne_bytes(*word))
}

/// The next word from `from` on whose bit is as `wanted`.
fn next(words: &Words, from: usize, wanted: bool) -> Option<usize> {
    let mut index = from / 64;
    let mut mask = u64::MAX << (from % 64);
    while index < words.len() {
        let bits = if wanted { words[index] } else { !words[index] } & mask;
        if bits != 0 {
            return Some(index * 64 + bits.trailing_zeros() as usize);
        }
        (index, mask) = (index + 1, u64::MAX);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> DeltaError {
        Delta::split_from(bytes).unwrap_err()
    }

    fn run(first: u16, words: u16) -> Vec<u8> {
        let head = first | (words - 1) << FIRST_BITS;
        [&head.to_le_bytes()[..], &vec![7; usize::from(words) * WORD]].concat()
    }

    fn with_runs(runs: &[(u16, u16)]) -> Vec<u8> {
        let runs = runs.iter().flat_map(|&(first, words)| run(first, words));
        std::iter::once(0).chain(runs).collect::<Vec<u8>>()
    }

    fn delta(runs: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = with_runs(runs);
        bytes[0] = runs.len() as u8;
        bytes
    }

    #[test]
    fn a_changed_counter_takes_eleven_bytes_and_no_change_one() {
        let (old, mut new, mut out) = ([3; PAGE_BYTES], [3; PAGE_BYTES], Vec::new());
        assert_eq!(encode(&old, &new, &mut out), Some(1));
        new[1000] += 1;
        assert_eq!(encode(&old, &new, &mut out), Some(11));
        assert_eq!(out.len(), 12);
    }

    #[test]
    fn a_page_of_which_too_much_has_changed_is_left_whole() {
        let (old, mut out) = ([0; PAGE_BYTES], vec![9]);
        assert_eq!(encode(&old, &[1; PAGE_BYTES], &mut out), None);
        // Every other word: as many words as would fit, and too many heads.
        let mut new = old;
        (0..WORDS).step_by(2).for_each(|word| new[word * WORD] = 1);
        assert_eq!(encode(&old, &new, &mut out), None);
        assert_eq!(out, [9]);
    }

    #[test]
    fn a_change_longer_than_a_run_becomes_several() {
        let (old, mut new, mut out) = ([0; PAGE_BYTES], [0; PAGE_BYTES], Vec::new());
        new[8..8 + 200 * WORD].fill(5);
        let bytes = encode(&old, &new, &mut out).unwrap();
        assert_eq!((bytes, out[0]), (1 + 2 * RUN_HEAD + 200 * WORD, 2));
        let mut page = old;
        Delta::split_from(&out).unwrap().0.apply(&mut page);
        assert_eq!(page, new);
    }

    #[test]
    fn what_is_cut_off_anywhere_is_refused() {
        let whole = delta(&[(0, 2), (100, 1), (511, 1)]);
        Delta::split_from(&whole).unwrap();
        for length in 0..whole.len() {
            assert_eq!(refused(&whole[..length]), DeltaError::Short, "{length} bytes");
        }
    }

    #[test]
    fn a_run_past_the_end_of_its_page_is_refused() {
        assert_eq!(refused(&delta(&[(511, 2)])), DeltaError::Outside { first: 511, words: 2 });
        assert_eq!(refused(&delta(&[(400, 128)])), DeltaError::Outside { first: 400, words: 128 });
    }

    #[test]
    fn runs_that_overlap_go_backwards_or_could_be_one_are_refused() {
        for runs in [[(4, 2), (5, 1)], [(4, 2), (3, 1)], [(4, 2), (4, 2)], [(4, 2), (6, 1)]] {
            assert!(matches!(refused(&delta(&runs)), DeltaError::Order { .. }), "{runs:?}");
        }
        Delta::split_from(&delta(&[(4, 128), (132, 1)])).unwrap();
    }

    #[test]
    fn runs_without_end_are_refused() {
        // As many as the count can say, each of one word: more than a page is worth.
        let tiny: Vec<_> = (0..255).map(|index| (index * 2, 1)).collect();
        assert_eq!(refused(&delta(&tiny)), DeltaError::Long);
        // A million of them: the count says how many there are, and what follows is the next page's.
        let many: Vec<_> = (0..1_000_000).map(|index| ((index % 512) as u16, 1)).collect();
        assert_eq!(Delta::split_from(&with_runs(&many)).unwrap().0.changes().count(), 0);
    }

    #[test]
    fn the_next_page_begins_where_one_ends() {
        let bytes = [delta(&[(3, 1)]), delta(&[])].concat();
        let (first, rest) = Delta::split_from(&bytes).unwrap();
        assert_eq!(
            first.changes().map(|(offset, bytes)| (offset, bytes.len())).collect::<Vec<_>>(),
            [(24, 8)]
        );
        let (second, rest) = Delta::split_from(rest).unwrap();
        assert_eq!((second.changes().count(), rest.len()), (0, 0));
    }
}
