//! How a machine dirties its memory, from looks at a sample of its pages.

/// The pages that a machine dirties, and how fast: what a [`Pace`](crate::dirtying::Pace) has that does not depend on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pattern {
    /// Pages that are dirtied again and again.
    pub working_set: f64,
    /// Likelihood by second that one of them that is clean is dirtied.
    pub hazard: f64,
}

/// A look at a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Seconds since the sample was drawn.
    pub seconds: f64,
    /// Share of its pages that had changed by then, 0 to 1.
    pub changed: f64,
}

/// Hazards that are tried: from a page in an hour to one in the time that a look takes.
const SLOWEST: f64 = 1e-4;
const FASTEST: f64 = 1e3;
const TRIES: u32 = 200;

impl Pattern {
    /// What explains best what was seen of a machine with so many pages: of a working set that is dirtied at random a share of
    /// `1 − e^(−hazard × time)` is dirty after some time. `None` if nothing changed, or nothing was looked at.
    #[must_use]
    pub fn of(seen: &[Seen], pages: u64) -> Option<Self> {
        let is_usable = |seen: &&Seen| seen.seconds > 0.0 && (0.0..=1.0).contains(&seen.changed);
        let seen: Vec<Seen> = seen.iter().filter(is_usable).copied().collect();
        if pages == 0 || !seen.iter().any(|seen| seen.changed > 0.0) {
            return None;
        }
        let step = (FASTEST / SLOWEST).powf(1.0 / f64::from(TRIES));
        let tried = (0..=TRIES).map(|number| fitted(&seen, SLOWEST * step.powi(number as i32)));
        let best = tried.min_by(|one, other| one.error.total_cmp(&other.error))?;
        Some(Self { working_set: best.share * pages as f64, hazard: best.hazard })
    }

    /// Pages that are dirtied in a second while none of them is dirty yet.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.working_set * self.hazard
    }
}

/// A working set of this share of all pages, with this hazard.
struct Fit {
    share: f64,
    hazard: f64,
    /// Sum of the squares of what it is off by.
    error: f64,
}

/// The share that explains best what was seen, for this hazard.
fn fitted(seen: &[Seen], hazard: f64) -> Fit {
    let dirty = |seen: &Seen| 1.0 - (-hazard * seen.seconds).exp();
    let both: f64 = seen.iter().map(|seen| seen.changed * dirty(seen)).sum();
    let squares: f64 = seen.iter().map(|seen| dirty(seen).powi(2)).sum();
    let share = (both / squares.max(f64::MIN_POSITIVE)).min(1.0);
    let error = seen.iter().map(|seen| (seen.changed - share * dirty(seen)).powi(2)).sum();
    Fit { share, hazard, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: [f64; 4] = [0.1, 0.25, 0.5, 1.0];

    fn seen(changed: impl Fn(f64) -> f64) -> Vec<Seen> {
        TIMES.iter().map(|&seconds| Seen { seconds, changed: changed(seconds) }).collect()
    }

    #[test]
    fn a_working_set_that_is_dirtied_at_random_is_found() {
        for (share, hazard) in [(0.1, 3.0), (0.8, 0.5), (0.02, 40.0)] {
            let pattern = Pattern::of(&seen(|time| share * (1.0 - (-hazard * time).exp())), 100_000).unwrap();
            assert!((pattern.working_set / (share * 1e5) - 1.0).abs() < 0.1, "{share} {hazard}: {pattern:?}");
            assert!((pattern.hazard / hazard - 1.0).abs() < 0.15, "{share} {hazard}: {pattern:?}");
        }
    }

    #[test]
    fn what_goes_through_memory_evenly_has_the_right_rate_and_no_small_working_set() {
        let pattern = Pattern::of(&seen(|time| 0.05 * time), 100_000).unwrap();
        assert!((pattern.rate() / 5000.0 - 1.0).abs() < 0.1, "{pattern:?}");
        assert!(pattern.working_set > 50_000.0, "{pattern:?}");
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        assert_eq!(Pattern::of(&[], 10), None);
        assert_eq!(Pattern::of(&seen(|_| 0.0), 10), None);
        assert_eq!(Pattern::of(&seen(|_| 0.5), 0), None);
        let odd = [
            Seen { seconds: 0.0, changed: 0.5 },
            Seen { seconds: f64::NAN, changed: 0.5 },
            Seen { seconds: 1.0, changed: 7.0 },
        ];
        assert_eq!(Pattern::of(&odd, 10), None);
    }
}
