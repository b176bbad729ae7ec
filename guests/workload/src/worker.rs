//! What every CPU does all the time: fill its share of memory, then dirty and check it.

use core::sync::atomic::Ordering;

use workload::{
    content::{Fill, Random},
    pace::Pacer,
    page::{self, BYTES, Fault, Page},
    params::{Order, Rate},
    share::Share,
    time::Gap,
};

use crate::{
    console::say,
    cpu, memory,
    shared::{COUNTS, Counts, ORDERS, SHORTEST_WAIT_US, Setup, WAITS},
};

/// One CPU's work.
#[derive(Debug)]
pub(crate) struct Worker {
    setup: &'static Setup,
    counts: &'static Counts,
    cpu: u64,
    share: Share,
    gap: Gap,
    now: u64,
    /// How long each part of a turn may take, in ticks.
    quantum: u64,
    /// Ticks from which on an access to a page counts as a wait.
    shortest_wait: u64,
    filled: u64,
    pacer: Pacer,
    paced_until: u64,
    next_to_dirty: u64,
    random: Random,
    check: Check,
}

/// Where the checking of pages is.
#[derive(Debug)]
struct Check {
    checked_until: u64,
    /// Ticks that may go into it.
    credit: u64,
    work: Round,
    rest: Round,
    turn_of_rest: bool,
}

/// One walk over a range of pages, again and again.
#[derive(Debug, Default)]
struct Round {
    next: u64,
    /// How often the end was reached.
    done: u64,
}

/// No part of a turn takes much longer than this.
const QUANTUM_US: u64 = 200;
/// Pages that are checked before the other range has its turn.
const PAGES_IN_A_ROW: u32 = 8;

impl Worker {
    /// The work of CPU `cpu`, which has a rank.
    pub(crate) fn new(setup: &'static Setup, cpu: u64) -> Option<Self> {
        let rank = u64::from(setup.ranks.get(cpu as usize).copied().flatten()?);
        let now = cpu::tsc();
        Some(Self {
            setup,
            counts: &COUNTS[cpu as usize],
            cpu,
            share: Share { cpu: rank, cpus: setup.cpus },
            gap: Gap::new(now),
            now,
            quantum: setup.tsc_khz * QUANTUM_US / 1000,
            shortest_wait: (setup.tsc_khz * SHORTEST_WAIT_US / 1000).max(1),
            filled: 0,
            pacer: Pacer::new(setup.tsc_khz * 1000, BYTES),
            paced_until: now,
            next_to_dirty: 0,
            random: Random::new(setup.rules.seed ^ (cpu << 32)),
            check: Check {
                checked_until: now,
                credit: 0,
                work: Round::default(),
                rest: Round::default(),
                turn_of_rest: false,
            },
        })
    }

    /// One turn of the loop: well under a millisecond of work. Returns the TSC at its end.
    pub(crate) fn turn(&mut self) -> u64 {
        self.tick();
        let limit = ORDERS.limit.load(Ordering::Acquire);
        self.counts.seen_limit.store(limit, Ordering::Release);
        if !self.counts.filled.load(Ordering::Relaxed) {
            self.fill_some(limit);
        } else if ORDERS.filled.load(Ordering::Relaxed) {
            let work = ORDERS.work_pages.load(Ordering::Relaxed).min(limit);
            self.dirty_some(work);
            self.check_some(work, limit);
        } else {
            (self.paced_until, self.check.checked_until) = (self.now, self.now);
        }
        self.publish();
        self.now
    }

    #[inline]
    fn tick(&mut self) {
        self.now = cpu::tsc();
        self.gap.step(self.now);
    }

    /// The same after an access to a page, which may have had to wait for it.
    #[inline]
    fn tick_after_access(&mut self) {
        self.now = cpu::tsc();
        let took = self.gap.step(self.now);
        if took >= self.shortest_wait {
            let twice = (took / self.shortest_wait).ilog2() as usize;
            Counts::add(&self.counts.waits[twice.min(WAITS - 1)], 1);
            Counts::add(&self.counts.waited, took);
        }
    }

    fn publish(&mut self) {
        let gap = self.gap.take_longest();
        if gap > self.counts.longest_gap.load(Ordering::Relaxed) {
            self.counts.longest_gap.store(gap, Ordering::Relaxed);
        }
        self.counts.tsc_backward.store(self.gap.backward(), Ordering::Relaxed);
        self.counts.last_turn.store(self.now, Ordering::Relaxed);
    }

    fn has_time(&self, start: u64) -> bool {
        self.now.wrapping_sub(start) < self.quantum
    }

    fn fill_some(&mut self, limit: u64) {
        let (count, start) = (self.share.count(limit), self.now);
        while self.filled < count && self.has_time(start) {
            fill_page(self.setup, self.share.page(self.filled));
            self.filled += 1;
            self.tick();
        }
        if self.filled >= count {
            self.counts.filled.store(true, Ordering::Release);
        }
    }

    fn dirty_some(&mut self, work: u64) {
        let (count, start) = (self.share.count(work), self.now);
        let writers = self.setup.writers;
        if count == 0 || self.share.cpu >= writers {
            return;
        }
        match ORDERS.rate() {
            Rate::Max => {
                while self.has_time(start) {
                    self.dirty_next(count);
                }
            }
            Rate::BytesPerSecond(rate) => {
                let ours = rate / writers + u64::from(self.share.cpu < rate % writers);
                self.pacer.earn(self.now.saturating_sub(self.paced_until), ours);
                while self.has_time(start) && self.pacer.spend() {
                    self.dirty_next(count);
                }
            }
        }
        self.paced_until = start;
    }

    #[inline]
    fn dirty_next(&mut self, count: u64) {
        let index = match self.setup.order {
            Order::Random => self.random.below(count),
            Order::Sequential => {
                if self.next_to_dirty >= count {
                    self.next_to_dirty = 0;
                }
                self.next_to_dirty += 1;
                self.next_to_dirty - 1
            }
        };
        self.dirty(self.share.page(index));
        self.tick_after_access();
    }

    #[inline]
    fn dirty(&mut self, index: u64) {
        let (page, number) = owned_page(self.setup, index);
        let entry = &self.setup.generations[index as usize];
        let old = entry.load(Ordering::Relaxed);
        let new = page::next_generation(old);
        // A page that is rewritten whole takes its faults with it: look before.
        let whole = self.setup.rules.touch == page::Touch::Page && ORDERS.verify.load(Ordering::Relaxed) > 0;
        let before = if whole {
            Counts::add(&self.counts.verified, 1);
            self.setup.rules.verify(page, number, old)
        } else {
            Ok(())
        };
        match before.and_then(|()| self.setup.rules.change(page, number, old, new)) {
            Ok(()) => entry.store(new, Ordering::Relaxed),
            Err(fault) => self.blame(index, fault),
        }
        Counts::add(&self.counts.dirtied, 1);
    }

    fn check_some(&mut self, work: u64, limit: u64) {
        let percent = u64::from(ORDERS.verify.load(Ordering::Relaxed));
        let elapsed = self.now.saturating_sub(self.check.checked_until).min(self.quantum * 100);
        self.check.checked_until = self.now;
        self.check.credit = (self.check.credit + elapsed * percent / 100).min(self.quantum);
        let (work, all) = (self.share.count(work), self.share.count(limit));
        while self.check.credit > 0 && all > 0 {
            let before = self.now;
            for _ in 0..PAGES_IN_A_ROW {
                self.check_next(work, all);
                self.tick_after_access();
            }
            let spent = self.now.saturating_sub(before).max(1);
            self.check.credit = self.check.credit.saturating_sub(spent);
            self.check.turn_of_rest = !self.check.turn_of_rest;
        }
    }

    /// Checks one page: of the working set, or of the rest of what is owned.
    fn check_next(&mut self, work: u64, all: u64) {
        let of_rest = if work == 0 { true } else { self.check.turn_of_rest && all > work };
        let (round, start, end) =
            if of_rest { (&mut self.check.rest, work, all) } else { (&mut self.check.work, 0, work) };
        if round.next < start || round.next >= end {
            round.next = start;
        }
        let index = self.share.page(round.next);
        round.next += 1;
        if round.next == end {
            round.done += 1;
            let passes = match (work, all > work) {
                (0, _) => self.check.rest.done,
                (_, false) => self.check.work.done,
                _ => self.check.work.done.min(self.check.rest.done),
            };
            self.counts.passes.fetch_max(passes, Ordering::Relaxed);
        }
        let (page, number) = owned_page(self.setup, index);
        let generation = self.setup.generations[index as usize].load(Ordering::Relaxed);
        if let Err(fault) = self.setup.rules.verify(page, number, generation) {
            self.blame(index, fault);
        }
        Counts::add(&self.counts.verified, 1);
    }

    /// Reports a fault, and writes the page anew, so that each fault counts once.
    #[cold]
    fn blame(&mut self, index: u64, fault: Fault) {
        Counts::add(&self.counts.errors, 1);
        let (page, number) = owned_page(self.setup, index);
        let entry = &self.setup.generations[index as usize];
        let expected = entry.load(Ordering::Relaxed);
        let (found_page, found_generation) = match fault {
            Fault::Zeroed => (0, 0),
            Fault::Stale { generation } => (number, generation),
            Fault::Foreign { page, generation } | Fault::Garbage { page, generation } => (page, generation),
            Fault::Torn { .. } => (number, u64::from(expected)),
        };
        let (expected_sum, found_sum) = match fault {
            Fault::Torn { expected, found } => (expected, found),
            _ => (0, 0),
        };
        say!(
            "whimbrel error page={number:#x} kind={} expected_gen={expected} found_gen={found_generation} \
             found_page={found_page:#x} expected_sum={expected_sum:#x} found_sum={found_sum:#x} cpu={} \
             cpu_errors={}",
            fault.name(),
            self.cpu,
            self.counts.errors.load(Ordering::Relaxed),
        );
        let new = page::next_generation(expected);
        self.setup.rules.write(page, number, new);
        entry.store(new, Ordering::Relaxed);
    }
}

/// Fills the owned page `index`, which no other CPU uses meanwhile.
pub(crate) fn fill_page(setup: &Setup, index: u64) {
    let (page, number) = owned_page(setup, index);
    let entry = &setup.generations[index as usize];
    if setup.rules.fill == Fill::Zero {
        // A zero page stays untouched, so that it costs the host nothing.
        if !page::is_zero(page) {
            page.fill(0);
        }
        entry.store(0, Ordering::Relaxed);
    } else {
        let generation = page::next_generation(entry.load(Ordering::Relaxed));
        setup.rules.write(page, number, generation);
        entry.store(generation, Ordering::Relaxed);
    }
}

/// The owned page `index`, and its page frame number.
#[inline]
pub(crate) fn owned_page(setup: &Setup, index: u64) -> (&'static mut Page, u64) {
    let address = setup.owned.address(index);
    // SAFETY: owned pages are mapped and used for nothing else, and each has one CPU at a time: the one
    // whose share it is in, or, in the balloon, the first. No reference outlives the handling of one page.
    (unsafe { memory::page(address) }, address / BYTES)
}
