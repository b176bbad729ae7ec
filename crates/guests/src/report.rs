//! The guest's report line.

use std::{collections::BTreeMap, time::Duration};

/// What the guest says about itself each second. Counts are since its start unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Number of this report, from 0.
    pub sequence: u64,
    /// Milliseconds since 1970 by kvmclock; 0 without kvmclock.
    pub wall_ms: u64,
    /// Milliseconds since the guest's start by its TSC.
    pub tsc_ms: u64,
    /// kvmclock's nanoseconds; 0 without kvmclock.
    pub clock_ns: u64,
    /// Bytes dirtied, 4096 for each page however little of it changed.
    pub dirtied: u64,
    /// Bytes dirtied per second since the last report.
    pub rate: u64,
    /// Pages checked.
    pub verified: u64,
    /// How often all owned memory was checked, first page to last.
    pub passes: u64,
    /// Faults found in memory.
    pub errors: u64,
    /// The longest time since the last report in which a CPU did not turn, by its TSC: what a pause looks
    /// like from inside.
    pub gap: Duration,
    /// The longest such time ever.
    pub max_gap: Duration,
    /// As `gap`, by kvmclock on the first CPU. It differs if the TSC stood still while the guest did.
    pub clock_gap: Duration,
    /// The longest such time ever.
    pub max_clock_gap: Duration,
    /// How often the TSC went backwards.
    pub tsc_back: u64,
    /// How often kvmclock went backwards.
    pub clock_back: u64,
    /// CPUs at work.
    pub cpus: u64,
    /// Whether memory is filled and dirtying has begun.
    pub filled: bool,
    /// Working set in bytes.
    pub work: u64,
    /// Bytes of memory that are filled and checked: less than at the start while some are in the balloon.
    pub owned: u64,
    /// Every other number in the line: the devices' counts, such as `disk_ops` and `disk_errors`.
    pub more: BTreeMap<String, u64>,
}

impl Report {
    /// Another count of the line, such as `disk_ops`; `None` if the guest does not print it.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.more.get(name).copied()
    }
}

/// Reads a report out of a line of the guest's serial output. `None` if it is another line, or cut short before `lost=`, the last
/// word that every report has. A line that was cut behind it lacks counts of devices.
///
/// Numbers that this version does not know are kept in [`Report::more`]; words that are no numbers are passed
/// over.
pub fn parse_report(line: &str) -> Option<Report> {
    // Something may stand before it in the same line: the end of a line that was cut by a reset.
    let (_, words) = line.rsplit_once("whimbrel seq=")?;
    let (sequence, words) = words.split_once(' ')?;
    let mut numbers: BTreeMap<&str, u64> = words
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect();
    let mut take = |key| numbers.remove(key);
    Some(Report {
        sequence: sequence.parse().ok()?,
        wall_ms: take("wall_ms")?,
        tsc_ms: take("tsc_ms")?,
        clock_ns: take("clock_ns")?,
        dirtied: take("dirtied")?,
        rate: take("rate")?,
        verified: take("verified")?,
        passes: take("passes")?,
        errors: take("errors")?,
        gap: Duration::from_micros(take("gap_us")?),
        max_gap: Duration::from_micros(take("maxgap_us")?),
        clock_gap: Duration::from_micros(take("clockgap_us")?),
        max_clock_gap: Duration::from_micros(take("maxclockgap_us")?),
        tsc_back: take("tsc_back")?,
        clock_back: take("clock_back")?,
        cpus: take("cpus")?,
        filled: take("filled")? != 0,
        work: take("work")?,
        owned: take("owned")?,
        // The last word that every line has: without it the line was cut.
        more: take("lost").map(|lost| {
            let rest = numbers.iter().map(|(key, value)| ((*key).to_owned(), *value));
            rest.chain([("lost".to_owned(), lost)]).collect()
        })?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "whimbrel seq=6 wall_ms=1795425119812 tsc_ms=7002 clock_ns=7046428948 \
        dirtied=572874752 rate=100002344 verified=9562696 passes=41 errors=0 gap_us=32076 gap_cpu=0 \
        maxgap_us=32077 clockgap_us=32146 maxclockgap_us=32147 tsc_back=0 clock_back=0 cpu=0 cpus=1 filled=1 \
        work=67108864 owned=535097344 lost=0 disk_ops=12 disk_errors=0";

    #[test]
    fn a_report_is_read() {
        let report = parse_report(&format!("{LINE}\r\n")).unwrap();
        assert_eq!((report.sequence, report.wall_ms, report.tsc_ms), (6, 1_795_425_119_812, 7002));
        assert_eq!((report.dirtied, report.rate, report.verified), (572_874_752, 100_002_344, 9_562_696));
        assert_eq!(
            (report.gap, report.max_gap),
            (Duration::from_micros(32076), Duration::from_micros(32077))
        );
        assert_eq!((report.work, report.owned, report.filled), (67_108_864, 535_097_344, true));
        assert_eq!((report.count("disk_ops"), report.count("net_rx")), (Some(12), None));
    }

    #[test]
    fn a_report_behind_something_else_is_read() {
        assert_eq!(parse_report(&format!("whimbrel seq=5 wall_{LINE}")).unwrap().sequence, 6);
    }

    #[test]
    fn other_lines_are_no_reports() {
        for line in ["", "whimbrel filled pages=1 bytes=4096 ms=1", "whimbrel echo seq=1", "whimbrel seq="] {
            assert_eq!(parse_report(line), None, "{line}");
        }
    }

    #[test]
    fn a_line_that_was_cut_is_no_report() {
        let common = LINE.find(" disk_ops").unwrap();
        for length in 0..common - 1 {
            assert_eq!(parse_report(&LINE[..length]), None, "{length}");
        }
    }

    #[test]
    fn words_and_numbers_that_are_new_do_no_harm() {
        let report = parse_report(&format!("{LINE} mood=fine news=7 huge=99999999999999999999")).unwrap();
        assert_eq!((report.count("news"), report.count("mood"), report.count("huge")), (Some(7), None, None));
    }
}
