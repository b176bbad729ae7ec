use super::hop::{Hop, HopError};
use super::plan::Plan;
use super::screen::Screen;
use crate::rig::{ByteRate, Interrupt, Witness};
use guests::Report;
use std::time::{Duration, Instant};

/// What the guest made of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Felt {
    /// The longest time around the switchover in which a CPU of the guest did not turn.
    pub(super) gap: Duration,
    /// The same while memory was copied and the guest ran.
    pub(super) gap_in_rounds: Duration,
    /// Bytes dirtied each second, from the move's beginning until every page was checked.
    pub(super) rate: ByteRate,
    /// Bytes that were checked completely after the arrival.
    pub(super) checked: u64,
}

/// Reports from the destination that may speak of the switchover: the first can have been made before it and been written
/// after it, the second then covers it.
const REPORTS_OF_SWITCHOVER: usize = 2;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until the guest has checked every page that it owns since it arrived.
pub(super) fn settle(
    plan: &Plan,
    screen: &Screen,
    interrupt: &Interrupt,
    witness: &mut Witness,
    hop: &Hop,
) -> Result<Felt, HopError> {
    // A quarter of each CPU's time goes into checks: even an emulated guest does more than this.
    let limit = Duration::from_secs(30 + plan.memory.bytes() / 50_000_000);
    let begun = Instant::now();
    screen.begin_bar("every page is checked");
    loop {
        witness.listen()?;
        let since = &witness.reports()[hop.arrived_at..];
        match progress(since) {
            Some(fraction) if fraction >= 1.0 => break,
            fraction => screen.move_bar(fraction.unwrap_or(0.0), &message(since)),
        }
        if begun.elapsed() > limit {
            return Err(HopError::Unchecked { seconds: limit.as_secs() });
        }
        interrupt.sleep(LOOK_EVERY)?;
    }
    screen.end_bar();
    Ok(felt(witness.reports(), hop.begun_at, hop.arrived_at))
}

/// How much of two passes over all memory is done since the arrival; one alone may have begun before. `None` as long as no
/// report is surely made after the arrival.
fn progress(since: &[Report]) -> Option<f64> {
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

fn message(since: &[Report]) -> String {
    match since {
        [.., before, last] => {
            let millis = last.tsc_ms.saturating_sub(before.tsc_ms).max(1);
            let bytes = last.verified.saturating_sub(before.verified).saturating_mul(4096);
            format!("{}  errors {}", ByteRate(bytes.saturating_mul(1000) / millis), last.errors)
        }
        _ => "waiting for the guest's word".to_owned(),
    }
}

fn felt(reports: &[Report], begun_at: usize, arrived_at: usize) -> Felt {
    let switchover = arrived_at..(arrived_at + REPORTS_OF_SWITCHOVER).min(reports.len());
    Felt {
        gap: longest_gap(&reports[switchover]),
        gap_in_rounds: longest_gap(&reports[begun_at..arrived_at]),
        rate: held_rate(&reports[begun_at.saturating_sub(1)..]),
        checked: reports.last().map_or(0, |report| report.owned),
    }
}

/// The longest gap by either clock: a TSC that stands still with its machine does not see a pause.
pub(super) fn longest_gap(reports: &[Report]) -> Duration {
    reports.iter().map(|report| report.gap.max(report.clock_gap)).max().unwrap_or_default()
}

/// Bytes dirtied each second of the guest's time between the first and the last of these reports.
pub(super) fn held_rate(reports: &[Report]) -> ByteRate {
    let (Some(first), Some(last)) = (reports.first(), reports.last()) else { return ByteRate(0) };
    let millis = last.tsc_ms.saturating_sub(first.tsc_ms).max(1);
    let bytes = last.dirtied.saturating_sub(first.dirtied);
    ByteRate((u128::from(bytes) * 1000 / u128::from(millis)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use guests::parse_report;

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
        assert_eq!(progress(&[]), None);
        assert_eq!(progress(&[at(3)]), None, "it may have been made before the switchover");
        assert!(progress(&[at(3), at(4), at(5)]).unwrap() < 1.0);
        assert_eq!(progress(&[at(3), at(4), at(5), at(6)]), Some(1.0));
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
        let felt = felt(&reports, 1, 2);
        assert_eq!(felt.gap, Duration::from_micros(12), "by the clock that saw it");
        assert_eq!(felt.gap_in_rounds, Duration::from_micros(70));
        assert_eq!(felt.rate, ByteRate(100));
    }
}
