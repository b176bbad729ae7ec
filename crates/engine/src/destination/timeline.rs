use std::time::{Duration, Instant};

/// Width of a step at first.
const STEP: Duration = Duration::from_millis(100);
/// Steps that are kept. With more, each becomes twice as wide: a machine that waits for ever takes no more memory.
const MAX_STEPS: usize = 512;

/// How pages came to a machine that ran already, in steps of equal width from its start here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Width of a step: 100 ms, or that doubled some times.
    pub step: Duration,
    /// The steps. The last one may not be over.
    pub steps: Vec<Step>,
}

/// What a step of a [`Timeline`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Pages that were missing when it was looked at last.
    pub missing_pages: u64,
    /// Accesses to them.
    pub faults: u64,
}

/// Takes notes of it.
#[derive(Debug)]
pub(super) struct Notes {
    began: Instant,
    timeline: Timeline,
}

impl Notes {
    /// From `began` on.
    pub(super) fn from(began: Instant) -> Self {
        Self { began, timeline: Timeline { step: STEP, steps: Vec::new() } }
    }

    /// So many pages are missing `now`, and so many accesses waited since this was called last.
    pub(super) fn note(&mut self, now: Instant, missing_pages: u64, faults: u64) {
        let elapsed = now.saturating_duration_since(self.began);
        let index = |step: Duration| elapsed.as_nanos() / step.as_nanos().max(1);
        while index(self.timeline.step) >= MAX_STEPS as u128 {
            self.timeline.halve();
        }
        let steps = &mut self.timeline.steps;
        // Below the maximum by now. In steps that nobody looked at, nothing happened that is known.
        let index = index(self.timeline.step) as usize;
        let before = steps.last().map_or(missing_pages, |last| last.missing_pages);
        while steps.len() <= index {
            steps.push(Step { missing_pages: before, faults: 0 });
        }
        if let Some(step) = steps.get_mut(index) {
            step.missing_pages = missing_pages;
            step.faults += faults;
        }
    }

    pub(super) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// How long until there is something to note again.
    pub(super) fn step(&self) -> Duration {
        self.timeline.step
    }
}

impl Timeline {
    /// Makes one step of each two.
    fn halve(&mut self) {
        let join = |pair: &[Step]| Step {
            missing_pages: pair.last().map_or(0, |last| last.missing_pages),
            faults: pair.iter().map(|step| step.faults).sum(),
        };
        self.steps = self.steps.chunks(2).map(join).collect();
        self.step = self.step.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_step_in_which_it_was_noted() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut notes = Notes::from(start);
        notes.note(at(10), 100, 2);
        notes.note(at(90), 90, 1);
        notes.note(at(310), 50, 4);
        let steps = notes.timeline().steps.iter().map(|step| (step.missing_pages, step.faults));
        assert_eq!(steps.collect::<Vec<_>>(), [(90, 3), (90, 0), (90, 0), (50, 4)]);
    }

    #[test]
    fn a_wait_of_days_loses_no_fault_and_takes_no_more_memory() {
        let start = Instant::now();
        let mut notes = Notes::from(start);
        for second in 0..10_000_u64 {
            notes.note(start + Duration::from_secs(second), 10_000 - second, 1);
        }
        notes.note(start + Duration::from_secs(3 * 86_400), 0, 1);
        let Timeline { step, steps } = notes.timeline();
        assert!(steps.len() <= MAX_STEPS);
        assert_eq!(steps.iter().map(|step| step.faults).sum::<u64>(), 10_001);
        assert_eq!(steps.last().unwrap().missing_pages, 0);
        assert!(step.as_secs() * steps.len() as u64 >= 3 * 86_400);
    }
}
