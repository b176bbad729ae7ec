use std::path::PathBuf;

use guests::{Report, parse_report};

use super::{Vmm, until};

/// What a guest printed on serial ports that are files, from its start on, wherever it ran. A line that was begun at the
/// source ends at the destination.
pub(crate) struct Story(Vec<PathBuf>);

impl Story {
    /// Of the guest that boots there.
    pub(crate) fn of(vmm: &Vmm) -> Self {
        Self(vec![vmm.serial()])
    }

    /// The guest has moved there.
    pub(crate) fn goes_on_at(&mut self, vmm: &Vmm) {
        self.0.push(vmm.serial());
    }

    /// All lines that are complete.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut text = Vec::new();
        for path in &self.0 {
            text.extend(std::fs::read(path).unwrap_or_default());
        }
        text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// All reports.
    pub(crate) fn reports(&self) -> Vec<Report> {
        self.lines().iter().filter_map(|line| parse_report(line)).collect()
    }

    /// Waits for a report that is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        until(&format!("the guest reports that {what}"), || {
            self.reports().into_iter().rev().find(|report| wanted(report))
        })
    }

    /// Waits until the guest has filled its memory.
    pub(crate) fn filled(&self) {
        self.wait_for("its memory is filled", |report| report.filled);
    }

    /// Waits for `count` reports that are not there yet: the guest runs. Returns the last of them.
    pub(crate) fn goes_on(&self, count: usize) -> Report {
        let known = self.reports().len();
        until("the guest goes on", || self.reports().get(known + count - 1).cloned())
    }

    /// Waits for a line that contains this.
    pub(crate) fn says(&self, text: &str) -> String {
        until(&format!("the guest says '{text}'"), || {
            self.lines().into_iter().find(|line| line.contains(text))
        })
    }

    /// Checks that the guest booted once and found nothing wrong: no report is missing or came twice, memory is as it must be,
    /// and no clock went backwards. Returns the last report.
    pub(crate) fn assert_intact(&self) -> Report {
        self.assert_intact_after(1)
    }

    /// As [`Self::assert_intact`], for a guest that booted so many times, since the last of them.
    pub(crate) fn assert_intact_after(&self, boots: usize) -> Report {
        let lines = self.lines();
        let begins: Vec<_> =
            (0..lines.len()).filter(|&index| lines[index].contains("whimbrel boot")).collect();
        assert_eq!(begins.len(), boots, "{lines:#?}");
        let lines = &lines[begins[boots - 1]..];
        let reports: Vec<_> = lines.iter().filter_map(|line| parse_report(line)).collect();
        for (expected, report) in (0..).zip(&reports) {
            assert_eq!(report.sequence, expected, "a report is missing or came twice");
            assert_eq!(report.errors, 0, "memory is not what it was: {report:?}");
            assert_eq!((report.tsc_back, report.clock_back), (0, 0), "a clock went backwards: {report:?}");
            assert_eq!(report.count("lost"), Some(0), "{report:?}");
        }
        for pair in reports.windows(2) {
            let clocks = |report: &Report| (report.tsc_ms, report.clock_ns, report.wall_ms);
            let ((tsc, clock, wall), (next_tsc, next_clock, next_wall)) =
                (clocks(&pair[0]), clocks(&pair[1]));
            assert!(next_tsc >= tsc && next_clock > clock && next_wall >= wall, "{pair:?}");
        }
        if let (Some(first), Some(last)) = (reports.first(), reports.last()) {
            let (by_tsc, by_clock) =
                (last.tsc_ms - first.tsc_ms, (last.clock_ns - first.clock_ns) / 1_000_000);
            assert!(by_tsc.abs_diff(by_clock) < 300, "the clocks have parted: {by_tsc} ms and {by_clock} ms");
        }
        let bad =
            ["whimbrel error", "whimbrel disk-error", "whimbrel fault", "whimbrel panic", "whimbrel warning"];
        let found: Vec<_> = lines.iter().filter(|line| bad.iter().any(|bad| line.contains(bad))).collect();
        assert!(found.is_empty(), "{found:#?}");
        reports.last().expect("there are reports").clone()
    }
}
