//! How fast the way to a destination is, found out by bytes without a meaning. Only with [`Features::PROBE`](crate::Features::PROBE).
//!
//! ```text
//! source                                   destination
//!   Probe (so many bytes, so long)  ──▶
//!   bytes without a meaning         ══▶        counted, and forgotten
//!                   ◀── Probed (what came in which time), or Refuse
//! ```
//!
//! No machine moves: the connection ends then, and the destination waits for one as before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most bytes of a probe; a destination takes no more.
pub const MAX_PROBE_BYTES: u64 = 256 << 20;

/// Longest that a probe may take; a destination listens no longer.
pub const MAX_PROBE_TIME: Duration = Duration::from_millis(900);

/// What is going to be sent behind this message. It ends with whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Most bytes; of more than [`MAX_PROBE_BYTES`] the rest is not waited for.
    pub bytes: u64,
    /// Longest time, in milliseconds; more than [`MAX_PROBE_TIME`] counts as that.
    pub milliseconds: u32,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probed {
    /// From the probe's message on.
    pub whole: Came,
    /// The last part of that, from the moment on at which half of the bytes or half of the time was over: a connection that is new does
    /// not go as fast as it will.
    pub late: Came,
}

/// Bytes that came, and in which time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Came {
    /// Bytes.
    pub bytes: u64,
    /// Nanoseconds.
    pub nanoseconds: u64,
}

impl Probe {
    /// The largest that there is.
    pub const FULL: Self = Self { bytes: MAX_PROBE_BYTES, milliseconds: MAX_PROBE_TIME.as_millis() as u32 };

    /// Bytes that are counted.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes.min(MAX_PROBE_BYTES)
    }

    /// How long they are waited for.
    #[must_use]
    pub fn time(self) -> Duration {
        Duration::from_millis(self.milliseconds.into()).min(MAX_PROBE_TIME)
    }
}

impl Probed {
    /// What the way takes in a second: by the whole or by its last part, whichever is more, as a new connection is slow at first, and one
    /// that lost something stands still for a while. `None` where nothing was measured, or where what the destination says cannot be:
    /// it was sent `sent` bytes.
    #[must_use]
    pub fn bytes_per_second(&self, sent: u64) -> Option<u64> {
        let Self { whole, late } = self;
        if whole.bytes > sent || late.bytes > whole.bytes || late.nanoseconds > whole.nanoseconds {
            return None;
        }
        late.rate().max(whole.rate())
    }
}

impl Came {
    /// Bytes in a second, if there were any.
    fn rate(self) -> Option<u64> {
        let rate = (u128::from(self.bytes) * 1_000_000_000).checked_div(self.nanoseconds.into())?;
        u64::try_from(rate).ok().filter(|rate| *rate > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: u64 = 100_000_000;

    fn probed(whole: (u64, u64), late: (u64, u64)) -> Probed {
        let came = |(bytes, milliseconds)| Came { bytes, nanoseconds: milliseconds * 1_000_000 };
        Probed { whole: came(whole), late: came(late) }
    }

    #[test]
    fn the_whole_or_its_last_part_says_how_fast_it_is() {
        // It began slowly.
        assert_eq!(probed((60_000_000, 900), (50_000_000, 400)).bytes_per_second(SENT), Some(125_000_000));
        // It lost something, which had to be sent again.
        assert_eq!(probed((90_000_000, 900), (5_000_000, 500)).bytes_per_second(SENT), Some(100_000_000));
        // All came at once.
        assert_eq!(probed((50_000_000, 10), (0, 0)).bytes_per_second(SENT), Some(5_000_000_000));
    }

    #[test]
    fn what_measures_nothing_or_cannot_be_is_no_speed() {
        for nothing in [
            probed((0, 900), (0, 450)),
            probed((5, 0), (5, 0)),
            probed((0, 0), (0, 0)),
            probed((SENT + 1, 900), (0, 450)),
            probed((1000, 900), (1001, 450)),
            probed((1000, 900), (500, 901)),
            Probed { whole: Came { bytes: 0, nanoseconds: u64::MAX }, late: Came::default() },
        ] {
            assert_eq!(nothing.bytes_per_second(SENT), None, "{nothing:?}");
        }
        let slow = Came { bytes: 1, nanoseconds: u64::MAX };
        assert_eq!(Probed { whole: slow, late: slow }.bytes_per_second(SENT), None);
        let fast = Came { bytes: u64::MAX, nanoseconds: 1 };
        assert_eq!(Probed { whole: fast, late: fast }.bytes_per_second(u64::MAX), None);
    }

    #[test]
    fn no_probe_is_longer_than_the_longest() {
        let greedy = Probe { bytes: u64::MAX, milliseconds: u32::MAX };
        assert_eq!((greedy.bytes(), greedy.time()), (MAX_PROBE_BYTES, MAX_PROBE_TIME));
        assert_eq!((Probe::FULL.bytes(), Probe::FULL.time()), (MAX_PROBE_BYTES, MAX_PROBE_TIME));
    }
}
