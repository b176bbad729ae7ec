//! Evidence on who runs the guest, other than what the VMMs answer when they are asked.
//!
//! * The events STOP and RESUME with their times: two processes whose times of running overlap ran the guest twice, however
//!   briefly. STOP is said after the last instruction, RESUME before the first.
//! * The CPU time of vCPU threads, as the kernel counts it: who has lost the guest gets none any more.
//! * What the guest writes to its serial port: who never had the guest has written nothing, and who lost it writes no more. That
//!   its numbers go on without a gap or a repetition is for [`Witness`](crate::rig::Witness) to see.

use std::{fs, path::Path, time::Duration};

use crate::rig::Machine;

/// When a process ran the guest, by its own events, in microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    spans: Vec<(u64, Option<u64>)>,
}

impl Runs {
    /// Of a process that ran the guest from the beginning.
    pub(super) fn from_start() -> Self {
        Self { spans: vec![(0, None)] }
    }

    /// Takes in what the process has said since the last time.
    pub(super) fn listen(&mut self, machine: &Machine) {
        let events = machine.events();
        while let Some(event) = events.next(Duration::ZERO) {
            let at = event.timestamp.seconds.saturating_mul(1_000_000);
            let at = u64::try_from(at.saturating_add(event.timestamp.microseconds)).unwrap_or(0);
            match event.event.as_str() {
                "RESUME" => self.begin(at),
                "STOP" => self.end(at),
                _ => {}
            }
        }
    }

    fn begin(&mut self, at: u64) {
        if self.spans.last().is_none_or(|(_, end)| end.is_some()) {
            self.spans.push((at, None));
        }
    }

    fn end(&mut self, at: u64) {
        if let Some((_, end @ None)) = self.spans.last_mut() {
            *end = Some(at);
        }
    }

    /// The process was killed. If it did not say STOP before, nobody knows when its last run ended.
    pub(super) fn forget_open_end(&mut self) {
        if let Some((begin, end @ None)) = self.spans.last_mut() {
            *end = Some(*begin);
        }
    }

    /// Whether both ran the guest at some moment.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        let meet = |a: &(u64, Option<u64>), b: &(u64, Option<u64>)| {
            a.1.is_none_or(|end| b.0 < end) && b.1.is_none_or(|end| a.0 < end)
        };
        self.spans.iter().any(|a| other.spans.iter().any(|b| meet(a, b)))
    }
}

/// What a process has done for the guest up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint {
    /// CPU time of its vCPU threads.
    pub(super) cpu: Duration,
    /// Bytes that the guest wrote to the serial port there.
    pub(super) written: u64,
}

impl Footprint {
    pub(super) fn of(machine: &Machine) -> Self {
        let written = fs::metadata(machine.serial()).map_or(0, |file| file.len());
        Self { cpu: vcpu_time(machine.process_id()), written }
    }
}

/// CPU time of the threads of a process that are called `vcpu…`; zero if there is none.
fn vcpu_time(process: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Duration::ZERO };
    tasks.flatten().filter_map(|task| thread_time(&task.path())).sum()
}

fn thread_time(task: &Path) -> Option<Duration> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    if !name.starts_with("vcpu") {
        return None;
    }
    // Its first number is nanoseconds on the CPU (Documentation/scheduler/sched-stats.rst).
    let stat = fs::read_to_string(task.join("schedstat")).ok()?;
    stat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(spans: &[(u64, Option<u64>)]) -> Runs {
        Runs { spans: spans.to_vec() }
    }

    #[test]
    fn runs_one_after_the_other_do_not_overlap() {
        let source = runs(&[(0, Some(100)), (120, Some(200))]);
        assert!(!source.overlap(&runs(&[(100, Some(120)), (200, None)])));
        assert!(!source.overlap(&runs(&[])));
    }

    #[test]
    fn a_moment_in_which_both_ran_is_found() {
        let source = runs(&[(0, Some(100)), (120, Some(200))]);
        for other in [(99, None), (50, Some(60)), (0, Some(1)), (110, Some(121)), (199, Some(500))] {
            assert!(source.overlap(&runs(&[other])), "{other:?}");
            assert!(runs(&[other]).overlap(&source), "{other:?}");
        }
        assert!(Runs::from_start().overlap(&runs(&[(7, None)])));
    }

    #[test]
    fn a_second_resume_or_stop_changes_nothing() {
        let mut runs = Runs::from_start();
        for at in [10, 20] {
            runs.end(at);
        }
        for at in [30, 40] {
            runs.begin(at);
        }
        assert_eq!(runs, self::runs(&[(0, Some(10)), (30, None)]));
        runs.forget_open_end();
        assert_eq!(runs, self::runs(&[(0, Some(10)), (30, Some(30))]));
    }
}
