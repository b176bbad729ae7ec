//! What the state machine of the source wants done for pages that follow the machine.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use migration::source::Event;
use ram::{DirtySet, PageSet, Ram};
use wire::{Message, PageBits};

use super::{attempt::Attempt, needed::Needed, work::RoundWork};

/// Pages whose dirty bits are cleared by one call, during which the machine's page faults wait: 128 MiB.
const CLEARED_AT_ONCE: u64 = 32 << 10;

impl Attempt {
    /// The machine is stopped: tells the destination which pages will follow, and ends the rounds.
    pub(super) fn divide(&mut self, round: u32) -> Event {
        let Some(mut set) = self.set.take() else {
            return Event::MachineFailed("There is no dirty set".into());
        };
        self.round = None;
        // Finding out may write accessed bits into page tables of the guest, and is in the log that is read afterwards.
        let next = places(&self.machine.ram(), &self.machine.touched_next());
        let blocks = match self.pages_to_come(&mut set, round) {
            Ok(blocks) => blocks,
            Err(error) => return Event::MachineFailed(format!("The dirty log cannot be read: {error}")),
        };
        let mut words = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            block.copy_words(0, block.capacity(), &mut words);
            for bits in PageBits::cut(index as u16, &words) {
                if let Some(lost) = self.send(&Message::Missing(bits)) {
                    return lost;
                }
            }
        }
        let Some(channels) = &self.channels else {
            return Event::LinkLost("There are no channels".into());
        };
        channels.leave_out(&blocks);
        let needed = Arc::new(Needed::new(blocks).with_first(next));
        let to_come = needed.left();
        *self.shared.needed.lock() = Some(needed);
        channels.send_round(&Arc::new(RoundWork::new(round, true, set, Arc::default())));
        Event::Divided { to_come }
    }

    /// The machine runs, and is going to be stopped before a page is sent. Finds out now which of its pages were ever touched: the
    /// others are zero at the destination. That takes 12 ms for 1 GiB of a memfd, which the downtime is spared.
    pub(super) fn look_ahead(&mut self) -> io::Result<()> {
        let (ram, log) = (self.machine.ram(), self.machine.dirty_log());
        let mut untouched = Vec::new();
        for (index, set) in self.touched_pages(&ram).iter().enumerate() {
            for first in (0..set.capacity()).step_by(CLEARED_AT_ONCE as usize) {
                let pages = CLEARED_AT_ONCE.min(set.capacity() - first);
                set.copy_words(first, pages, &mut untouched);
                untouched.iter_mut().for_each(|word| *word = !*word);
                mask_tail(&mut untouched, pages);
                if untouched.iter().any(|word| *word != 0) {
                    log.clear(index, first, pages, &untouched)?;
                }
            }
        }
        // Again: what was touched between the look and the clearing is in no log. What is touched from here on is.
        self.ahead = Some(self.touched_pages(&ram));
        Ok(())
    }

    /// The pages that follow a machine that is stopped: those of its dirty set; before the first round, all that were ever touched.
    fn pages_to_come(&mut self, set: &mut Arc<DirtySet>, round: u32) -> io::Result<Vec<PageSet>> {
        if round > 0 {
            return Ok(copy(set));
        }
        let ram = self.machine.ram();
        let Some(touched) = self.ahead.take() else { return Ok(self.touched_pages(&ram)) };
        let busy = || io::Error::other("the dirty set is in use");
        let since = Arc::get_mut(set).ok_or_else(busy)?;
        since.fetch(&ram, self.machine.dirty_log().as_ref())?;
        let mut words = Vec::new();
        for (index, block) in touched.iter().enumerate() {
            since.block(index).copy_words(0, block.capacity(), &mut words);
            // As many words as the set has, and none beyond it.
            let _ = block.add_words(0, &words);
        }
        Ok(touched)
    }

    /// All pages, but for those that nobody ever touched.
    fn touched_pages(&mut self, ram: &Ram) -> Vec<PageSet> {
        let mut words = Vec::new();
        let mut touched = |index: usize, pages: u64| {
            let set = PageSet::new(pages);
            self.touched.look(index, 0, pages, &mut words);
            mask_tail(&mut words, pages);
            // As many words as the set has, and none beyond it.
            let _ = set.add_words(0, &words);
            set
        };
        ram.blocks().iter().enumerate().map(|(index, block)| touched(index, block.pages())).collect()
    }

    /// Notes pages that the destination says it lacks.
    pub(super) fn list(&mut self, bits: &PageBits) -> Result<(), String> {
        let ram = self.machine.ram();
        let listed = self
            .listed
            .get_or_insert_with(|| ram.blocks().iter().map(|block| PageSet::new(block.pages())).collect());
        let words = bits.words().map_err(|error| error.to_string())?;
        let added =
            listed.get(usize::from(bits.block)).and_then(|set| set.add_words(bits.first_page, &words));
        added.map(|_| ()).ok_or_else(|| "The destination lacks pages that do not exist".into())
    }

    /// Opens channels to a destination that was found again.
    pub(super) fn reopen(&mut self, channels: u16) -> Result<Event, String> {
        if let Some(old) = self.channels.take() {
            old.close();
        }
        let listed = self.listed.take().ok_or("The destination lacks pages, and did not say which")?;
        let before = self.shared.needed.lock().replace(Arc::new(Needed::new(listed)));
        let requests = before.map_or(0, |before| before.requests());
        self.shared.requests.fetch_add(requests, Ordering::Relaxed);
        self.open(channels, None, false)?;
        Ok(Event::Prepared)
    }

    /// Has the channels send what the destination lacks.
    pub(super) fn push(&mut self) -> Result<(), String> {
        let needed = self.shared.needed.lock().clone();
        let (Some(channels), Some(needed)) = (&self.channels, needed) else {
            return Err("There are no channels".into());
        };
        channels.push(&needed);
        Ok(())
    }
}

/// Blocks and pages of guest-physical addresses, as far as there is memory.
fn places(ram: &Ram, addresses: &[u64]) -> Vec<(usize, u64)> {
    let place = |address: &u64| {
        ram.blocks().iter().enumerate().find_map(|(index, block)| {
            let page = address.checked_sub(block.guest_address())? / ram::PAGE_SIZE as u64;
            (page < block.pages()).then_some((index, page))
        })
    };
    addresses.iter().filter_map(place).collect()
}

/// Takes bits beyond `pages` out of the last word.
fn mask_tail(words: &mut [u64], pages: u64) {
    if let (Some(last), tail @ 1..) = (words.last_mut(), pages % 64) {
        *last &= (1 << tail) - 1;
    }
}

fn copy(set: &DirtySet) -> Vec<PageSet> {
    let mut words = Vec::new();
    let copied = |index: usize| {
        let block = set.block(index);
        block.copy_words(0, block.capacity(), &mut words);
        let copy = PageSet::new(block.capacity());
        let _ = copy.add_words(0, &words);
        copy
    };
    (0..set.len()).map(copied).collect()
}
