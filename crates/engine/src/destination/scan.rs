use std::sync::atomic::{AtomicU64, Ordering};

use ram::{PAGE_SIZE, PageSums, Ram, Touched};

/// All memory, to be compared with what was placed in it, shared out to the channel threads.
#[derive(Debug)]
pub(super) struct Scan {
    ram: Ram,
    touched: Touched,
    next: AtomicU64,
}

/// Pages that a thread takes at a time: 8 MiB.
const STEP_PAGES: u64 = (8 << 20) / PAGE_SIZE as u64;

impl Scan {
    pub(super) fn new(ram: Ram) -> Self {
        Self { touched: Touched::new(ram.clone()), ram, next: AtomicU64::new(0) }
    }

    /// Compares as long as there is something left.
    ///
    /// # Errors
    /// Where memory is not as it was placed.
    pub(super) fn run(&self, sums: &PageSums) -> Result<(), String> {
        let (mut touched, mut words) = (self.touched.clone(), Vec::new());
        while let Some((block, first_page, pages)) = self.step(self.next.fetch_add(1, Ordering::Relaxed)) {
            touched.look(block, first_page, pages, &mut words);
            let is_touched = |page: u64| words[(page / 64) as usize] & (1 << (page % 64)) != 0;
            let changed = sums.changed(block, first_page, pages, |_| true, is_touched);
            if !changed.is_empty() {
                return Err(sums.names(changed.into_iter().map(|range| (block, range))));
            }
        }
        Ok(())
    }

    /// Step number so-and-so: block, first page, pages.
    fn step(&self, mut number: u64) -> Option<(usize, u64, u64)> {
        for (index, block) in self.ram.blocks().iter().enumerate() {
            let steps = block.pages().div_ceil(STEP_PAGES);
            if number < steps {
                let first = number * STEP_PAGES;
                return Some((index, first, STEP_PAGES.min(block.pages() - first)));
            }
            number -= steps;
        }
        None
    }
}
