use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use guests::{Report, parse_report};

use super::serial::Serial;

/// What the workload guest says of itself, and whether its story holds together: it checks its own memory and clocks, and
/// numbers its lines, so nobody else needs to know what it was doing.
#[derive(Debug)]
pub(crate) struct Witness {
    serial: Serial,
    reports: Vec<Report>,
    filled: bool,
    may_lose_lines: bool,
    complaints: Vec<String>,
    last_heard: Instant,
}

/// What the guest says cannot be read, or there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WitnessError {
    /// The file cannot be read.
    #[error("Cannot read what the guest writes to its serial port")]
    Read(#[from] io::Error),
    /// The guest does not speak.
    #[error("The guest has said nothing for {} s: it hangs, or does not run", silence.as_secs())]
    Silent {
        /// How long it was listened for.
        silence: Duration,
    },
}

/// How long a guest that reports several times a second may be silent, on a host that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
/// Complaints that are kept: the first tell what happened.
const MAX_COMPLAINTS: usize = 12;

impl Witness {
    /// Listens to the guest whose serial port is in the file `path`.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            serial: Serial::new(path),
            reports: Vec::new(),
            filled: false,
            may_lose_lines: false,
            complaints: Vec::new(),
            last_heard: Instant::now(),
        }
    }

    /// The same for a guest that may have to throw away lines when it gets no CPU to write them, as long as it says how many.
    pub(crate) fn tolerant(path: &Path) -> Self {
        Self { may_lose_lines: true, ..Self::new(path) }
    }

    /// Hears what was said since the last time.
    pub(crate) fn listen(&mut self) -> Result<(), WitnessError> {
        for line in self.serial.lines()? {
            self.last_heard = Instant::now();
            self.hear(&line);
        }
        let silence = self.last_heard.elapsed();
        if silence > PATIENCE { Err(WitnessError::Silent { silence }) } else { Ok(()) }
    }

    /// The guest may have been stopped for long: its silence counts from here on.
    pub(crate) fn forgive_silence(&mut self) {
        self.last_heard = Instant::now();
    }

    /// The guest is elsewhere now: hears the rest from here, and goes on there.
    pub(crate) fn follow(&mut self, path: &Path) -> Result<(), WitnessError> {
        self.listen()?;
        self.serial.follow(path);
        Ok(())
    }

    /// All memory is filled, and dirtying has begun.
    pub(crate) fn filled(&self) -> bool {
        self.filled
    }

    /// The reports so far, oldest first.
    pub(crate) fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// Forgets all reports but the last `count`: a guest that lives for hours says much.
    pub(crate) fn forget_all_but(&mut self, count: usize) {
        self.reports.drain(..self.reports.len().saturating_sub(count));
    }

    /// What does not hold in the guest's story, as sentences. The first dozen.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn hear(&mut self, line: &str) {
        if let Some(report) = parse_report(line).filter(|_| line.starts_with("whimbrel seq=")) {
            self.compare(&report);
            self.reports.push(report);
            return;
        }
        let kind = line.strip_prefix("whimbrel ").and_then(|rest| rest.split_ascii_whitespace().next());
        match kind {
            Some("filled") => self.filled = true,
            Some("boot" | "device" | "net" | "disk" | "balloon" | "set" | "echo") => {}
            Some("error" | "fault" | "panic" | "disk-error" | "warning") => {
                self.complain(format!("The guest says: {line}"));
            }
            _ => self.complain(format!("A line of the guest's is broken: '{line}'")),
        }
    }

    /// What must hold between a report and the one before, or the guest's beginning.
    fn compare(&mut self, new: &Report) {
        let last = self.reports.last();
        let lost = |report: &Report| report.count("lost").unwrap_or(0);
        let newly_lost = lost(new).saturating_sub(last.map_or(0, lost));
        let expected = last.map_or(0, |last| last.sequence + 1);
        // A line that is lost need not have been a report.
        let most = expected + if self.may_lose_lines { newly_lost } else { 0 };
        let sequence = (!(expected..=most).contains(&new.sequence))
            .then(|| format!("Report {} came where report {expected} was due", new.sequence));
        let earlier = |name: &str, old: fn(&Report) -> u64| {
            last.filter(|last| old(new) < old(last)).map(|last| {
                format!("{name} went back from {} to {} in report {}", old(last), old(new), new.sequence)
            })
        };
        let more = |what: &str, count: fn(&Report) -> u64| {
            let before = last.map_or(0, count);
            (count(new) > before)
                .then(|| format!("{what} in report {}: {}", new.sequence, count(new) - before))
        };
        let found = [
            sequence,
            earlier("The guest's wall clock", |report| report.wall_ms),
            earlier("The guest's TSC", |report| report.tsc_ms),
            earlier("The guest's kvmclock", |report| report.clock_ns),
            more("TSC seen going backwards", |report| report.tsc_back),
            more("kvmclock seen going backwards", |report| report.clock_back),
            more("Faulty pages", |report| report.errors),
            more("Lines that the serial port did not take", lost).filter(|_| !self.may_lose_lines),
        ];
        found.into_iter().flatten().for_each(|complaint| self.complain(complaint));
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(complaint);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn report(sequence: u64, wall: u64, errors: u64, lost: u64) -> String {
        format!(
            "whimbrel seq={sequence} wall_ms={wall} tsc_ms={wall} clock_ns={wall} dirtied=0 rate=0 verified=0 passes=0 \
             errors={errors} gap_us=10 gap_cpu=0 maxgap_us=10 clockgap_us=10 maxclockgap_us=10 tsc_back=0 clock_back=0 cpu=0 \
             cpus=1 filled=1 work=0 owned=0 lost={lost}\r\n"
        )
    }

    fn complaints(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        fs::write(&path, text).unwrap();
        let mut witness = Witness::new(&path);
        witness.listen().unwrap();
        witness.complaints().to_vec()
    }

    #[test]
    fn a_story_that_holds_has_no_complaints() {
        let story =
            ["whimbrel boot version=1\r\n", &report(0, 5, 0, 0), &report(1, 5, 0, 0), &report(2, 9, 0, 0)];
        assert_eq!(complaints(&story.concat()), [""; 0]);
    }

    #[test]
    fn a_report_that_is_missing_or_repeated_is_noticed() {
        let story = [report(0, 5, 0, 0), report(2, 6, 0, 0), report(2, 7, 0, 0)].concat();
        assert_eq!(
            complaints(&story),
            ["Report 2 came where report 1 was due", "Report 2 came where report 3 was due"]
        );
    }

    #[test]
    fn a_guest_that_may_lose_lines_accounts_for_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let complaints = |story: &[String]| {
            fs::write(&path, story.concat()).unwrap();
            let mut witness = Witness::tolerant(&path);
            witness.listen().unwrap();
            witness.complaints().to_vec()
        };
        assert_eq!(complaints(&[report(0, 5, 0, 0), report(3, 6, 0, 2)]), [""; 0]);
        let found = complaints(&[report(0, 5, 0, 0), report(3, 6, 0, 1), report(3, 7, 0, 1)]);
        assert_eq!(found, ["Report 3 came where report 1 was due", "Report 3 came where report 4 was due"]);
    }

    #[test]
    fn clocks_that_go_back_and_faults_are_noticed_once() {
        let story = [report(0, 5, 0, 0), report(1, 4, 2, 1), report(2, 4, 2, 1)].concat();
        let found = complaints(&story);
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(found[0].contains("wall clock went back from 5 to 4 in report 1"), "{found:#?}");
    }

    #[test]
    fn broken_lines_and_what_the_guest_reports_are_noticed() {
        let torn = report(0, 5, 0, 0).replace("wall_ms", "wa");
        let story = [&torn, "whimbrel error page=7 kind=torn\r\n", "imbrel filled pages=1\r\n"].concat();
        assert_eq!(complaints(&story).len(), 3);
    }
}
