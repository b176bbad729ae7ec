//! One guest and the two processes between which it is moved: attempt after attempt, from fault to recovery.

use std::time::{Duration, Instant, SystemTime};

use monitor::ClientError;

use super::{
    SoakError,
    evidence::{Footprint, Runs},
    journey::{Journey, Journeyed},
    judge::{Destination, Facts, Outcome, Source, judge},
    record::{Problem, Record},
    scenario::Scenario,
    yard::{Place, Yard},
};
use crate::rig::{Interrupt, Machine, MachineError, Witness, WitnessError};

/// Whatever there is of the guest and of the place to which it goes next.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    interrupt: &'a Interrupt,
    yard: Yard,
    guest: Option<Guest>,
    vacancy: Option<Place>,
}

/// A guest, where it is, and where it was.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) place: Place,
    pub(super) witness: Witness,
    /// When processes that it has left ran it.
    past: Vec<Runs>,
}

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A guest of a few MiB fills and checks its memory in less than a second, if it gets a CPU.
const GUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a destination may take to give memory back.
const FREEING: Duration = Duration::from_secs(5);
/// Memory that a destination may keep beyond what it had at first: buffers, threads, what its allocator holds on to. An eighth of
/// the guest's.
const MAY_KEEP: u64 = 4 << 20;
/// CPU time that a vCPU thread may get while its guest is elsewhere: for waking up and going back to sleep.
const IDLE_CPU: Duration = Duration::from_millis(1);
/// Milliseconds that the guest's clock may be ahead of the host's: less than between two of its reports.
const AHEAD_MS: u64 = 50;
/// How long a process may be frozen.
const THAW_PATIENCE: Duration = Duration::from_secs(60);
/// Reports that are kept of a guest.
const REPORTS: usize = 64;

impl<'a> Pair<'a> {
    pub(super) fn new(yard: Yard, interrupt: &'a Interrupt) -> Self {
        Self { interrupt, yard, guest: None, vacancy: None }
    }

    /// Does one attempt and what follows from it. What must not be is in the record; an error means that the soak cannot go on.
    pub(super) fn attempt(&mut self, scenario: &Scenario) -> Result<Record, SoakError> {
        self.prepare(scenario.unix)?;
        let began = Instant::now();
        let journeyed = self.travel(scenario, true)?;
        let facts = journeyed.facts.clone();
        let mut record = Record::new(scenario, &journeyed);
        match judge(&facts) {
            Err(broken) => record.problem(Problem::Broken, broken),
            Ok(outcome) => {
                record.outcome = outcome;
                self.verify(outcome, &facts, &mut record)?;
            }
        }
        record.took = began.elapsed();
        if record.problems.is_empty() {
            self.recover(&facts, &mut record)?;
        }
        if !record.problems.is_empty() {
            self.start_over(&mut record);
        }
        Ok(record)
    }

    /// Ends the guest: everything that runs is asked to end, and must.
    pub(super) fn finish(mut self) -> Result<(), SoakError> {
        let places = self.guest.take().map(|guest| guest.place).into_iter().chain(self.vacancy.take());
        for place in places {
            place.machine.quit()?;
        }
        Ok(())
    }

    /// A guest that runs and has filled its memory, and a place for it.
    fn prepare(&mut self, unix: bool) -> Result<(), SoakError> {
        if self.guest.is_none() {
            let place = self.yard.boot(self.interrupt)?;
            let witness = Witness::tolerant(place.machine.serial());
            let mut guest = Guest { place, witness, past: Vec::new() };
            let ready = |witness: &Witness| witness.filled() && witness.reports().len() >= 2;
            if !guest.wait(self.interrupt, ready)? {
                return Err(SoakError::Filling { seconds: GUEST_PATIENCE.as_secs() });
            }
            self.guest = Some(guest);
        }
        if self.vacancy.is_none() {
            self.vacancy = Some(self.yard.vacancy(unix, self.interrupt)?);
        }
        Ok(())
    }

    fn travel(&mut self, scenario: &Scenario, harmed: bool) -> Result<Journeyed, SoakError> {
        let (Some(guest), Some(vacancy)) = (&mut self.guest, &mut self.vacancy) else {
            return Err(SoakError::NoPlace);
        };
        let socket = self.yard.proxy_socket();
        Journey { interrupt: self.interrupt, scenario, harmed, socket }.travel(guest, vacancy)
    }

    /// Looks for everything that must hold after an attempt, and arranges guest and places as they now are.
    fn verify(&mut self, outcome: Outcome, facts: &Facts, record: &mut Record) -> Result<(), SoakError> {
        match outcome {
            Outcome::Completed | Outcome::CompletedLate => self.verify_arrival(facts, record),
            Outcome::RolledBack | Outcome::RolledBackLate => self.verify_stay(facts, record),
            Outcome::Lost | Outcome::UnknownAsKilled | Outcome::Broken => {
                self.verify_loss(record);
                Ok(())
            }
        }
    }

    fn verify_arrival(&mut self, facts: &Facts, record: &mut Record) -> Result<(), SoakError> {
        let (Some(guest), Some(vacancy)) = (&mut self.guest, self.vacancy.take()) else {
            return Err(SoakError::NoPlace);
        };
        let left = std::mem::replace(&mut guest.place, vacancy);
        let mut left = left;
        guest.hear_events(&mut left, facts.source == Source::Dead);
        guest.witness.forgive_silence();
        guest.witness.follow(guest.place.machine.serial())?;
        guest.witness.forget_all_but(REPORTS);
        let before = Footprint::of(&left.machine);
        guest.goes_on(self.interrupt, record)?;
        let after = Footprint::of(&left.machine);
        if after.written != before.written || after.cpu > before.cpu + IDLE_CPU {
            record.problem(Problem::DoubleRun, format!("The source runs on: {before:?}, then {after:?}"));
        }
        guest.hear_events(&mut left, facts.source == Source::Dead);
        if guest.runs_twice(&left.runs) {
            record.problem(Problem::DoubleRun, format!("Both ran: {:?}, {:?}", left.runs, guest.place.runs));
        }
        guest.past.push(left.runs);
        let files = left.machine.files().clone();
        if facts.source != Source::Dead {
            left.machine.quit()?;
        }
        self.yard.forget(&files);
        Ok(())
    }

    fn verify_stay(&mut self, facts: &Facts, record: &mut Record) -> Result<(), SoakError> {
        let (Some(guest), Some(mut vacancy)) = (&mut self.guest, self.vacancy.take()) else {
            return Err(SoakError::NoPlace);
        };
        guest.witness.forgive_silence();
        guest.witness.listen()?;
        guest.witness.forget_all_but(REPORTS);
        let dead = facts.destination == Destination::Dead;
        let before = Footprint::of(&vacancy.machine);
        guest.goes_on(self.interrupt, record)?;
        let after = Footprint::of(&vacancy.machine);
        if after.written != 0 || after.cpu > before.cpu + IDLE_CPU {
            record.problem(
                Problem::DoubleRun,
                format!("The destination ran the guest: {before:?}, then {after:?}"),
            );
        }
        guest.hear_events(&mut vacancy, dead);
        if guest.runs_twice(&vacancy.runs) {
            record
                .problem(Problem::DoubleRun, format!("Both ran: {:?}, {:?}", vacancy.runs, guest.place.runs));
        }
        if dead {
            self.yard.forget(vacancy.machine.files());
            return Ok(());
        }
        let limit = vacancy.empty_bytes + MAY_KEEP;
        let freed = wait(self.interrupt, FREEING, || vacancy.machine.resident_bytes() <= limit)?;
        if !freed {
            let (now, then) = (vacancy.machine.resident_bytes() >> 20, vacancy.empty_bytes >> 20);
            record.problem(Problem::Broken, format!("The destination keeps {now} MiB; it began with {then}"));
        }
        self.vacancy = Some(vacancy);
        Ok(())
    }

    /// The guest is gone with whom it was, and must not be elsewhere too.
    fn verify_loss(&mut self, record: &mut Record) {
        if let (Some(mut guest), Some(vacancy)) = (self.guest.take(), &mut self.vacancy) {
            let ended = vacancy.machine.has_ended();
            let source_ended = guest.place.machine.has_ended();
            if source_ended {
                guest.place.runs.forget_open_end();
            }
            vacancy.runs.listen(&vacancy.machine);
            guest.place.runs.listen(&guest.place.machine);
            if ended {
                vacancy.runs.forget_open_end();
                self.yard.forget(vacancy.machine.files());
            }
            if guest.runs_twice(&vacancy.runs) {
                record.problem(Problem::DoubleRun, format!("{:?}, {:?}", vacancy.runs, guest.place.runs));
            }
            self.yard.forget(guest.place.machine.files());
            if ended {
                self.vacancy = None;
            }
        }
    }

    /// What is left after a fault must do for a migration that succeeds.
    fn recover(&mut self, facts: &Facts, record: &mut Record) -> Result<(), SoakError> {
        let needed = match record.outcome {
            Outcome::RolledBack | Outcome::RolledBackLate => true,
            Outcome::Lost => facts.destination != Destination::Dead,
            _ => false,
        };
        if !needed {
            return Ok(());
        }
        let began = Instant::now();
        self.prepare(false)?;
        let scenario = record.scenario.without_harm();
        let journeyed = self.travel(&scenario, false)?;
        match judge(&journeyed.facts) {
            Ok(Outcome::Completed) => self.verify(Outcome::Completed, &journeyed.facts, record)?,
            other => record.problem(
                Problem::Recovery,
                format!("A good migration afterwards came to {other:?}: {}", journeyed.source_reason),
            ),
        }
        record.recovery = Some(began.elapsed());
        Ok(())
    }

    /// Nothing of what is there can be trusted.
    fn start_over(&mut self, record: &mut Record) {
        for place in self.guest.take().map(|guest| guest.place).into_iter().chain(self.vacancy.take()) {
            record.keep_log(&place.machine);
        }
    }
}

impl Guest {
    /// Waits until the guest has said enough. Returns whether it did in time.
    fn wait(&mut self, interrupt: &Interrupt, enough: impl Fn(&Witness) -> bool) -> Result<bool, SoakError> {
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
    fn goes_on(&mut self, interrupt: &Interrupt, record: &mut Record) -> Result<(), SoakError> {
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

    fn hear_events(&mut self, other: &mut Place, other_ended: bool) {
        self.place.runs.listen(&self.place.machine);
        other.runs.listen(&other.machine);
        if other_ended {
            other.runs.forget_open_end();
        }
    }

    /// Whether the guest ran in two places at some moment of its life.
    fn runs_twice(&self, other: &Runs) -> bool {
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

impl Place {
    /// Whether its process has ended, as a side of a migration that may have been killed.
    pub(super) fn is_dead(&mut self) -> bool {
        self.machine.has_ended()
    }

    /// An answer of its monitor; `None` if the process has ended. One that is frozen answers when it goes on.
    pub(super) fn ask<T>(
        &mut self,
        question: impl Fn(&mut Machine) -> Result<T, MachineError>,
    ) -> Result<Option<T>, SoakError> {
        let deadline = Instant::now() + THAW_PATIENCE;
        while !self.is_dead() {
            match question(&mut self.machine) {
                Ok(answer) => return Ok(Some(answer)),
                Err(MachineError::Died { .. }) => break,
                Err(MachineError::Monitor { source: ClientError::Timeout { .. }, .. })
                    if Instant::now() < deadline => {}
                Err(_) if self.is_dead() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}
