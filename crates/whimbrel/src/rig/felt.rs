use std::time::Duration;

use guests::Report;

use super::ByteRate;

/// What a guest made of a move, by its own reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Felt {
    /// The longest time around the switchover in which a CPU of the guest did not turn.
    pub(crate) gap: Duration,
    /// The same while memory was copied and the guest ran.
    pub(crate) gap_in_rounds: Duration,
    /// Bytes dirtied each second, from the move's beginning until every page was checked.
    pub(crate) rate: ByteRate,
    /// Bytes that were checked completely after the arrival.
    pub(crate) checked: u64,
}

/// Reports from the destination that may speak of the switchover: the first can have been made before it and been written
/// after it, the second then covers it.
const REPORTS_OF_SWITCHOVER: usize = 2;

impl Felt {
    /// `begun_at` and `arrived_at` are the numbers of the first reports since the move began, and from the destination.
    pub(crate) fn new(reports: &[Report], begun_at: usize, arrived_at: usize) -> Self {
        let switchover = arrived_at..(arrived_at + REPORTS_OF_SWITCHOVER).min(reports.len());
        Self {
            gap: longest_gap(&reports[switchover]),
            gap_in_rounds: longest_gap(&reports[begun_at..arrived_at]),
            rate: held_rate(&reports[begun_at.saturating_sub(1)..]),
            checked: reports.last().map_or(0, |report| report.owned),
        }
    }
}

/// The longest gap by either clock: a TSC that stands still with its machine does not see a pause.
pub(crate) fn longest_gap(reports: &[Report]) -> Duration {
    reports.iter().map(|report| report.gap.max(report.clock_gap)).max().unwrap_or_default()
}

/// Bytes dirtied each second of the guest's time between the first and the last of these reports.
pub(crate) fn held_rate(reports: &[Report]) -> ByteRate {
    let (Some(first), Some(last)) = (reports.first(), reports.last()) else { return ByteRate(0) };
    let millis = last.tsc_ms.saturating_sub(first.tsc_ms).max(1);
    let bytes = last.dirtied.saturating_sub(first.dirtied);
    ByteRate((u128::from(bytes) * 1000 / u128::from(millis)) as u64)
}

/// How much of two passes over all memory is done in these reports from the destination, 0 to 1; one pass alone may have
/// begun before the arrival. `None` as long as no report is surely made after it.
pub(crate) fn checked_since_arrival(since: &[Report]) -> Option<f64> {
    let first = since.get(REPORTS_OF_SWITCHOVER - 1)?;
    let last = since.last()?;
    let passes = last.passes.saturating_sub(first.passes);
    if passes >= 2 {
        return Some(1.0);
    }
    // Half of the checks go to the working set, so a pass is about twice as many checks as there are pages.
    let checks_of_pass = (first.owned / 4096 * 2).max(1);
    let done = last.verified.saturating_sub(first.verified) as f64 / (2 * checks_of_pass) as f64;
    Some(done.max(passes as f64 / 2.0).min(0.99))
}

#[cfg(test)]
mod tests {
    use guests::parse_report;

    use super::*;

    fn report(tsc_ms: u64, dirtied: u64, passes: u64, gap_us: u64, clock_gap_us: u64) -> Report {
        let line = format!(
            "whimbrel seq=0 wall_ms=0 tsc_ms={tsc_ms} clock_ns=0 dirtied={dirtied} rate=0 verified=0 passes={passes} errors=0 \
             gap_us={gap_us} gap_cpu=0 maxgap_us=0 clockgap_us={clock_gap_us} maxclockgap_us=0 tsc_back=0 clock_back=0 cpu=0 \
             cpus=1 filled=1 work=0 owned=4096 lost=0"
        );
        parse_report(&line).unwrap()
    }

    #[test]
    fn a_pass_that_may_have_begun_before_the_move_does_not_count() {
        let at = |passes| report(0, 0, passes, 0, 0);
        assert_eq!(checked_since_arrival(&[]), None);
        assert_eq!(checked_since_arrival(&[at(3)]), None, "it may have been made before the switchover");
        assert!(checked_since_arrival(&[at(3), at(4), at(5)]).unwrap() < 1.0);
        assert_eq!(checked_since_arrival(&[at(3), at(4), at(5), at(6)]), Some(1.0));
    }

    #[test]
    fn gaps_are_told_apart_by_when_they_were() {
        let reports = [
            report(1000, 0, 0, 9, 9),
            report(1250, 25, 0, 70, 0),
            report(1500, 50, 0, 1, 1),
            report(1750, 75, 0, 5, 12),
            report(2000, 100, 0, 99, 99),
        ];
        let felt = Felt::new(&reports, 1, 2);
        assert_eq!(felt.gap, Duration::from_micros(12), "by the clock that saw it");
        assert_eq!(felt.gap_in_rounds, Duration::from_micros(70));
        assert_eq!(felt.rate, ByteRate(100));
    }
}
