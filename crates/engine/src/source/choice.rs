//! Which encodings a channel uses, as it decides for itself a few times a second. Pure: times and samples come from outside.

use std::time::Duration;

use wire::Packing;

/// What a way to pack does to a little of what is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// How many times shorter it becomes.
    pub(super) ratio: f64,
    /// Bytes per second that are packed, of a processor that does nothing else.
    pub(super) bytes_per_second: f64,
}

/// The decisions of one channel. It begins with pages as they are.
#[derive(Debug)]
pub(super) struct Choice {
    /// How much of a processor there is for this channel.
    share: f64,
    packing: Option<Packing>,
    holds: bool,
    window: Window,
    /// How long the channel has sent encoded pages since it last knew what the wire takes.
    unknown: Duration,
}

/// What was sent since the last decision.
#[derive(Debug, Default)]
struct Window {
    bytes: u64,
    /// Of this time the wire, or a limit on it, was waited for.
    waited: Duration,
    time: Duration,
}

/// Between two decisions: four a second.
const WINDOW: Duration = Duration::from_millis(250);
/// The first comes earlier: the first round may be short.
const FIRST_WINDOW: Duration = Duration::from_millis(50);
/// Where encoding takes so long that the wire is not busy, what it would take is not known any more after this time.
const KNOWN: Duration = Duration::from_secs(3);
/// By how much packing must be better than sending pages as they are.
const WORTH: f64 = 1.2;
/// Bytes per second that copying pages, comparing them, and keeping what was sent of them take of a processor.
const HELD_RATE: f64 = 2e9;
/// How many times slower than that the wire must be for differences to be tried: they may find nothing.
const HELD_WORTH: f64 = 8.0;
/// No way to pack is faster, in bytes per second of a processor: where the wire is, none is sampled.
const FASTEST: f64 = 1e9;

impl Choice {
    /// Of one of so many channels, on so many processors.
    pub(super) fn new(channels: u16, processors: usize) -> Self {
        let share = processors as f64 / f64::from(channels.max(1));
        Self {
            share: share.min(1.0),
            packing: None,
            holds: false,
            window: Window::default(),
            unknown: Duration::ZERO,
        }
    }

    /// How batches are packed.
    pub(super) fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// Whether pages go as differences.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// A batch of so many bytes went out, `time` after the one before; of that, `waited` was for the wire to take it. Returns whether it is
    /// time to [decide](Self::decide).
    pub(super) fn sent(&mut self, bytes: u64, waited: Duration, time: Duration) -> bool {
        let window = &mut self.window;
        window.bytes += bytes;
        window.waited += waited;
        window.time += time;
        window.time >= if self.unknown.is_zero() && self.packing.is_none() { FIRST_WINDOW } else { WINDOW }
    }

    /// Decides, by what the wire took, and by samples, which are asked for only where it is slow enough.
    pub(super) fn decide(&mut self, sample: impl FnMut(Packing) -> Option<Sample>) {
        let window = std::mem::take(&mut self.window);
        let is_encoded = self.packing.is_some() || self.holds;
        if is_encoded && window.waited * 2 < window.time {
            // The wire is not what is waited for: what it would take is not seen.
            self.unknown += window.time;
            if self.unknown >= KNOWN {
                (self.packing, self.holds, self.unknown) = (None, false, Duration::ZERO);
            }
            return;
        }
        self.unknown = if is_encoded { Duration::from_nanos(1) } else { Duration::ZERO };
        let rate = window.bytes as f64 / window.waited.as_secs_f64().max(1e-9);
        self.packing = self.best(rate, sample);
        self.holds = rate * HELD_WORTH < HELD_RATE * self.share;
    }

    /// The way to pack that gets most pages through, if that is worth it.
    fn best(&self, rate: f64, mut sample: impl FnMut(Packing) -> Option<Sample>) -> Option<Packing> {
        if rate > FASTEST * self.share {
            return None;
        }
        let through = |packing| {
            let Sample { ratio, bytes_per_second } = sample(packing)?;
            // One after the other: as if nothing were on the wire while the next is packed.
            Some((packing, 1.0 / (1.0 / (bytes_per_second * self.share) + 1.0 / (rate * ratio))))
        };
        let ways = [Packing::Lz4, Packing::Zstd].into_iter().filter_map(through);
        let best = ways.max_by(|one, other| one.1.total_cmp(&other.1));
        best.filter(|(_, through)| *through > rate * WORTH).map(|(packing, _)| packing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Text, as lz4 and zstd do it.
    fn text(packing: Packing) -> Option<Sample> {
        Some(match packing {
            Packing::Lz4 => Sample { ratio: 2.0, bytes_per_second: 900e6 },
            Packing::Zstd => Sample { ratio: 3.5, bytes_per_second: 400e6 },
        })
    }

    fn noise(_: Packing) -> Option<Sample> {
        Some(Sample { ratio: 1.0, bytes_per_second: 1e9 })
    }

    /// After a second in which `waited` of it was waited for a wire that took `rate`.
    fn after(
        choice: &mut Choice,
        rate: f64,
        waited: f64,
        sample: fn(Packing) -> Option<Sample>,
    ) -> (Option<Packing>, bool) {
        let waited = SECOND.mul_f64(waited);
        assert!(choice.sent((rate * waited.as_secs_f64()) as u64, waited, SECOND));
        choice.decide(sample);
        (choice.packing(), choice.holds())
    }

    #[test]
    fn a_slow_wire_has_text_packed_well_and_pages_compared() {
        let mut choice = Choice::new(4, 4);
        assert_eq!((choice.packing(), choice.holds()), (None, false));
        assert_eq!(after(&mut choice, 30e6, 1.0, text), (Some(Packing::Zstd), true));
    }

    #[test]
    fn a_faster_one_has_it_packed_fast() {
        assert_eq!(after(&mut Choice::new(1, 4), 240e6, 1.0, text), (Some(Packing::Lz4), true));
    }

    #[test]
    fn a_fast_wire_has_pages_as_they_are_and_nothing_is_sampled() {
        let mut choice = Choice::new(1, 4);
        assert_eq!(after(&mut choice, 2e9, 1.0, |_| panic!("sampled")), (None, false));
        assert_eq!(after(&mut choice, 600e6, 1.0, text), (None, false), "packing takes as long as sending");
    }

    #[test]
    fn noise_is_sent_as_it_is_however_slow_the_wire_is() {
        assert_eq!(after(&mut Choice::new(1, 1), 1e6, 1.0, noise), (None, true));
    }

    #[test]
    fn many_channels_on_few_processors_pack_no_more_than_there_is_time_for() {
        // Sixteen channels of 100 MB/s each, and two processors.
        assert_eq!(after(&mut Choice::new(16, 2), 100e6, 1.0, text), (None, false));
        assert_eq!(after(&mut Choice::new(16, 2), 8e6, 1.0, text), (Some(Packing::Zstd), true));
    }

    #[test]
    fn where_the_wire_is_not_waited_for_any_more_it_is_looked_at_again_after_a_while() {
        let mut choice = Choice::new(1, 1);
        assert!(after(&mut choice, 100e6, 1.0, text).0.is_some());
        for _ in 0..2 {
            assert!(after(&mut choice, 5e9, 0.01, |_| panic!("sampled")).0.is_some());
        }
        assert_eq!(after(&mut choice, 5e9, 0.01, text), (None, false));
        // It had become faster.
        assert_eq!(after(&mut choice, 5e9, 0.5, text), (None, false));
    }

    #[test]
    fn a_wire_that_is_waited_for_is_known_while_pages_are_encoded() {
        let mut choice = Choice::new(1, 1);
        for _ in 0..20 {
            assert!(after(&mut choice, 20e6, 0.8, text).0.is_some());
        }
        assert_eq!(after(&mut choice, 20e6, 0.8, noise).0, None, "what is sent has changed");
    }

    #[test]
    fn nothing_measured_is_nothing_decided_for_ever() {
        let mut choice = Choice::new(1, 1);
        choice.decide(|_| None);
        assert_eq!(choice.packing(), None);
        assert!(!choice.sent(0, Duration::ZERO, Duration::ZERO));
    }
}
