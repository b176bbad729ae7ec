//! How much of the dirty log is cleared at once.

use std::time::Duration;

/// How long what is cleared at once may take to be sent. What the machine writes between the one and the other is dirty again, and was
/// sent all the same; each system call makes vCPUs leave the guest for some microseconds.
const LONGEST: Duration = Duration::from_millis(8);

/// Fewest dirty pages that are cleared at once: 256 KiB. They go out in batches all the same, which may be larger.
const FEWEST: u64 = 64;

/// Most of them: as many as the largest chunk has.
const MOST: u64 = 8192;

/// How many dirty pages one channel clears and looks at before it clears the next, by how long that took before: on a slow network a chunk
/// takes a good part of a round.
#[derive(Debug)]
pub(super) struct Stride {
    pages: u64,
    /// What was dealt with since the last batch went out: pages, and the time that it took.
    since: (u64, Duration),
}

impl Default for Stride {
    /// What a slow network takes in the end: the first round begins with it.
    fn default() -> Self {
        Self { pages: FEWEST, since: (0, Duration::ZERO) }
    }
}

impl Stride {
    /// Words of a dirty set, from the first on, that are cleared at once: at least one, if there is one.
    pub(super) fn words(&self, words: &[u64]) -> usize {
        let mut pages = 0;
        let goes_on = |word: &&u64| {
            let is_first = pages == 0;
            pages += u64::from(word.count_ones());
            is_first || pages <= self.pages
        };
        words.iter().take_while(goes_on).count()
    }

    /// So many dirty pages took so long. What only fills a batch says nothing of the network before that has gone out.
    pub(super) fn took(&mut self, pages: u64, time: Duration, went_out: bool) {
        self.since = (self.since.0 + pages, self.since.1 + time);
        if !went_out {
            return;
        }
        let (pages, time) = std::mem::take(&mut self.since);
        if time > LONGEST {
            let fits = pages as f64 * LONGEST.as_secs_f64() / time.as_secs_f64();
            self.pages = (fits as u64).clamp(FEWEST, MOST);
        } else if time < LONGEST / 4 && pages > self.pages / 2 {
            self.pages = (self.pages * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages in a batch, as senders fill them.
    const BATCH: u64 = 256;

    fn of(pages: u64) -> Stride {
        Stride { pages, ..Stride::default() }
    }

    #[test]
    fn so_many_words_are_cleared_at_once_that_their_dirty_pages_are_not_too_many() {
        let stride = of(200);
        assert_eq!(stride.words(&[]), 0);
        assert_eq!(stride.words(&[u64::MAX; 10]), 3);
        assert_eq!(stride.words(&[1; 128]), 128);
        assert_eq!(stride.words(&[0, 0, u64::MAX, 0, u64::MAX, u64::MAX, 0, 0xff, 1]), 8);
        assert_eq!(of(64).words(&[u64::MAX, 1]), 1);
    }

    #[test]
    fn the_slower_the_network_the_less_is_cleared_at_once() {
        let mut stride = Stride::default();
        // Pages that the network takes in a second, batch by batch.
        for (rate, least, most) in
            [(1 << 21, 4096, 8192), (1 << 16, 256, 525), (1 << 8, 64, 64), (1 << 21, 4096, 8192)]
        {
            let mut filled = 0;
            for _ in 0..60 {
                filled += stride.pages;
                let batches = filled / BATCH;
                filled %= BATCH;
                let time = Duration::from_secs(batches * BATCH) / rate;
                stride.took(stride.pages, time, batches > 0);
            }
            assert!((least..=most).contains(&stride.pages), "{} pages at {rate} a second", stride.pages);
        }
    }

    #[test]
    fn one_long_part_is_enough_and_one_that_was_next_to_nothing_says_nothing() {
        let mut stride = of(MOST);
        stride.took(MOST, Duration::from_secs(1), true);
        assert_eq!(stride.pages, FEWEST.max(MOST * 8 / 1000));
        let before = stride.pages;
        stride.took(1, Duration::ZERO, true);
        assert_eq!(stride.pages, before);
    }
}
