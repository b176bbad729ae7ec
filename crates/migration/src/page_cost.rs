//! What a page takes on the wire, as far as rounds can tell.

use std::collections::VecDeque;

use crate::PAGE_BYTES;

/// Measures what a dirty page takes on the wire, round by round.
///
/// The first round is of another kind than those after it: it sends what was never written, too, which takes next to nothing.
/// What is dirtied is hardly ever zero. So the first round says what a page takes that is not zero, and the later rounds,
/// as they come, what a dirty page takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageCost {
    /// A page that is not zero, as the first round has it; `None` before.
    whole: Option<f64>,
    /// Bytes and pages of the last rounds after it.
    recent: VecDeque<(u64, u64)>,
}

/// A page that is sent as it is, and its entry in the table of a batch: an isolated page has one of its own.
pub(crate) const AS_IT_IS: f64 = (PAGE_BYTES + 20) as f64;
/// How many pages what was believed before counts for, against those of a round: what frames and marks take says nothing
/// where there are few pages.
const BELIEF: f64 = 1024.0;
/// Rounds that count, besides the first.
const RECENT: usize = 3;

impl PageCost {
    /// A round is over: `pages` were sent, `zero` of them as zero pages, in `bytes` on the wire.
    pub fn add(&mut self, bytes: u64, pages: u64, zero: u64) {
        if self.whole.is_none() {
            self.whole = Some(mean(AS_IT_IS, bytes, pages.saturating_sub(zero)));
            return;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((bytes, pages));
    }

    /// Bytes on the wire for a dirty page, more than 0.
    #[must_use]
    pub fn of_a_dirty_page(&self) -> f64 {
        let sum = |(bytes, pages): (u64, u64), round: &(u64, u64)| {
            (bytes.saturating_add(round.0), pages.saturating_add(round.1))
        };
        let (bytes, pages) = self.recent.iter().fold((0, 0), sum);
        mean(self.whole.unwrap_or(AS_IT_IS), bytes, pages)
    }

    /// Bytes on the wire for a page of the round under way, of which so much is sent. The first round has all kinds of pages.
    #[must_use]
    pub fn of_a_page_now(&self, sent_bytes: u64, done_pages: u64) -> f64 {
        if self.whole.is_some() {
            return self.of_a_dirty_page();
        }
        mean(AS_IT_IS, sent_bytes, done_pages)
    }
}

/// What a page takes, where `before` was believed and `pages` took `bytes`.
fn mean(before: f64, bytes: u64, pages: u64) -> f64 {
    (before * BELIEF + bytes as f64) / (BELIEF + pages as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rounds: &[(u64, u64, u64)]) -> f64 {
        let mut cost = PageCost::default();
        rounds.iter().for_each(|&(bytes, pages, zero)| cost.add(bytes, pages, zero));
        cost.of_a_dirty_page()
    }

    #[test]
    fn zeros_of_the_first_round_do_not_make_the_pages_cheap_that_are_dirtied_later() {
        let cost = after(&[(100_000 * 4100, 1_000_000, 900_000)]);
        assert!((4096.0..4120.0).contains(&cost), "{cost}");
    }

    #[test]
    fn pages_that_were_made_smaller_are_foretold_to_be_small() {
        let (first, later) = ((100_000 * 1000, 100_000, 0), (50_000 * 500, 50_000, 0));
        let cost = after(&[first]);
        assert!((1000.0..1100.0).contains(&cost), "{cost}");
        let cost = after(&[first, later, later, later]);
        assert!((500.0..520.0).contains(&cost), "{cost}");
    }

    #[test]
    fn a_guest_that_clears_its_memory_dirties_next_to_nothing() {
        let first = (100_000 * 4100, 100_000, 0);
        let cleared = (1000, 100_000, 100_000);
        assert!(after(&[first, cleared, cleared, cleared]) < 40.0);
    }

    #[test]
    fn marks_of_empty_rounds_say_nothing_of_pages() {
        let first = (100_000 * 4096, 100_000, 0);
        let cost = after(&[first, (64 * 56, 0, 0), (64 * 56 + 4116, 1, 0)]);
        assert!((4096.0..4110.0).contains(&cost), "{cost}");
    }

    #[test]
    fn while_the_first_round_goes_on_its_zeros_count() {
        let cost = PageCost::default();
        assert!(cost.of_a_page_now(0, 0) > 4096.0);
        assert!(cost.of_a_page_now(100_000 * 4096, 1_000_000) < 420.0);
    }
}
