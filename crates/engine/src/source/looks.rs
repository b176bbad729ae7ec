//! Looks at a round while it is under way.

use std::{
    io,
    time::{Duration, Instant},
};

use migration::source::{Event, State};
use ram::{DirtyLog, DirtySet, PageSet, Ram};

use super::Shared;

/// When to look, and what for.
pub(super) struct Looks {
    sets: Vec<PageSet>,
    next: Instant,
}

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// A look takes the kernel a copy of the log, while it clears none: no more than this part of the time is spent on it.
const PART: u32 = 50;

impl Looks {
    pub(super) fn new(ram: &Ram) -> Self {
        let sets = ram.blocks().iter().map(|block| PageSet::new(block.pages())).collect();
        Self { sets, next: Instant::now() + PAUSE }
    }

    /// When the next is due, where there is anything to be seen.
    pub(super) fn due(&self, state: &State) -> Option<Instant> {
        matches!(state, State::Sending(_)).then_some(self.next)
    }

    /// Looks at the dirty log, of which nothing is cleared, while pages of `set` are being sent.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn look(&mut self, set: &DirtySet, log: &dyn DirtyLog, shared: &Shared) -> io::Result<Event> {
        let began = Instant::now();
        // Sent pages first: one that is sent and dirtied again meanwhile is dirty, and not a page that was never dirty.
        let (sent_bytes, done_pages) = shared.progress.so_far();
        let (mut words, mut clean_pages) = (Vec::new(), 0);
        for (index, dirty) in self.sets.iter_mut().enumerate() {
            log.fetch(index, dirty.words_mut())?;
            set.block(index).copy_words(0, dirty.capacity(), &mut words);
            let clean = words
                .iter()
                .zip(dirty.words_mut())
                .map(|(sent, dirty)| u64::from((sent & !*dirty).count_ones()));
            clean_pages += clean.sum::<u64>();
        }
        self.next = Instant::now() + PAUSE.max(began.elapsed() * PART);
        let dirty_pages = self.sets.iter().map(PageSet::count).sum();
        Ok(Event::Look { sent_bytes, done_pages, clean_pages, dirty_pages })
    }
}
