//! What the state machine of the source wants done for pages that follow the machine.

use std::sync::{Arc, atomic::Ordering};

use migration::source::Event;
use ram::{DirtySet, PageSet, Ram};
use wire::{Message, PageBits};

use super::{attempt::Attempt, needed::Needed, work::RoundWork};

impl Attempt {
    /// The machine is stopped: tells the destination which pages will follow, and ends the rounds.
    pub(super) fn divide(&mut self, round: u32) -> Event {
        let Some(set) = self.set.take() else {
            return Event::MachineFailed("There is no dirty set".into());
        };
        self.round = None;
        let ram = self.machine.ram();
        let blocks = if round == 0 { self.touched_pages(&ram) } else { copy(&set) };
        let mut words = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            block.copy_words(0, block.capacity(), &mut words);
            for bits in PageBits::cut(index as u16, &words) {
                if let Some(lost) = self.send(&Message::Missing(bits)) {
                    return lost;
                }
            }
        }
        let needed = Arc::new(Needed::new(blocks));
        let to_come = needed.left();
        *self.shared.needed.lock() = Some(needed);
        let Some(channels) = &self.channels else {
            return Event::LinkLost("There are no channels".into());
        };
        channels.send_round(&Arc::new(RoundWork::new(round, true, set, Arc::default())));
        Event::Divided { to_come }
    }

    /// All pages, but for those that nobody ever touched: they are zero at the destination.
    fn touched_pages(&mut self, ram: &Ram) -> Vec<PageSet> {
        let mut words = Vec::new();
        let mut touched = |index: usize, pages: u64| {
            let set = PageSet::new(pages);
            self.touched.look(index, 0, pages, &mut words);
            if let (Some(last), tail @ 1..) = (words.last_mut(), pages % 64) {
                *last &= (1 << tail) - 1;
            }
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
