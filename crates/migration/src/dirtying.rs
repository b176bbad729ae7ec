//! How fast a machine dirties its memory, and what comes of that.
//!
//! The pages that are dirty after a round, divided by the time that it took, are no rate: a page counts once, so that a working set that
//! is dirtied over and over looks as if it was dirtied just as fast as it was sent. What does not depend on the round is how likely a
//! page of the working set that is clean is to be dirtied in the next moment: the *hazard*. It shows in the pages of a round: they are
//! sent one after the other, and some are dirty again when one looks. From it follows how many pages are dirty at the end of
//! a round, and whether rounds come to an end. Time counts as much as vCPUs were let run: a machine that is slowed down has the hazard of
//! before.

use crate::Time;

/// Measures the hazard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dirtying {
    /// Of the rounds before this one.
    before: Sample,
    /// Of this round, as it was last looked at.
    now: Sample,
    /// Pages that the round began with.
    pages: u64,
    /// When the round was last looked at, or began; none in the first, of all memory, which says nothing of the working set.
    last: Option<Time>,
    /// Seconds since the round began in which the machine ran.
    ran: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    hazard: f64,
    /// Pages that have it: those of the round, and those that were clean when it began.
    working_set: f64,
    /// Seconds in which the machine ran: what it counts.
    seconds: f64,
}

/// What a look at a round sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// When that was.
    pub at: Time,
    /// Pages of the round that were sent.
    pub sent: u64,
    /// Those of them that are not dirty again.
    pub clean: u64,
    /// All pages that are dirty, sent in this round or not.
    pub dirty: u64,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// Pages of it that are still to be sent.
    pub unsent: f64,
    /// Pages that are dirty, these included.
    pub dirty: f64,
}

/// What is known of a machine and its wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Pages of the working set.
    pub working_set: f64,
    /// Likelihood by second that a clean page of it is dirtied.
    pub hazard: f64,
    /// Pages that are sent in a second.
    pub wire: f64,
}

/// Rounds that come to an end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Course {
    /// Seconds that they take.
    pub seconds: f64,
    /// Pages that are sent in them.
    pub sent: f64,
    /// Pages that are left for the last pass.
    pub left: f64,
}

/// A round that is under way is not judged before it has gone on for so long.
pub(crate) const JUDGED_AFTER: Time = Time::from_secs(1);
/// What was seen counts half after so many seconds of the machine's time.
const HALF_LIFE: f64 = 2.0;
/// Below this time nothing is said.
const LEAST_SECONDS: f64 = 0.05;
/// A look at fewer pages says nothing: some count as sent a moment before they are, and others a moment after.
const LEAST_SENT: u64 = 256;
/// Nor does one at a smaller part of what is dirty.
const LEAST_PART: u64 = 16;
/// Of a machine that goes through much memory hardly a page is dirtied twice: it counts as this, in times of the round.
const SLOWEST: f64 = 0.01;
/// A page is dirtied again at once: no faster than this, in times of the round.
const FASTEST: f64 = 50.0;
/// More rounds are not foretold.
const MOST_ROUNDS: u32 = 200;

impl Dirtying {
    /// A round begins with so many pages. The first, of all memory, says nothing of the working set.
    pub fn begin(&mut self, at: Time, pages: u64, is_first: bool) {
        self.before = self.before.with(self.now);
        (self.now, self.ran, self.pages) = (Sample::default(), 0.0, pages);
        self.last = (!is_first).then_some(at);
    }

    /// The round was looked at; since the last look vCPUs ran for the share `run` of the time.
    pub fn look(&mut self, look: Look, run: f64) {
        let Some(last) = self.last else { return };
        self.ran += look.at.saturating_sub(last).as_secs_f64() * run;
        self.last = Some(look.at);
        if self.ran >= LEAST_SECONDS && look.sent >= LEAST_SENT.max(look.dirty / LEAST_PART) {
            let share = (look.clean as f64 / look.sent as f64).clamp(0.0, 1.0);
            let times = times_dirtied(share).max(SLOWEST);
            // They were clean when the round began, and showed as often as those of the round were dirtied again.
            let others = look.dirty.saturating_add(look.clean).saturating_sub(self.pages) as f64;
            let working_set = self.pages as f64 + others / (1.0 - (-times).exp());
            self.now = Sample { hazard: times / self.ran, working_set, seconds: self.ran };
        }
    }

    /// How it goes on where `wire` pages are sent in a second; `None` while too little was seen.
    #[must_use]
    pub fn pace(&self, wire: f64) -> Option<Pace> {
        let Sample { hazard, working_set, seconds } = self.before.with(self.now);
        (seconds > 0.0 && wire > 0.0).then_some(Pace { working_set, hazard, wire })
    }
}

impl Sample {
    /// Both together, where `now` is the younger one.
    fn with(self, now: Self) -> Self {
        let kept = self.seconds * 0.5_f64.powf(now.seconds / HALF_LIFE);
        let seconds = kept + now.seconds;
        if seconds <= 0.0 {
            return self;
        }
        let both = |before: f64, now_has: f64| (before * kept + now_has * now.seconds) / seconds;
        Self {
            hazard: both(self.hazard, now.hazard),
            working_set: both(self.working_set, now.working_set),
            seconds,
        }
    }
}

/// How often a page was dirtied on average in the time that was looked at, of pages that were sent evenly in it, where this share is
/// clean: `x` of `(1 − e^−x) / x`.
fn times_dirtied(clean: f64) -> f64 {
    let share = |x: f64| if x < 1e-9 { 1.0 } else { (1.0 - (-x).exp()) / x };
    let (mut low, mut high) = (0.0, FASTEST);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if share(middle) > clean { low = middle } else { high = middle }
    }
    low
}

impl Pace {
    /// The same with vCPUs that run for the share `run` of their time.
    #[must_use]
    pub fn at(self, run: f64) -> Self {
        Self { hazard: self.hazard * run, ..self }
    }

    /// Pages that would be dirtied in a second if none was dirty, by those that are sent: from 1 on rounds do not become shorter.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.hazard * self.working_set / self.wire
    }

    /// Pages that are dirty at the end of the round.
    #[must_use]
    pub fn at_the_end(&self, position: Position) -> f64 {
        let Position { unsent, dirty } = position;
        let seconds = unsent / self.wire;
        let becomes_dirty = 1.0 - (-self.hazard * seconds).exp();
        // Sent one after the other: each could be dirtied again for as long as the round went on.
        let stays_clean = if self.hazard > 1e-9 { self.wire / self.hazard * becomes_dirty } else { unsent };
        let clean = (self.working_set - dirty).max(0.0);
        (dirty - stays_clean + clean * becomes_dirty).max(0.0)
    }

    /// Seconds until no more than `enough` pages are left, those included in which they are sent; `None` if that does not come.
    #[must_use]
    pub fn seconds_to(&self, position: Position, enough: f64) -> Option<f64> {
        self.course(position, enough).map(|course| course.seconds + course.left / self.wire)
    }

    /// What comes before no more than `enough` pages are left; `None` if that does not come.
    #[must_use]
    pub fn course(&self, mut position: Position, enough: f64) -> Option<Course> {
        let mut course = Course::default();
        let mut idle = 0;
        for _ in 0..MOST_ROUNDS {
            if position.unsent <= enough && position.dirty <= enough {
                return Some(Course { left: position.dirty, ..course });
            }
            let end = self.at_the_end(position);
            course.seconds += position.unsent / self.wire;
            course.sent += position.unsent;
            idle = if end > 0.98 * position.dirty { idle + 1 } else { 0 };
            if idle > 2 {
                return None;
            }
            position = Position { unsent: end, dirty: end };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A machine that dirties a working set of `pages` at random, `rate` writes in a second, while 1000 pages are sent in one.
    /// Returns what is measured over some rounds.
    fn measured(pages: f64, rate: f64, run: f64) -> Pace {
        let (mut dirtying, mut now, mut dirty) = (Dirtying::default(), 0.0, pages);
        let at = Duration::from_secs_f64;
        for round in 0..4 {
            dirtying.begin(at(now), dirty as u64, round == 0);
            let (mut unsent, mut sent, mut clean) = (dirty, 0.0, 0.0);
            while unsent > 0.0 {
                // Steps of 10 ms.
                let step = unsent.min(10.0);
                unsent -= step;
                sent += step;
                clean -= clean / pages * rate * run * 0.01;
                clean += step;
                dirty -= step;
                dirty += (pages - dirty) / pages * rate * run * 0.01;
                now += step / 1000.0;
                if (sent as u64).is_multiple_of(500) {
                    let look =
                        Look { at: at(now), sent: sent as u64, clean: clean as u64, dirty: dirty as u64 };
                    dirtying.look(look, run);
                }
            }
        }
        dirtying.pace(1000.0).unwrap()
    }

    #[test]
    fn the_true_rate_is_found_where_the_rate_of_a_round_is_only_that_of_the_wire() {
        for rate in [1500.0, 3000.0, 6000.0] {
            let pace = measured(8000.0, rate, 1.0);
            assert!((0.8..1.4).contains(&(pace.ratio() * 1000.0 / rate)), "{rate}: {pace:?}");
        }
    }

    #[test]
    fn a_machine_that_is_slowed_down_has_the_hazard_of_before() {
        let (free, slowed) = (measured(8000.0, 4000.0, 1.0), measured(8000.0, 4000.0, 0.5));
        assert!((0.8..1.25).contains(&(free.hazard / slowed.hazard)), "{free:?} {slowed:?}");
        assert!((slowed.at(0.5).hazard - slowed.hazard / 2.0).abs() < 1e-9);
    }

    #[test]
    fn rounds_come_to_an_end_where_less_is_dirtied_than_sent_and_only_there() {
        let pace = Pace { working_set: 10_000.0, hazard: 0.05, wire: 1000.0 };
        let all = Position { unsent: 10_000.0, dirty: 10_000.0 };
        let seconds = pace.seconds_to(all, 100.0).unwrap();
        assert!((10.0..30.0).contains(&seconds), "{seconds}");
        let busy = Pace { hazard: 0.4, ..pace };
        assert_eq!(busy.seconds_to(all, 100.0), None);
        assert!(busy.at(0.1).seconds_to(all, 100.0).is_some());
        assert!(busy.seconds_to(all, 9900.0).is_some(), "with a limit that is high enough");
    }

    #[test]
    fn nothing_is_said_before_enough_was_seen() {
        let mut dirtying = Dirtying::default();
        let look =
            |seconds, sent| Look { at: Duration::from_secs(seconds), sent, clean: sent / 2, dirty: 1000 };
        assert_eq!(dirtying.pace(1000.0), None);
        dirtying.begin(Duration::ZERO, 1000, true);
        dirtying.look(look(9, 1000), 1.0);
        assert_eq!(dirtying.pace(1000.0), None, "the first round says nothing");
        dirtying.begin(Duration::from_secs(9), 1000, false);
        dirtying.look(look(9, 1000), 1.0);
        assert_eq!(dirtying.pace(1000.0), None, "no time has passed");
        dirtying.look(look(10, 10), 1.0);
        assert_eq!(dirtying.pace(1000.0), None, "hardly a page was sent");
        dirtying.look(look(10, 1000), 1.0);
        assert!(dirtying.pace(1000.0).is_some());
    }

    #[test]
    fn rounds_that_are_short_and_many_are_measured_as_well() {
        let mut dirtying = Dirtying::default();
        // Half of the pages that were sent in 80 ms are dirty again: they are dirtied 20 times a second.
        for round in 1..50_u64 {
            let began = Duration::from_millis(100 * round);
            dirtying.begin(began, 2000, false);
            let look = Look { at: began + Duration::from_millis(80), sent: 1000, clean: 500, dirty: 1500 };
            dirtying.look(look, 1.0);
        }
        let pace = dirtying.pace(10_000.0).unwrap();
        assert!((18.0..22.0).contains(&pace.hazard) && pace.working_set > 1999.0, "{pace:?}");
    }
}
