use std::time::{Duration, Instant, SystemTime};

use super::{
    SoakError,
    evidence::Runs,
    record::{Problem, Record},
    yard::Place,
};
use crate::rig::{Interrupt, Witness, WitnessError};

/// A guest, where it is, and where it was.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) place: Place,
    pub(super) witness: Witness,
    /// When processes that it has left ran it.
    pub(super) past: Vec<Runs>,
}

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A guest of a few MiB fills and checks its memory in less than a second, if it gets a CPU.
pub(super) const GUEST_PATIENCE: Duration = Duration::from_secs(30);
/// Milliseconds that the guest's clock may be ahead of the host's: less than between two of its reports.
const AHEAD_MS: u64 = 50;

impl Guest {
    /// Waits until the guest has said enough. Returns whether it did in time.
    pub(super) fn wait(
        &mut self,
        interrupt: &Interrupt,
        enough: impl Fn(&Witness) -> bool,
    ) -> Result<bool, SoakError> {
        let deadline = Instant::now() + GUEST_PATIENCE;
        loop {
            match self.witness.listen() {
                Ok(()) => {}
                Err(WitnessError::Silent { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if enough(&self.witness) {
                return Ok(true);
            }
            if Instant::now() > deadline || self.place.machine.has_ended() {
                return Ok(false);
            }
            interrupt.sleep(LOOK_EVERY)?;
        }
    }

    /// The guest must go on where it is, and be whole: it has to check all its memory from now on.
    pub(super) fn goes_on(&mut self, interrupt: &Interrupt, record: &mut Record) -> Result<(), SoakError> {
        // By the guest's clock, since a report may be written long after it was made.
        let now = wall_ms();
        let whole = |witness: &Witness| {
            let mut since = witness.reports().iter().filter(|report| report.wall_ms > now);
            let first = since.next();
            // One pass alone may have begun before.
            first.zip(since.next_back()).is_some_and(|(first, last)| last.passes >= first.passes + 2)
        };
        if !self.wait(interrupt, whole)? {
            let last = self.witness.reports().last().map(|report| report.sequence);
            record.problem(Problem::Guest, format!("The guest does not go on after its report {last:?}"));
        }
        if self.witness.reports().last().is_some_and(|last| last.wall_ms > wall_ms() + AHEAD_MS) {
            record.problem(Problem::Guest, "The guest's clock is ahead of the host's".into());
        }
        for complaint in self.witness.complaints() {
            record.problem(Problem::Guest, complaint.clone());
        }
        let errors = self.witness.reports().last().and_then(|report| report.count("disk_errors"));
        if errors.is_some_and(|errors| errors > 0) {
            record.problem(Problem::Guest, format!("{} faulty sectors", errors.unwrap_or(0)));
        }
        Ok(())
    }

    pub(super) fn hear_events(&mut self, other: &mut Place, other_ended: bool) {
        self.place.runs.listen(&self.place.machine);
        other.runs.listen(&other.machine);
        if other_ended {
            other.runs.forget_open_end();
        }
    }

    /// Whether the guest ran in two places at some moment of its life.
    pub(super) fn runs_twice(&self, other: &Runs) -> bool {
        let all: Vec<_> = self.past.iter().chain([&self.place.runs, other]).collect();
        all.iter().enumerate().any(|(index, one)| all[..index].iter().any(|another| one.overlap(another)))
    }
}

/// Milliseconds since 1970 by the host's clock, as the guest has it by kvmclock.
fn wall_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Waits for a condition. Returns whether it came about in time.
pub(super) fn wait(
    interrupt: &Interrupt,
    time: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<bool, SoakError> {
    let deadline = Instant::now() + time;
    loop {
        if condition() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        interrupt.sleep(LOOK_EVERY)?;
    }
}
