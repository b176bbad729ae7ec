//! A limit to how fast each vCPU dirties memory: QEMU's capability `dirty-limit`, and what keeps a vCPU to a limit.

use std::time::Duration;

/// How fast each vCPU may dirty memory in a migration that does not get far otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyLimit {
    /// Bytes of pages in a second, each counting once in a period.
    pub bytes_per_second: u64,
    /// How often it is looked at what a vCPU has written.
    pub period: Duration,
    /// Too much was dirtied in a round: this much of what was sent in it, in per cent, 1 to 100.
    pub trigger: u8,
}

/// A vCPU keeps this part of its time at least.
const LEAST_RUN: f64 = 0.01;

/// The share to take from a vCPU that wrote at the rate `current` while `share` was taken, so that it comes to be `limit`; both in the
/// same unit. A vCPU does not write less in proportion where it writes the same pages again and again, so that this takes some periods.
#[must_use]
pub fn limited(share: f64, current: f64, limit: f64) -> f64 {
    let ratio = limit / current.max(f64::MIN_POSITIVE);
    let run = (1.0 - share) * ratio.clamp(0.25, 1.5);
    1.0 - run.clamp(LEAST_RUN, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_comes_to_write_what_it_may_and_is_let_go_when_it_writes_less() {
        let mut share = 0.0;
        for _ in 0..20 {
            share = limited(share, 400.0 * (1.0 - share), 50.0);
        }
        assert!((share - 0.875).abs() < 0.01, "{share}");
        for _ in 0..20 {
            share = limited(share, 10.0 * (1.0 - share), 50.0);
        }
        assert_eq!(share, 0.0);
    }

    #[test]
    fn nothing_written_is_nothing_taken_and_no_limit_stops_a_vcpu() {
        assert_eq!(limited(0.0, 0.0, 1.0), 0.0);
        assert_eq!(limited(0.0, 0.0, 0.0), 0.75);
        let share = (0..50).fold(0.0, |share, _| limited(share, 1e6, 1.0));
        assert!((share - 0.99).abs() < 1e-9, "{share}");
    }
}
