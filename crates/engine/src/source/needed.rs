//! The pages that a machine lacks that runs at the destination: each is taken once, by whoever sends it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use ram::PageSet;

use super::readers::Readers;

/// Page data in a batch: little enough that a page that the machine waits for does not wait long behind it.
pub(super) const BATCH_PAGES: u64 = 64;
/// Pages that a channel takes at a time: 2 MiB of guest memory.
const STRETCH_PAGES: u64 = 512;
/// Stretches around faults that wait to be sent. Older ones give way: what the machine does now matters more.
const MAX_HOT: usize = 64;
/// How long pages that nobody waits for are held back at most for those that somebody does, for each [`BATCH_PAGES`] of these: what they take on a
/// link of a gigabit a second. A huge page that shares such a link with four channels comes after 75 ms, and alone after 15.
const HOLD_BACK: Duration = Duration::from_millis(2);

/// What is left to send.
#[derive(Debug)]
pub(super) struct Needed {
    blocks: Vec<PageSet>,
    /// Pages in them.
    left: AtomicU64,
    /// Who goes through memory in order.
    readers: Mutex<Readers>,
    /// Stretches around pages that the machine waited for, newest last.
    hot: Mutex<VecDeque<(usize, u64)>>,
    /// Requests being served.
    urgent: AtomicU32,
    /// Pages of the last one.
    asked: AtomicU64,
    /// Requests that came.
    requests: AtomicU64,
    served: (Mutex<()>, Condvar),
}

/// Some pages of one block, of which those that are still needed can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) block: usize,
    pub(super) first_page: u64,
    pub(super) pages: u64,
}

/// As long as it lives, a request is being served. What surrounds it (block, first page) comes next.
pub(super) struct Urgency<'a>(&'a Needed, (usize, u64));

impl Needed {
    pub(super) fn new(blocks: Vec<PageSet>) -> Self {
        let left = blocks.iter().map(PageSet::count).sum();
        Self {
            blocks,
            left: AtomicU64::new(left),
            readers: Mutex::default(),
            hot: Mutex::default(),
            urgent: AtomicU32::new(0),
            asked: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            served: Default::default(),
        }
    }

    /// What surrounds these pages (block and page) comes first, in this order.
    pub(super) fn with_first(self, places: Vec<(usize, u64)>) -> Self {
        let mut hot = self.hot.lock();
        for (block, page) in places {
            let around = (block, page / STRETCH_PAGES * STRETCH_PAGES);
            if hot.len() < MAX_HOT && !hot.contains(&around) {
                hot.push_front(around);
            }
        }
        drop(hot);
        self
    }

    /// Pages that nobody has taken.
    pub(super) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// How often the machine asked for pages.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Takes the next pages of `stretch` that are still needed and lie side by side, at most `max`. `stretch` begins behind them
    /// afterwards.
    pub(super) fn take(&self, stretch: &mut Stretch, max: u64) -> Option<(u64, u64)> {
        let (set, end) = (self.blocks.get(stretch.block)?, stretch.first_page + stretch.pages);
        let mut from = stretch.first_page;
        while let Some(first) = set.next(from).filter(|first| *first < end) {
            let pages = set.take_run(first, max.min(end - first));
            if pages > 0 {
                self.left.fetch_sub(pages, Ordering::Relaxed);
                (stretch.first_page, stretch.pages) = (first + pages, end - first - pages);
                return Some((first, pages));
            }
            // Taken by another meanwhile.
            from = first + 1;
        }
        None
    }

    /// The next stretch to push: around what the machine waited for last, what it is likely to come to, or the next in memory. None if
    /// all pages were taken. Another channel may be at it.
    pub(super) fn next_stretch(&self) -> Option<Stretch> {
        if let Some((block, first_page)) = self.hot.lock().pop_back() {
            return Some(self.stretch(block, first_page));
        }
        let mut readers = self.readers.lock();
        let number = readers.next(|from| self.needed_from(from)).or_else(|| {
            // From the begin, and on from there.
            let first = self.needed_from(0)?;
            readers.begin_at(first);
            Some(first)
        });
        drop(readers);
        let (block, first_page) = self.place(number?)?;
        Some(self.stretch(block, first_page))
    }

    /// The first stretch from number `from` on of which something is still needed. Stretches are numbered block after block.
    fn needed_from(&self, from: u64) -> Option<u64> {
        let mut before = 0;
        self.blocks.iter().find_map(|set| {
            let first = from.saturating_sub(before) * STRETCH_PAGES;
            let found = set.next(first).map(|page| before + page / STRETCH_PAGES);
            before += set.capacity().div_ceil(STRETCH_PAGES);
            found
        })
    }

    /// The number of a stretch, by its block and its first page.
    fn number(&self, block: usize, first_page: u64) -> u64 {
        let before = self.blocks.iter().take(block).map(|set| set.capacity().div_ceil(STRETCH_PAGES));
        before.sum::<u64>() + first_page / STRETCH_PAGES
    }

    /// Block and first page of a stretch.
    fn place(&self, number: u64) -> Option<(usize, u64)> {
        let mut left = number;
        self.blocks.iter().enumerate().find_map(|(block, set)| {
            let stretches = set.capacity().div_ceil(STRETCH_PAGES);
            if left < stretches {
                return Some((block, left * STRETCH_PAGES));
            }
            left -= stretches;
            None
        })
    }

    fn stretch(&self, block: usize, first_page: u64) -> Stretch {
        let pages = STRETCH_PAGES.min(self.blocks[block].capacity() - first_page);
        Stretch { block, first_page, pages }
    }

    /// The machine waits for so many pages. Others are held back until the return value is dropped, and what surrounds them comes next.
    pub(super) fn urgent(&self, block: usize, page: u64, pages: u64) -> Urgency<'_> {
        self.asked.store(pages, Ordering::Relaxed);
        self.urgent.fetch_add(1, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Urgency(self, (block, page / STRETCH_PAGES * STRETCH_PAGES))
    }

    /// What is there comes next.
    fn heat(&self, around: (usize, u64)) {
        let mut hot = self.hot.lock();
        if !hot.contains(&around) {
            if hot.len() == MAX_HOT {
                hot.pop_front();
            }
            hot.push_back(around);
        }
    }

    /// Waits a little while there are pages to send that the machine waits for.
    pub(super) fn give_way(&self) {
        if self.urgent.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut served = self.served.0.lock();
        if self.urgent.load(Ordering::SeqCst) > 0 {
            let batches = self.asked.load(Ordering::Relaxed).clamp(1, STRETCH_PAGES).div_ceil(BATCH_PAGES);
            self.served.1.wait_for(&mut served, HOLD_BACK * batches as u32);
        }
    }
}

impl Drop for Urgency<'_> {
    fn drop(&mut self) {
        // Not before: a page channel would take the very pages that are waited for, and the page would wait for one that looks for what is next.
        self.0.heat(self.1);
        self.0.readers.lock().waits_in(self.0.number(self.1.0, self.1.1));
        if self.0.urgent.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _served = self.0.served.0.lock();
            self.0.served.1.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(pages: &[(u64, u64)]) -> Needed {
        let set = PageSet::new(2000);
        pages.iter().for_each(|&(first, pages)| set.insert_range(first, pages));
        Needed::new(vec![PageSet::new(64), set])
    }

    #[test]
    fn every_page_is_taken_once_in_runs_that_are_no_longer_than_asked_for() {
        let needed = needed(&[(10, 5), (500, 40), (1999, 1)]);
        let mut taken = Vec::new();
        while let Some(mut stretch) = needed.next_stretch() {
            while let Some(run) = needed.take(&mut stretch, 8) {
                taken.push(run);
            }
        }
        assert_eq!(taken.iter().map(|run| run.1).sum::<u64>(), 46);
        assert_eq!(taken[..3], [(10, 5), (500, 8), (508, 4)]);
        assert_eq!((needed.left(), needed.next_stretch()), (0, None));
    }

    #[test]
    fn what_the_machine_touches_next_comes_first_and_what_it_waits_for_before_that() {
        let needed = needed(&[(0, 1999)]).with_first(vec![(1, 1600), (1, 700), (1, 1900), (1, 701)]);
        let next = || needed.next_stretch().map(|stretch| stretch.first_page);
        assert_eq!(next(), Some(1536));
        drop(needed.urgent(1, 3, 1));
        assert_eq!([next(), next()], [Some(0), Some(512)]);
    }

    #[test]
    fn a_reader_that_goes_in_order_is_run_ahead_of_across_the_end_of_a_block() {
        let set = |pages: u64| {
            let set = PageSet::new(pages);
            set.insert_range(0, pages);
            set
        };
        let needed = Needed::new(vec![set(1000), set(1024), set(512)]);
        drop(needed.urgent(0, 3, 1));
        let next = || {
            let mut stretch = needed.next_stretch()?;
            let at = (stretch.block, stretch.first_page);
            while needed.take(&mut stretch, 512).is_some() {}
            Some(at)
        };
        assert_eq!([next(), next(), next()], [Some((0, 0)), Some((0, 512)), Some((1, 0))]);
        drop(needed.urgent(2, 0, 1));
        assert_eq!([next(), next(), next()], [Some((2, 0)), Some((1, 512)), None]);
        assert_eq!(needed.left(), 0);
    }

    #[test]
    fn what_surrounds_a_page_that_was_waited_for_comes_first() {
        let needed = needed(&[(0, 10), (1000, 50)]);
        drop(needed.urgent(1, 1030, 1));
        let stretch = needed.next_stretch().unwrap();
        assert_eq!((stretch.block, stretch.first_page, stretch.pages), (1, 1024, 512));
    }
}
