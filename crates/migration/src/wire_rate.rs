//! How fast the wire is, as far as rounds can tell.

use std::{collections::VecDeque, time::Duration};

/// A speed of the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WireRate {
    /// Bytes per second; more than 0.
    pub bytes_per_second: f64,
    /// Whether the bandwidth limit held it back: the wire may be faster, nobody knows by how much.
    pub held_back: bool,
}

/// Measures the wire, round by round.
///
/// The first round fills memory that the destination's kernel has still to make, which may take longer than to send it. No round after
/// it does, and the last pass does not. So it counts only until later rounds have sent enough to be believed without it: what
/// they leave in socket buffers must be little of it.
///
/// A round in which nothing was sent says nothing, and what was measured before it stands. So does a round of a few pages: it ends
/// when buffers have taken them, at the speed of memory. One that the bandwidth limit held back says only that the wire is no
/// slower than that.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WireMeter {
    recent: VecDeque<Sample>,
    /// The first of them is the first round.
    with_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    bytes: u64,
    time: Duration,
    held_back: bool,
}

/// Rounds that count.
const RECENT: usize = 3;
/// What later rounds have sent when they are believed without the first.
const ENOUGH: u64 = 48 << 20;
/// A round that sent less than this, in less than [`SHORT`], says little about the wire.
const SMALL: u64 = 1 << 20;
/// See [`SMALL`].
const SHORT: Duration = Duration::from_millis(20);

impl WireMeter {
    /// A round is over.
    pub fn add(&mut self, bytes: u64, time: Duration, held_back: bool) {
        if bytes == 0 || time.is_zero() {
            return;
        }
        let sample = Sample { bytes, time, held_back };
        let is_first = self.recent.is_empty();
        let is_small = bytes < SMALL && time < SHORT;
        match self.rate() {
            Some(_) if is_small => return,
            Some(known) if held_back && !known.held_back && sample.rate() <= known.bytes_per_second => return,
            // Whichever of them was held back, the wire can do what the other one did.
            Some(known) if held_back != known.held_back => {
                self.recent.clear();
                self.with_first = false;
            }
            _ => {}
        }
        self.with_first |= is_first;
        self.recent.push_back(sample);
        let later: u64 = self.recent.iter().skip(1).map(|sample| sample.bytes).sum();
        if self.recent.len() > RECENT || self.with_first && later >= ENOUGH {
            self.recent.pop_front();
            self.with_first = false;
        }
    }

    /// Over the last three rounds that say something, each weighted by its bytes. `None` before any byte was sent.
    #[must_use]
    pub fn rate(&self) -> Option<WireRate> {
        let sum = |(bytes, time), sample: &Sample| (bytes + sample.bytes, time + sample.time);
        let (bytes, time) = self.recent.iter().fold((0, Duration::ZERO), sum);
        let held_back = self.recent.iter().any(|sample| sample.held_back);
        (bytes > 0).then(|| WireRate { bytes_per_second: bytes as f64 / time.as_secs_f64(), held_back })
    }
}

impl Sample {
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(rounds: &[(u64, Duration, bool)]) -> WireRate {
        let mut meter = WireMeter::default();
        rounds.iter().for_each(|&(bytes, time, held_back)| meter.add(bytes, time, held_back));
        meter.rate().unwrap()
    }

    #[test]
    fn what_was_measured_stands_however_long_nothing_is_sent() {
        let mut rounds = vec![(1_000_000_000, SECOND, false)];
        rounds.resize(500, (0, Duration::from_micros(50), false));
        assert_eq!(after(&rounds), WireRate { bytes_per_second: 1e9, held_back: false });
    }

    #[test]
    fn a_tiny_round_does_not_make_the_wire_slow() {
        let rate = after(&[(1_000_000_000, SECOND, false), (4096, Duration::from_millis(1), false)]);
        assert!((0.99e9..1.01e9).contains(&rate.bytes_per_second), "{rate:?}");
    }

    #[test]
    fn a_tiny_round_does_not_make_the_wire_fast() {
        let (held, free) = ((100_000_000, 10 * SECOND, true), (100_000_000, 2 * SECOND, false));
        let tiny = (200_000, Duration::from_micros(200), true);
        assert_eq!(after(&[held, tiny, tiny, tiny]), WireRate { bytes_per_second: 1e7, held_back: true });
        assert_eq!(after(&[free, tiny, tiny, tiny]), WireRate { bytes_per_second: 5e7, held_back: false });
    }

    #[test]
    fn the_first_round_counts_until_later_ones_have_sent_enough() {
        let (first, later) = ((2_000_000_000, 20 * SECOND, false), (30_000_000, SECOND / 100, false));
        assert!(after(&[first, later]).bytes_per_second < 1.1e8, "30 MB may lie in buffers");
        let rate = after(&[first, later, later]).bytes_per_second;
        assert!((2.9e9..3.1e9).contains(&rate), "{rate}");
        let slow = (60_000_000, SECOND, false);
        let rate = after(&[first, later, later, slow]).bytes_per_second;
        assert!((1.1e8..1.2e8).contains(&rate), "the others count alike: {rate}");
    }

    #[test]
    fn a_wire_that_has_become_slow_is_believed() {
        let slow = (10_000_000, SECOND, false);
        let rate = after(&[(1_000_000_000, SECOND, false), slow, slow, slow]);
        assert!((0.99e7..1.01e7).contains(&rate.bytes_per_second), "{rate:?}");
    }

    #[test]
    fn a_round_that_was_held_back_takes_nothing_from_what_the_wire_can_do() {
        let (free, held) = ((1_000_000_000, SECOND, false), (10_000_000, SECOND, true));
        assert_eq!(after(&[free, held, held, held]), WireRate { bytes_per_second: 1e9, held_back: false });
        assert_eq!(after(&[held]), WireRate { bytes_per_second: 1e7, held_back: true });
        assert_eq!(after(&[held, free]), WireRate { bytes_per_second: 1e9, held_back: false });
    }
}
