//! How long a guest waited for its memory, by its own clock.

use std::collections::BTreeMap;

use comparison::felt;
use guests::Report;
use serde::Serialize;

use crate::rig::ByteRate;

/// Accesses to pages that took long.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Waits {
    pub(super) count: u64,
    /// Microseconds that they took together.
    pub(super) total_us: u64,
    /// How many took that many microseconds or more, and less than twice as many.
    pub(super) by_us: BTreeMap<u64, u64>,
}

/// What takes less, in microseconds, is no wait for a page that comes from elsewhere.
const SHORTEST_US: u64 = 32;
/// What an access took on average that took 16 to 32 µs, in microseconds.
const SHORTER_US: u64 = 22;

impl Waits {
    /// Between two reports of one guest.
    pub(super) fn between(first: Option<&Report>, last: Option<&Report>) -> Self {
        let Some((first, last)) = first.zip(last) else { return Self::default() };
        let since = |name: &str| last.count(name).unwrap_or(0).saturating_sub(first.count(name).unwrap_or(0));
        let classes = (4..24).map(|power| 1_u64 << power).map(|us| (us, since(&format!("waits{us}"))));
        let (short, long): (Vec<_>, Vec<_>) =
            classes.filter(|(_, count)| *count > 0).partition(|(us, _)| *us < SHORTEST_US);
        let short: u64 = short.iter().map(|(_, count)| count * SHORTER_US).sum();
        Self {
            count: long.iter().map(|(_, count)| count).sum(),
            total_us: since("waited_us").saturating_sub(short),
            by_us: long.into_iter().collect(),
        }
    }

    pub(super) fn mean_us(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total_us as f64 / self.count as f64)
    }

    /// So many of a thousand took less than this, to a power of two.
    pub(super) fn below_us(&self, of_thousand: u64) -> Option<f64> {
        let mut left = (self.count * of_thousand).div_ceil(1000);
        for (us, count) in &self.by_us {
            if *count >= left {
                return (self.count > 0).then_some((us * 2) as f64);
            }
            left -= count;
        }
        None
    }
}

/// Milliseconds from `resumed_ms` (since 1970) until the guest wrote nine tenths of what it wrote `before`, by its `reports`.
pub(super) fn back_at_speed(reports: &[Report], before: ByteRate, resumed_ms: i64) -> Option<f64> {
    let written: Vec<_> =
        reports.iter().map(|report| [report.wall_ms as f64, report.dirtied as f64]).collect();
    felt::back(&written, before.0 as f64, resumed_ms as f64)
}

#[cfg(test)]
mod tests {
    use guests::parse_report;

    use super::*;

    fn report(wall_ms: u64, dirtied: u64, waits: &str) -> Report {
        parse_report(&format!(
            "whimbrel seq=0 wall_ms={wall_ms} tsc_ms=0 clock_ns=0 dirtied={dirtied} rate=0 verified=0 passes=0 errors=0 gap_us=0 \
             gap_cpu=0 maxgap_us=0 clockgap_us=0 maxclockgap_us=0 tsc_back=0 clock_back=0 cpu=0 cpus=1 filled=1 work=0 owned=4096 \
             lost=0 {waits}"
        ))
        .unwrap()
    }

    #[test]
    fn waits_are_those_between_two_reports() {
        let first = report(0, 0, "waited_us=1000 waits64=10");
        let last = report(0, 0, "waited_us=101220 waits16=10 waits64=998 waits128=11 waits1024=1");
        let waits = Waits::between(Some(&first), Some(&last));
        assert_eq!((waits.count, waits.total_us), (1000, 100_000));
        assert_eq!(
            (waits.mean_us(), waits.below_us(500), waits.below_us(999)),
            (Some(100.0), Some(128.0), Some(256.0))
        );
        assert_eq!(Waits::between(Some(&last), Some(&last)).mean_us(), None);
    }

    #[test]
    fn a_guest_is_back_when_the_time_begins_in_which_it_writes_as_before() {
        // 1000 bytes a second, which stood still from 1000 to 1050, and were half as many until 1200.
        let written = [(900, 0), (1000, 100), (1050, 100), (1200, 175), (1500, 475)];
        let reports: Vec<_> = written.iter().map(|(at, bytes)| report(*at, *bytes, "")).collect();
        let back = back_at_speed(&reports, ByteRate(1000), 1050);
        // Of the 100 ms from then on, 80 are at full speed and 20 at half of it.
        assert_eq!(back, Some(130.0));
        assert_eq!(back_at_speed(&reports, ByteRate(2000), 1050), None);
        assert_eq!(back_at_speed(&[], ByteRate(1000), 1050), None);
    }
}
