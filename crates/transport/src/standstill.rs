//! Telling a connection that is stuck from one that is slow.

use std::time::{Duration, Instant};

/// How long nothing has moved. Pure: the time, and what is seen, come from outside.
#[derive(Debug)]
pub(crate) struct Standstill {
    since: Instant,
    seen: Option<Seen>,
}

/// What is seen of a connection on which nothing is sent meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Sends of which the kernel is done. It is done with one when the other side has all of it, which takes a slow network long.
    pub(crate) done: u64,
    /// Bytes that the other side does not have yet.
    pub(crate) unacknowledged: u32,
}

impl Standstill {
    pub(crate) fn begin(now: Instant) -> Self {
        Self { since: now, seen: None }
    }

    /// Returns for how long it has been as it is seen now.
    pub(crate) fn lasts(&mut self, now: Instant, seen: Seen) -> Duration {
        if self.seen.replace(seen) != Some(seen) {
            self.since = now;
        }
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_a_byte_now_and_then_is_slow_and_who_takes_none_is_stuck() {
        let begun = Instant::now();
        let mut standstill = Standstill::begin(begun);
        let mut lasts = |second: u64, done, unacknowledged| {
            let now = begun + Duration::from_secs(second);
            standstill.lasts(now, Seen { done, unacknowledged }).as_secs()
        };
        // One send of a megabyte, which is not done for minutes.
        assert_eq!(lasts(0, 0, 1_000_000), 0);
        assert_eq!(lasts(15, 0, 999_999), 0);
        assert_eq!(lasts(30, 0, 999_999), 15);
        assert_eq!(lasts(49, 0, 10), 0);
        assert_eq!(lasts(68, 1, 10), 0, "it is done with one");
        assert_eq!(lasts(88, 1, 10), 20);
    }
}
