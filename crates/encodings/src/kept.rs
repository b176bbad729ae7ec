//! What was sent of pages, so that the next time their difference is enough.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use wire::PAGE_BYTES;

use crate::{Page, delta};

/// Copies of pages as the destination has them, up to a number of bytes.
///
/// There is one for all channels. In a round a page is sent by one channel, whichever takes the stretch of memory that it lies in; so
/// no two ever want the same copy, and a page that another channel sends in the next round is still known. Locks are for each
/// [`REGION_PAGES`] pages, and are free when they are taken.
///
/// What is kept must be what was sent, byte by byte: it is taken from the copy that is sent, never from guest memory, and a page
/// that is sent in any other way is [forgotten](Self::forget) or [becomes zero](Self::is_zero).
#[derive(Debug)]
pub struct Kept {
    blocks: Vec<Box<[Mutex<Region>]>>,
    /// Pages in all of them.
    pages: AtomicUsize,
    most: usize,
}

/// How a page is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// As its difference, which takes so many bytes.
    Delta(usize),
    /// Whole, as nothing was kept of it.
    Missing,
    /// Whole, as too much of it has changed.
    Overflow,
}

/// Pages that share a lock, and are looked after together: as many as the smallest stretch that a channel takes.
const REGION_PAGES: u64 = 64;
/// Rounds after which a copy that nothing was sent of gives way to another.
const OLD: u32 = 2;

/// Copies of the pages of a stretch.
#[derive(Debug, Default)]
struct Region {
    /// Which pages there is a copy of.
    present: u64,
    /// The copies, in the order of the pages.
    copies: Vec<Copy>,
}

#[derive(Debug)]
struct Copy {
    page: Box<Page>,
    /// Round in which it was sent last.
    round: u32,
}

impl Kept {
    /// Of a machine whose blocks have so many pages: nothing yet, and never more than `bytes` of pages. Beside them it takes 40 bytes for
    /// each 256 KiB of the machine's memory, and up to 80 for each page that is kept.
    #[must_use]
    pub fn new(block_pages: impl IntoIterator<Item = u64>, bytes: u64) -> Self {
        let regions = |pages: u64| (0..pages.div_ceil(REGION_PAGES)).map(|_| Mutex::default()).collect();
        Self {
            blocks: block_pages.into_iter().map(regions).collect(),
            pages: AtomicUsize::new(0),
            most: usize::try_from(bytes / PAGE_BYTES as u64).unwrap_or(usize::MAX),
        }
    }

    /// Says how a page is sent in `round`, whose contents are `new`. A difference is appended to `out`. What is kept of the page
    /// afterwards is `new`, if anything is; nothing new is kept where `round` is `None`, as it is the last.
    pub fn send(&self, block: usize, page: u64, round: Option<u32>, new: &Page, out: &mut Vec<u8>) -> Sent {
        let Some((region, index)) = self.region(block, page) else { return Sent::Missing };
        let mut region = region.lock();
        if let Some(copy) = region.get(index) {
            copy.round = round.unwrap_or(copy.round);
            let sent = delta::encode(&copy.page, new, out).map_or(Sent::Overflow, Sent::Delta);
            if sent != Sent::Delta(1) {
                copy.page.copy_from_slice(new);
            }
            return sent;
        }
        if let Some(round) = round
            && self.make_room(&mut region, round)
        {
            region.insert(index, Copy { page: Box::new(*new), round });
        }
        Sent::Missing
    }

    /// A page is sent as one of zeros.
    pub fn is_zero(&self, block: usize, page: u64) {
        if let Some((region, index)) = self.region(block, page)
            && let Some(copy) = region.lock().get(index)
        {
            copy.page.fill(0);
        }
    }

    /// A page is sent in a way that leaves open what was sent.
    pub fn forget(&self, block: usize, page: u64) {
        if let Some((region, index)) = self.region(block, page) {
            let mut region = region.lock();
            if region.has(index) {
                region.remove(index);
                self.pages.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// A stretch is passed in `round`: where there is no room left, copies give way of which nothing was sent for some rounds.
    pub fn pass(&self, block: usize, first_page: u64, pages: u64, round: u32) {
        if self.pages.load(Ordering::Relaxed) < self.most {
            return;
        }
        let mut page = first_page;
        while page < first_page.saturating_add(pages) {
            let Some((region, _)) = self.region(block, page) else { return };
            let released = region.lock().release(round);
            self.pages.fetch_sub(released, Ordering::Relaxed);
            page = (page / REGION_PAGES + 1) * REGION_PAGES;
        }
    }

    /// Bytes of the pages that are kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.pages.load(Ordering::Relaxed) * PAGE_BYTES) as u64
    }

    fn region(&self, block: usize, page: u64) -> Option<(&Mutex<Region>, u32)> {
        let region = self.blocks.get(block)?.get(usize::try_from(page / REGION_PAGES).ok()?)?;
        Some((region, (page % REGION_PAGES) as u32))
    }

    /// Books a page, of which some old one of the same stretch may have to make way. Returns whether there is room.
    fn make_room(&self, region: &mut Region, round: u32) -> bool {
        let book = || {
            let next = |pages: usize| (pages < self.most).then(|| pages + 1);
            self.pages.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
        };
        if book() {
            return true;
        }
        self.pages.fetch_sub(region.release(round), Ordering::Relaxed);
        book()
    }
}

impl Region {
    fn has(&self, index: u32) -> bool {
        self.present & (1 << index) != 0
    }

    /// Where the copy of a page is, or would be.
    fn place(&self, index: u32) -> usize {
        (self.present & ((1 << index) - 1)).count_ones() as usize
    }

    fn get(&mut self, index: u32) -> Option<&mut Copy> {
        let place = self.place(index);
        if self.has(index) { self.copies.get_mut(place) } else { None }
    }

    /// Of a page that is not there.
    fn insert(&mut self, index: u32, copy: Copy) {
        self.copies.insert(self.place(index), copy);
        self.present |= 1 << index;
    }

    /// Of a page that is there.
    fn remove(&mut self, index: u32) {
        self.copies.remove(self.place(index));
        self.present &= !(1 << index);
    }

    /// Drops old copies. Returns how many.
    fn release(&mut self, round: u32) -> usize {
        let old = |copy: &Copy| copy.round.saturating_add(OLD) <= round;
        if !self.copies.iter().any(old) {
            return 0;
        }
        let (before, mut left) = (self.copies.len(), 0);
        let mut copies = std::mem::take(&mut self.copies).into_iter();
        for index in (0..u64::BITS).filter(|index| self.present & (1 << index) != 0) {
            if let Some(copy) = copies.next().filter(|copy| !old(copy)) {
                left |= 1 << index;
                self.copies.push(copy);
            }
        }
        self.present = left;
        before - self.copies.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Delta;

    const ROOM: u64 = 4 * PAGE_BYTES as u64;

    fn send(kept: &Kept, page: u64, round: u32, fill: u8) -> Sent {
        kept.send(0, page, Some(round), &[fill; PAGE_BYTES], &mut Vec::new())
    }

    #[test]
    fn a_page_that_was_sent_goes_as_its_difference_next_time_whoever_sends_it() {
        let kept = Kept::new([1000], ROOM);
        let (mut page, mut out) = ([7; PAGE_BYTES], Vec::new());
        assert_eq!(kept.send(0, 999, Some(1), &page, &mut out), Sent::Missing);
        page[9] = 1;
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| kept.send(0, 999, Some(2), &page, &mut out)).join().unwrap()
        });
        assert_eq!(sent, Sent::Delta(11));
        let mut there = [7; PAGE_BYTES];
        Delta::split_from(&out).unwrap().0.apply(&mut there);
        assert_eq!(there, page);
    }

    #[test]
    fn what_went_whole_for_too_much_change_is_what_the_next_difference_is_of() {
        let kept = Kept::new([10], ROOM);
        send(&kept, 3, 1, 1);
        assert_eq!(send(&kept, 3, 2, 2), Sent::Overflow);
        assert_eq!(send(&kept, 3, 3, 2), Sent::Delta(1));
    }

    #[test]
    fn a_page_that_was_sent_as_zero_is_zero() {
        let kept = Kept::new([10], ROOM);
        send(&kept, 3, 1, 1);
        kept.is_zero(0, 3);
        kept.is_zero(0, 4);
        assert_eq!(send(&kept, 3, 2, 0), Sent::Delta(1));
        assert_eq!(send(&kept, 4, 2, 0), Sent::Missing);
    }

    #[test]
    fn a_forgotten_page_is_sent_whole_and_its_room_is_free() {
        let kept = Kept::new([200], ROOM);
        (0..6).for_each(|page| assert_eq!(send(&kept, page, 1, 1), Sent::Missing));
        assert_eq!(kept.bytes(), ROOM);
        kept.forget(0, 1);
        kept.forget(0, 1);
        kept.forget(0, 5);
        assert_eq!(kept.bytes(), ROOM - PAGE_BYTES as u64);
        assert_eq!([0, 2, 3].map(|page| send(&kept, page, 2, 1)), [Sent::Delta(1); 3]);
        assert_eq!(send(&kept, 1, 2, 1), Sent::Missing);
        assert_eq!(send(&kept, 1, 3, 1), Sent::Delta(1));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for_and_what_is_old_makes_way() {
        let kept = Kept::new([1000], ROOM);
        (0..8).for_each(|page| assert_eq!(send(&kept, page * 64, 1, 1), Sent::Missing));
        assert_eq!(kept.bytes(), ROOM);
        // What is kept is not thrown away for what would be thrown away again before it is of use.
        assert_eq!(send(&kept, 0, 2, 1), Sent::Delta(1));
        assert_eq!(send(&kept, 7 * 64, 2, 1), Sent::Missing);
        assert_eq!(send(&kept, 7 * 64, 2, 1), Sent::Missing);
        kept.pass(0, 0, 1000, 3);
        assert_eq!(kept.bytes(), PAGE_BYTES as u64, "three of four were not sent for two rounds");
        assert_eq!(send(&kept, 7 * 64, 3, 1), Sent::Missing);
        assert_eq!(send(&kept, 7 * 64, 4, 1), Sent::Delta(1));
        assert_eq!(send(&kept, 0, 4, 1), Sent::Delta(1));
    }

    #[test]
    fn nothing_new_is_kept_in_the_last_round() {
        let kept = Kept::new([10], ROOM);
        assert_eq!(kept.send(0, 1, None, &[1; PAGE_BYTES], &mut Vec::new()), Sent::Missing);
        assert_eq!(kept.bytes(), 0);
    }

    #[test]
    fn pages_that_are_not_there_are_not_kept() {
        let kept = Kept::new([10], ROOM);
        assert_eq!(kept.send(1, 0, Some(1), &[0; PAGE_BYTES], &mut Vec::new()), Sent::Missing);
        assert_eq!(send(&kept, u64::MAX, 1, 1), Sent::Missing);
        kept.forget(9, 9);
        kept.pass(9, 0, u64::MAX, 1);
        assert_eq!(kept.bytes(), 0);
    }
}
