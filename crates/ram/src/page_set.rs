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

    /// Another set with the same pages.
    pub(crate) fn duplicate(&self) -> Self {
        let copy = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Acquire));
        Self { words: self.words.iter().map(copy).collect(), pages: self.pages }
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
        self.word_of(page).is_some_and(|word| word.load(Ordering::Acquire) & (1 << (page % WORD)) != 0)
    }

    /// Puts `pages` pages from `first` on into the set, as far as they are in the block.
    pub fn insert_range(&self, first: u64, pages: u64) {
        let end = first.saturating_add(pages).min(self.pages);
        let mut page = first;
        while page < end {
            let offset = page % WORD;
            let count = (WORD - offset).min(end - page);
            if let Some(word) = self.word_of(page) {
                word.fetch_or(mask(offset, count), Ordering::AcqRel);
            }
            page += count;
        }
    }

    /// Puts the page into the set, if it is in the block.
    pub fn insert(&self, page: u64) {
        self.insert_range(page, 1);
    }

    /// Puts the pages of `words` into the set: one bit a page from `first_page` on, which is a multiple of
    /// 64. Returns how many were not in it before; `None` if a bit is beyond the block or `first_page` is no
    /// such multiple, and nothing changed then.
    #[must_use]
    pub fn add_words(&self, first_page: u64, words: &[u64]) -> Option<u64> {
        if !first_page.is_multiple_of(WORD) {
            return None;
        }
        let used = words.iter().rposition(|&word| word != 0).map_or(0, |last| last + 1);
        let words = &words[..used];
        let Some(last) = words.last() else { return Some(0) };
        let bits = used as u64 * WORD - u64::from(last.leading_zeros());
        if first_page.checked_add(bits)? > self.pages {
            return None;
        }
        let start = usize::try_from(first_page / WORD).ok()?;
        let own = self.words.get(start..start + used)?;
        let add =
            |(own, &word): (&AtomicU64, &u64)| (word & !own.fetch_or(word, Ordering::AcqRel)).count_ones();
        Some(own.iter().zip(words).map(|pair| u64::from(add(pair))).sum())
    }

    /// Takes the page out of the set. Returns whether it was in: true for exactly one of several threads that
    /// try.
    #[must_use]
    pub fn take(&self, page: u64) -> bool {
        let bit = 1 << (page % WORD);
        self.word_of(page).is_some_and(|word| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    /// Takes the pages from `first` on out of the set, as long as each is in it, and at most `max`. Returns
    /// how many: 0 if `first` is not in the set. Each page is taken by exactly one of several threads that
    /// try; a page that is not taken is never out of the set meanwhile.
    #[must_use]
    pub fn take_run(&self, first: u64, max: u64) -> u64 {
        let end = first.saturating_add(max).min(self.pages);
        let mut page = first;
        while page < end {
            let (offset, count) = (page % WORD, (WORD - page % WORD).min(end - page));
            let Some(word) = self.word_of(page) else { break };
            let ones = |word: u64| u64::from((word >> offset).trailing_ones()).min(count);
            let taken = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| match ones(word) {
                0 => None,
                ones => Some(word & !mask(offset, ones)),
            });
            let taken = taken.map_or(0, ones);
            page += taken;
            if taken < count {
                break;
            }
        }
        page.saturating_sub(first)
    }

    /// Takes `pages` pages from `first` on out of the set, whichever are in it. Returns how many were.
    pub fn remove_range(&self, first: u64, pages: u64) -> u64 {
        let end = first.saturating_add(pages).min(self.pages);
        let (mut page, mut removed) = (first, 0);
        while page < end {
            let (offset, count) = (page % WORD, (WORD - page % WORD).min(end - page));
            let mask = mask(offset, count);
            if let Some(word) = self.word_of(page) {
                removed += u64::from((word.fetch_and(!mask, Ordering::AcqRel) & mask).count_ones());
            }
            page += count;
        }
        removed
    }

    /// The first page at or after `from` that is in the set.
    #[must_use]
    pub fn next(&self, from: u64) -> Option<u64> {
        self.find(from, self.pages, 0)
    }

    /// The first page of `from..end` that is in the set.
    pub(crate) fn next_within(&self, from: u64, end: u64) -> Option<u64> {
        self.find(from, end, 0)
    }

    /// The first page of `from..end` that is in the block, but not in the set.
    pub(crate) fn next_absent_within(&self, from: u64, end: u64) -> Option<u64> {
        self.find(from, end, u64::MAX)
    }

    /// The first page of `from..end` whose bit, flipped by `flip`, is set.
    fn find(&self, from: u64, end: u64, flip: u64) -> Option<u64> {
        let end = end.min(self.pages);
        let mut page = from;
        while page < end {
            let offset = page % WORD;
            let word = (self.word_of(page)?.load(Ordering::Acquire) ^ flip) >> offset;
            if word != 0 {
                page += u64::from(word.trailing_zeros());
                return (page < end).then_some(page);
            }
            page += WORD - offset;
        }
        None
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

/// `count` bits from bit `offset` on: 1 to 64 that are all in the word.
const fn mask(offset: u64, count: u64) -> u64 {
    (u64::MAX >> (WORD - count)) << offset
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

    fn of(capacity: u64, pages: impl IntoIterator<Item = u64>) -> PageSet {
        let set = PageSet::new(capacity);
        pages.into_iter().for_each(|page| set.insert(page));
        set
    }

    #[test]
    fn a_run_is_taken_up_to_its_end_or_to_the_most_that_was_asked_for() {
        let set = of(300, (10..150).chain(151..300));
        assert_eq!(set.take_run(9, 5), 0);
        assert_eq!(set.take_run(20, 100), 100);
        assert_eq!(set.take_run(120, u64::MAX), 30);
        assert_eq!(set.take_run(192, u64::MAX), 108, "to the end of the block");
        assert_eq!(set.take_run(u64::MAX, 2) + set.take_run(151, 0), 0);
        let left: Vec<u64> = (10..20).chain(151..192).collect();
        assert_eq!((0..300).filter(|&page| set.contains(page)).collect::<Vec<_>>(), left);
        assert!(set.take(15) && !set.take(15) && !set.take(300));
    }

    #[test]
    fn pages_are_found_and_removed_across_words() {
        let set = of(400, [3, 70, 71, 390]);
        let found: Vec<_> = [0, 3, 4, 71, 72, 391, 500].into_iter().map(|from| set.next(from)).collect();
        assert_eq!(found, [Some(3), Some(3), Some(70), Some(71), Some(390), None, None]);
        assert_eq!((set.next_within(4, 70), set.next_within(4, 71)), (None, Some(70)));
        assert_eq!((set.next_absent_within(70, 72), set.next_absent_within(70, 80)), (None, Some(72)));
        assert_eq!((set.remove_range(4, 300), set.remove_range(0, u64::MAX), set.count()), (2, 2, 0));
    }

    #[test]
    fn words_are_added_unless_a_bit_is_beyond_the_block() {
        let set = of(130, [64]);
        assert_eq!(set.add_words(64, &[0b111, 0b10, 0, 0]), Some(3));
        assert_eq!(set.add_words(64, &[0b1000, 0b100]), None, "page 130");
        assert_eq!(set.add_words(64, &[0b1000, 0, 1]), None);
        assert_eq!(set.add_words(1, &[1]), None);
        assert_eq!(set.add_words(u64::MAX - 63, &[1]), None);
        assert_eq!((set.count(), set.contains(67)), (4, false));
    }

    #[test]
    fn threads_that_take_runs_and_pages_get_every_page_exactly_once() {
        const PAGES: u64 = 100_000;
        let set = of(PAGES, 0..PAGES);
        let take = |thread: u64| {
            let (mut mine, mut seed) = (Vec::new(), thread + 1);
            while let Some(page) = set.next(seed % PAGES).or_else(|| set.next(0)) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) >> 1;
                let taken =
                    if seed & 16 == 0 { u64::from(set.take(page)) } else { set.take_run(page, seed % 200) };
                mine.extend(page..page + taken);
            }
            mine
        };
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || take(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(0..PAGES));
    }
}
