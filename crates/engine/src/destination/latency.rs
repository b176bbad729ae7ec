use std::time::Duration;

/// Powers of two of microseconds that are told apart: up to half a minute.
const POWERS: usize = 25;
/// Classes within a power of two.
const PARTS: usize = 4;

/// How long something took, many times: a histogram whose classes are a quarter of a power of two wide, of microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    classes: [u64; POWERS * PARTS],
    count: u64,
    total: Duration,
    worst: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { classes: [0; POWERS * PARTS], count: 0, total: Duration::ZERO, worst: Duration::ZERO }
    }
}

impl Latencies {
    pub(super) fn add(&mut self, took: Duration) {
        self.classes[class(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))] += 1;
        self.count += 1;
        self.total += took;
        self.worst = self.worst.max(took);
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean, if there were any.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        (self.count > 0).then(|| self.total.div_f64(self.count as f64))
    }

    /// The longest.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.worst
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }

    /// A time that so many of a thousand did not exceed: at most a quarter too long, as classes are no finer.
    #[must_use]
    pub fn per_mille(&self, share: u64) -> Option<Duration> {
        let wanted = (self.count * share).div_ceil(1000).max(1);
        let mut seen = 0;
        let class = self.classes.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_micros(end(class)).min(self.worst))
    }

    /// How many took less than 2 µs, from then on less than 4 µs, and so on; without the empty ones at the end.
    #[must_use]
    pub fn by_power_of_two(&self) -> Vec<u64> {
        let mut powers: Vec<u64> = self.classes.chunks(PARTS).map(|parts| parts.iter().sum()).collect();
        powers.truncate(powers.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
        powers
    }
}

fn class(micros: u64) -> usize {
    let micros = micros.max(1);
    let power = micros.ilog2() as usize;
    // The two bits below the highest one.
    let part = (micros << 2 >> power & 3) as usize;
    (power * PARTS + part).min(POWERS * PARTS - 1)
}

/// The first time, in microseconds, that is beyond a class.
fn end(class: usize) -> u64 {
    let (power, part) = (class / PARTS, (class % PARTS) as u64);
    ((5 + part) << power).div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_times_is_not_above_what_is_said_of_it_and_hardly_below() {
        let mut latencies = Latencies::default();
        for micros in 1..=1000 {
            latencies.add(Duration::from_micros(micros));
        }
        for (share, exact) in [(500, 500), (990, 990), (999, 999), (1000, 1000)] {
            let said = latencies.per_mille(share).unwrap().as_micros();
            assert!((exact..=exact * 5 / 4 + 1).contains(&said), "{share}: {said}");
        }
        assert_eq!(latencies.worst(), Duration::from_millis(1));
        assert_eq!(latencies.by_power_of_two()[..4], [1, 2, 4, 8]);
        assert_eq!(latencies.by_power_of_two().iter().sum::<u64>(), 1000);
        assert_eq!(latencies.mean().unwrap().as_nanos(), 500_500);
    }

    #[test]
    fn no_time_is_too_long_or_too_short() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.per_mille(500), latencies.mean()), (None, None));
        latencies.add(Duration::ZERO);
        latencies.add(Duration::MAX / 2);
        assert_eq!(latencies.count(), 2);
        assert_eq!(latencies.per_mille(1000), Some(Duration::from_micros(end(POWERS * PARTS - 1))));
    }
}
