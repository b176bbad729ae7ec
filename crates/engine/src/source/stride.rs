//! How much of the dirty log is cleared at once.

use std::time::Duration;

/// How long what is cleared at once may take to be sent. What the machine writes between the one and the other is dirty again, and was
/// sent all the same; each system call makes vCPUs leave the guest for some microseconds.
const LONGEST: Duration = Duration::from_millis(8);

/// Fewest dirty pages that are cleared at once: 256 KiB.
const FEWEST: u64 = 64;

/// Most of them: as many as the largest chunk has.
const MOST: u64 = 8192;

/// How many dirty pages one channel clears, looks at and sends before it clears the next, by how long that took before: on a slow network
/// a chunk takes a good part of a round.
#[derive(Debug)]
pub(super) struct Stride(u64);

impl Default for Stride {
    /// What a slow network takes in the end: the first round begins with it.
    fn default() -> Self {
        Self(FEWEST)
    }
}

impl Stride {
    /// Words of a dirty set, from the first on, that are cleared at once: at least one, if there is one.
    pub(super) fn words(&self, words: &[u64]) -> usize {
        let mut pages = 0;
        let goes_on = |word: &&u64| {
            let is_first = pages == 0;
            pages += u64::from(word.count_ones());
            is_first || pages <= self.0
        };
        words.iter().take_while(goes_on).count()
    }

    /// So many dirty pages took so long.
    pub(super) fn took(&mut self, pages: u64, time: Duration) {
        if time > LONGEST {
            self.0 = (self.0 / 2).max(FEWEST);
        } else if time < LONGEST / 4 && pages > self.0 / 2 {
            self.0 = (self.0 * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_words_are_cleared_at_once_that_their_dirty_pages_are_not_too_many() {
        let stride = Stride(200);
        assert_eq!(stride.words(&[]), 0);
        assert_eq!(stride.words(&[u64::MAX; 10]), 3);
        assert_eq!(stride.words(&[1; 128]), 128);
        assert_eq!(stride.words(&[0, 0, u64::MAX, 0, u64::MAX, u64::MAX, 0, 0xff, 1]), 8);
        assert_eq!(Stride(64).words(&[u64::MAX, 1]), 1);
    }

    #[test]
    fn the_slower_the_network_the_less_is_cleared_at_once() {
        let mut stride = Stride::default();
        // Pages that the network takes in a second.
        for (rate, least, most) in [(1 << 21, 4096, 8192), (1 << 16, 128, 525), (1 << 8, 64, 64)] {
            for _ in 0..20 {
                stride.took(stride.0, Duration::from_secs(stride.0) / rate);
            }
            assert!((least..=most).contains(&stride.0), "{} pages at {rate} a second", stride.0);
        }
        // That there was little to send says nothing of the network.
        stride.took(1, Duration::ZERO);
        assert_eq!(stride.0, FEWEST);
    }
}
