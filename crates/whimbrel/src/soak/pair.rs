//! One guest and the two processes between which it is moved: attempt after attempt, from fault to recovery.

use std::time::{Duration, Instant};

use super::{
    SoakError,
    evidence::Footprint,
    guest::{GUEST_PATIENCE, Guest, wait},
    journey::Journey,
    judge::{Destination, Facts, Outcome, Source, judge},
    record::{Journeyed, Problem, Record},
    scenario::Scenario,
    yard::{Place, Yard},
};
use crate::rig::{Interrupt, Witness};

/// Whatever there is of the guest and of the place to which it goes next.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    interrupt: &'a Interrupt,
    yard: Yard,
    guest: Option<Guest>,
    vacancy: Option<Place>,
}

/// How long a destination may take to give memory back.
const FREEING: Duration = Duration::from_secs(5);
/// Memory that a destination may keep beyond what it had at first: buffers, threads, and what its allocator holds on to. With packed
/// batches on 16 channels that was 5 MiB after 5 attempts, and no more after 25. Half of the guest's: whoever keeps that is found.
const MAY_KEEP: u64 = 16 << 20;
/// CPU time that a vCPU thread may get while its guest is elsewhere: for waking up and going back to sleep.
const IDLE_CPU: Duration = Duration::from_millis(1);
/// Reports that are kept of a guest.
const REPORTS: usize = 64;

impl<'a> Pair<'a> {
    pub(super) fn new(yard: Yard, interrupt: &'a Interrupt) -> Self {
        Self { interrupt, yard, guest: None, vacancy: None }
    }

    /// Does one attempt and what follows from it. What must not be is in the record; an error means that the soak cannot go on.
    pub(super) fn attempt(&mut self, scenario: &Scenario) -> Result<Record, SoakError> {
        self.prepare(scenario.unix, scenario.encrypted)?;
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
    fn prepare(&mut self, unix: bool, encrypted: bool) -> Result<(), SoakError> {
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
        if let Some(misfit) = self.vacancy.take_if(|vacancy| vacancy.encrypted != encrypted) {
            let files = misfit.machine.files().clone();
            misfit.machine.quit()?;
            self.yard.forget(&files);
        }
        if self.vacancy.is_none() {
            self.vacancy = Some(self.yard.vacancy(unix, encrypted, self.interrupt)?);
        }
        Ok(())
    }

    fn travel(&mut self, scenario: &Scenario, harmed: bool) -> Result<Journeyed, SoakError> {
        let (Some(guest), Some(vacancy)) = (&mut self.guest, &mut self.vacancy) else {
            return Err(SoakError::NoPlace);
        };
        let (socket, security) = (self.yard.proxy_socket(), self.yard.security(scenario.encrypted));
        Journey { interrupt: self.interrupt, scenario, harmed, socket, security }.travel(guest, vacancy)
    }

    /// Looks for everything that must hold after an attempt, and arranges guest and places as they now are.
    fn verify(&mut self, outcome: Outcome, facts: &Facts, record: &mut Record) -> Result<(), SoakError> {
        match outcome {
            Outcome::Completed | Outcome::CompletedLate => self.verify_arrival(facts, record),
            Outcome::RolledBack | Outcome::RolledBackLate => self.verify_stay(facts, record),
            Outcome::Lost | Outcome::UnknownAsKilled | Outcome::Broken => self.verify_loss(facts, record),
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
    fn verify_loss(&mut self, facts: &Facts, record: &mut Record) -> Result<(), SoakError> {
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
        // Some of it is there and waits for pages that nobody has any more: its process must end all the same.
        let lacks = matches!(facts.destination, Destination::Alive { lacks: true, .. });
        if let Some(place) = self.vacancy.take_if(|_| lacks) {
            let files = place.machine.files().clone();
            place.machine.quit()?;
            self.yard.forget(&files);
        }
        Ok(())
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
        let scenario = record.scenario.without_harm();
        self.prepare(scenario.unix, scenario.encrypted)?;
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
