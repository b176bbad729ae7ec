//! Who goes through memory in order, and is run ahead of.

use std::collections::VecDeque;

/// Readers that are known at most. Who has not waited for the longest time is forgotten.
const MOST: usize = 16;

/// Stretches that may be on their way for a reader that waits for the first of them: channels send several at a time.
const ON_THEIR_WAY: u64 = 8;

/// As many waits of others make a reader one that is not known to go in order any more.
const FORGOTTEN_AFTER: u64 = 64;

/// Where a machine waited for memory lately, by the number of the stretch, and what is best sent next for it.
///
/// Whoever waits close to where what was sent for it ends goes through memory in order: such readers are run ahead of by turns. As long as there is none,
/// what follows the last place comes next, as the machine may go on there.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Who has waited last is last.
    known: VecDeque<Reader>,
    /// Waits so far.
    waits: u64,
    /// Stretches that were handed out so far.
    turns: u64,
}

#[derive(Debug)]
struct Reader {
    /// The first stretch that was not sent for it.
    next: u64,
    goes_in_order: bool,
    /// Number of the wait that was its last.
    waited: u64,
    /// Number of the stretch that was handed out for it last.
    served: u64,
}

impl Readers {
    /// Somebody waits in this stretch, which is being sent.
    pub(super) fn waits_in(&mut self, stretch: u64) {
        self.waits += 1;
        let is_at = |reader: &Reader| {
            (reader.next.saturating_sub(ON_THEIR_WAY)..=reader.next.saturating_add(1)).contains(&stretch)
        };
        let found = self.known.iter().position(is_at).and_then(|index| self.known.remove(index));
        let reader = match found {
            // What it waits for is on its way, or it has not gone on yet.
            Some(reader) if stretch < reader.next => reader,
            Some(reader) => Reader { next: stretch + 1, goes_in_order: true, ..reader },
            None => self.begins(stretch),
        };
        self.add(reader);
    }

    /// What nobody waits for is sent in the order of memory, from this stretch on.
    pub(super) fn begin_at(&mut self, stretch: u64) {
        let reader = self.begins(stretch);
        self.add(reader);
    }

    fn begins(&self, stretch: u64) -> Reader {
        Reader { next: stretch + 1, goes_in_order: false, waited: self.waits, served: self.turns }
    }

    fn add(&mut self, mut reader: Reader) {
        if self.known.len() >= MOST {
            let out = self.known.iter().position(|reader| !self.is_in_order(reader)).unwrap_or_default();
            self.known.remove(out);
        }
        reader.waited = self.waits;
        self.known.push_back(reader);
    }

    fn is_in_order(&self, reader: &Reader) -> bool {
        reader.goes_in_order && self.waits - reader.waited <= FORGOTTEN_AFTER
    }

    /// The next stretch to send. `needed` finds the first at or after a number that is still needed.
    pub(super) fn next(&mut self, needed: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        loop {
            let in_order = self.known.iter().enumerate().filter(|(_, reader)| self.is_in_order(reader));
            let turn = in_order.min_by_key(|(_, reader)| reader.served).map(|(index, _)| index);
            let index = turn.or(self.known.len().checked_sub(1))?;
            self.turns += 1;
            let reader = self.known.get_mut(index)?;
            match needed(reader.next) {
                Some(stretch) => {
                    (reader.next, reader.served) = (stretch + 1, self.turns);
                    return Some(stretch);
                }
                // Behind the last that is needed there is nothing to run ahead to.
                None => drop(self.known.remove(index)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn always(from: u64) -> Option<u64> {
        Some(from)
    }

    #[test]
    fn what_follows_the_last_place_comes_next() {
        let mut readers = Readers::default();
        assert_eq!(readers.next(always), None);
        readers.waits_in(10);
        readers.waits_in(700);
        assert_eq!([readers.next(always), readers.next(always)], [Some(701), Some(702)]);
        readers.waits_in(30);
        assert_eq!(readers.next(always), Some(31));
    }

    #[test]
    fn who_goes_in_order_comes_before_who_does_not() {
        let mut readers = Readers::default();
        readers.waits_in(10);
        readers.waits_in(11);
        readers.waits_in(700);
        assert_eq!([readers.next(always), readers.next(always)], [Some(12), Some(13)]);
    }

    #[test]
    fn two_that_go_in_order_are_run_ahead_of_by_turns() {
        let mut readers = Readers::default();
        for stretch in [10, 500, 11, 501, 90] {
            readers.waits_in(stretch);
        }
        let next: Vec<_> = (0..4).filter_map(|_| readers.next(always)).collect();
        assert_eq!(next, [12, 502, 13, 503]);
        // What was sent for it is on its way: it is the same reader.
        readers.waits_in(12);
        let mut next: Vec<_> = (0..2).filter_map(|_| readers.next(always)).collect();
        next.sort_unstable();
        assert_eq!(next, [14, 504]);
    }

    #[test]
    fn who_waits_twice_in_one_place_does_not_go_in_order() {
        let mut readers = Readers::default();
        readers.waits_in(10);
        readers.waits_in(10);
        readers.waits_in(700);
        assert_eq!(readers.next(always), Some(701));
    }

    #[test]
    fn what_is_not_needed_is_passed_over_and_an_end_is_the_end() {
        let mut readers = Readers::default();
        readers.waits_in(3);
        let needed = |from| (from <= 20).then_some(20);
        assert_eq!([readers.next(needed), readers.next(needed)], [Some(20), None]);
        readers.waits_in(5);
        assert_eq!(readers.next(needed), Some(20));
    }

    #[test]
    fn who_has_not_waited_for_long_is_forgotten() {
        let mut readers = Readers::default();
        (0..1000).for_each(|number| readers.waits_in(number * 100));
        assert_eq!(readers.known.len(), MOST);
        readers.waits_in(101);
        assert!(!readers.known.back().unwrap().goes_in_order, "it is another one");
    }

    #[test]
    fn who_went_in_order_and_has_not_waited_for_long_is_not_run_ahead_of() {
        let mut readers = Readers::default();
        readers.waits_in(10);
        readers.waits_in(11);
        assert_eq!(readers.next(always), Some(12));
        (1..=FORGOTTEN_AFTER + 1).for_each(|number| readers.waits_in(number * 100));
        assert_eq!(readers.next(always), Some((FORGOTTEN_AFTER + 1) * 100 + 1));
    }
}
