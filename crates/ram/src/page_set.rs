use std::sync::atomic::{AtomicU64, Ordering};

/// A set of pages of one block: one bit a page, shared between threads without a lock.
///
/// One bit for each 4 KiB page is 32 MiB for 1 TiB of guest memory.
#[derive(Debug)]
pub struct PageSet {
    words: Box<[AtomicU64]>,
    pages: u64,
}

/// Pages in a word of the set.
const WORD: u64 = u64::BITS as u64;

impl PageSet {
    /// The empty set for a block of `pages` pages.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(WORD)).expect("a block is mapped, so its bitmap fits");
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), pages }
    }

    /// How many pages the block has.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.pages
    }

    /// Puts every page into the set.
    pub fn fill(&mut self) {
        let tail = self.pages % WORD;
        for word in &mut self.words {
            *word.get_mut() = u64::MAX;
        }
        if tail > 0
            && let Some(last) = self.words.last_mut()
        {
            *last.get_mut() = (1 << tail) - 1;
        }
    }

    /// Takes every page out of the set.
    pub fn clear(&mut self) {
        self.words.iter_mut().for_each(|word| *word.get_mut() = 0);
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// Whether the page is in the set; pages outside of the block are not.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        self.word_of(page).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (page % WORD)) != 0)
    }

    /// Puts `pages` pages from `first` on into the set, as far as they are in the block.
    pub fn insert_range(&self, first: u64, pages: u64) {
        let end = first.saturating_add(pages).min(self.pages);
        let mut page = first;
        while page < end {
            let offset = page % WORD;
            let count = (WORD - offset).min(end - page);
            let mask = (u64::MAX >> (WORD - count)) << offset;
            if let Some(word) = self.word_of(page) {
                word.fetch_or(mask, Ordering::Relaxed);
            }
            page += count;
        }
    }

    /// The words of the set, for a dirty log to write into.
    pub fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: `AtomicU64` has the size and bit validity of `u64` (and on x86-64 and arm64 its alignment, which
        // `from_mut_slice` will need when it is stable); the exclusive borrow rules out concurrent access.
        unsafe { &mut *(std::ptr::from_mut(&mut *self.words) as *mut [u64]) }
    }

    /// Copies the words that hold `pages` pages from `first` on, which is a multiple of 64, into `into` (emptied first).
    pub fn copy_words(&self, first: u64, pages: u64, into: &mut Vec<u64>) {
        let start = usize::try_from(first / WORD).unwrap_or(usize::MAX).min(self.words.len());
        let end = usize::try_from((first + pages).div_ceil(WORD)).unwrap_or(usize::MAX).min(self.words.len());
        into.clear();
        into.extend(self.words[start..end].iter().map(|word| word.load(Ordering::Relaxed)));
    }

    fn word_of(&self, page: u64) -> Option<&AtomicU64> {
        if page >= self.pages { None } else { self.words.get(usize::try_from(page / WORD).ok()?) }
    }
}

/// Calls `visit(first page, pages)` for every maximal run of set bits, in ascending order. `base` is the page of bit 0.
///
/// Empty stretches are skipped eight words (512 pages, 2 MiB of guest memory) at a time: after the first round a big
/// machine's log is almost empty, and the walk is then bound by reading it.
pub fn for_each_run(words: &[u64], base: u64, mut visit: impl FnMut(u64, u64)) {
    let mut open: Option<(u64, u64)> = None;
    let mut page = base;
    for chunk in words.chunks(8) {
        if open.is_none() && chunk.iter().fold(0, |sum, word| sum | word) == 0 {
            page += chunk.len() as u64 * WORD;
            continue;
        }
        for &word in chunk {
            open = walk_word(word, page, open, &mut visit);
            page += WORD;
        }
    }
    if let Some((first, pages)) = open {
        visit(first, pages);
    }
}

/// Walks one word, joining its first run to `open`, which ends right before the word; answers the run that is open at its end.
fn walk_word(
    word: u64,
    page: u64,
    open: Option<(u64, u64)>,
    visit: &mut impl FnMut(u64, u64),
) -> Option<(u64, u64)> {
    if word == u64::MAX {
        return Some(open.map_or((page, WORD), |(first, pages)| (first, pages + WORD)));
    }
    let mut rest = word;
    let mut at = 0;
    if let Some((first, pages)) = open {
        let more = u64::from(word.trailing_ones());
        visit(first, pages + more);
        rest >>= more;
        at = more;
    }
    while rest != 0 {
        let gap = u64::from(rest.trailing_zeros());
        rest >>= gap;
        at += gap;
        let ones = u64::from(rest.trailing_ones());
        if at + ones == WORD {
            return Some((page + at, ones));
        }
        visit(page + at, ones);
        rest >>= ones;
        at += ones;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(words: &[u64], base: u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        for_each_run(words, base, |first, pages| runs.push((first, pages)));
        runs
    }

    #[test]
    fn runs_are_joined_across_words() {
        assert_eq!(runs(&[1 << 63, u64::MAX, 0b101], 640), [(703, 66), (770, 1)]);
    }

    #[test]
    fn a_run_that_ends_with_the_last_word_is_visited() {
        assert_eq!(runs(&[0, 0xF000_0000_0000_0000], 0), [(124, 4)]);
    }

    #[test]
    fn empty_words_are_skipped_and_full_ones_are_one_run() {
        let mut words = vec![0; 64];
        assert_eq!(runs(&words, 0), []);
        words[40] = 1;
        assert_eq!(runs(&words, 0), [(2560, 1)]);
        assert_eq!(runs(&[u64::MAX; 20], 64), [(64, 1280)]);
    }

    #[test]
    fn every_bit_of_an_arbitrary_set_is_visited_once() {
        let mut seed = 1_u64;
        for _ in 0..200 {
            let words: Vec<u64> = (0..24)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if seed >> 62 == 0 { 0 } else { seed | (seed << 7) }
                })
                .collect();
            let mut seen = vec![0_u64; words.len()];
            let mut end = None;
            for_each_run(&words, 0, |first, pages| {
                assert!(pages > 0 && end.is_none_or(|end| first > end), "runs are apart and ascend");
                end = Some(first + pages);
                for page in first..first + pages {
                    seen[page as usize / 64] |= 1 << (page % 64);
                }
            });
            assert_eq!(seen, words);
        }
    }

    #[test]
    fn filling_leaves_bits_past_the_block_alone() {
        let mut set = PageSet::new(70);
        set.fill();
        assert_eq!(set.count(), 70);
        assert_eq!(set.words_mut(), [u64::MAX, 0b11_1111]);
    }

    #[test]
    fn a_range_over_word_borders_is_inserted_exactly() {
        let set = PageSet::new(200);
        set.insert_range(60, 80);
        set.insert_range(198, u64::MAX);
        let expected: Vec<u64> = (60..140).chain(198..200).collect();
        assert_eq!((0..200).filter(|&page| set.contains(page)).collect::<Vec<_>>(), expected);
        assert!(!set.contains(u64::MAX));
    }
}
