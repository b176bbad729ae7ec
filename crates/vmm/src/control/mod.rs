//! The machine as its operator sees it: what the monitor can ask and tell, and both ends of a migration.
//!
//! [`Control`] owns the machine, or the place where one is to arrive, and knows why it runs or does not. Everything that changes
//! that goes through [`Control`] and waits for its turn; questions never wait.
//!
//! * `handler`: the commands of the monitor; `keys` is what takes longer than a command.
//! * `outgoing`, `incoming`: what the migration engine needs of a machine that leaves or comes; `offer` is what the one says
//!   of it to the other, and whether it is taken in. `moves` is what is known of either.
//! * `filling`: has memory ready before the pages of a machine come.
//! * `throttle`: slows vCPUs down for a migration.
//! * `threads`: the threads of the process, for whoever pins them.
//! * `query`, `ending`: the engine's figures in the monitor's words; `wording` has what it advises.
//! * `story`, `reports`: the report of a migration, and where it goes.
//! * `dirty_log`, `dirty_limit`: dirty rings are emptied by a thread; vCPUs write no more than they may.
//! * `dirty_rate`: how fast the guest writes its memory, for whoever asks.
//! * `predict`: what a migration would be like, for whoever asks.
//! * `storage`: a machine whose disks fail.
//! * `settings`: parameters and capabilities of migration.

mod announce;
mod dirty_limit;
mod dirty_log;
mod dirty_rate;
mod dump;
mod encoded;
mod ending;
mod filling;
mod following;
mod handler;
mod incoming;
mod keys;
mod moves;
mod offer;
mod outgoing;
mod pinned;
mod postcopy;
mod predict;
mod query;
mod reports;
mod security;
mod settings;
mod storage;
mod story;
mod threads;
mod throttle;
mod wording;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use config::Config;
use engine::chain as one_line;
use migration::Status;
use monitor::{
    CommandError, Events,
    types::{RunState, ShutdownCause},
};
use parking_lot::{Mutex, MutexGuard};

use crate::{
    Incoming, Keep, Machine, MachineEvent, PauseError, events, launcher::Launcher, machine::Sight, panics,
};
pub use handler::Commands;
pub use incoming::Awaited;

use dirty_limit::DirtyLimits;
use dirty_rate::DirtyRate;
use dump::Dump;
use keys::HeldKeys;
use moves::{Arrival, Departure};
use predict::Prediction;
use reports::Reports;
use settings::Settings;
use story::Here;

/// Why nobody can control the machine.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The thread that starts others, or the one that writes reports, cannot be started.
    #[error(
        "Cannot start the threads of the process: raise the limits of processes and open files (ulimit -u, -n)"
    )]
    Threads(#[source] io::Error),
    /// Reports cannot go where they are to go.
    #[error("Reports of migrations cannot be written into {}: create it, or name another directory with --report-dir", path.display())]
    Reports {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a process begins with.
#[derive(Debug)]
pub enum Beginning {
    /// A machine.
    Here(Box<Machine>),
    /// The place for one that is to come.
    Awaited(Box<Awaited>),
}

impl From<Machine> for Beginning {
    fn from(machine: Machine) -> Self {
        Self::Here(Box::new(machine))
    }
}

impl From<Awaited> for Beginning {
    fn from(awaited: Awaited) -> Self {
        Self::Awaited(Box::new(awaited))
    }
}

/// How the process is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Who wanted it.
    pub cause: ShutdownCause,
    /// Exit status of the process.
    pub status: u8,
}

/// The machine, or the place for one, and everything that may be done with it.
#[derive(Debug)]
pub struct Control {
    config: Config,
    events: Events,
    launcher: Launcher,
    /// Held by whatever changes the machine or whether it runs, for as long as that takes.
    turn: Mutex<()>,
    run: Mutex<RunState>,
    /// Whether a machine that arrives shall run; `None` leaves it as it was at the source.
    run_on_arrival: Mutex<Option<bool>>,
    machine: Mutex<Option<Arc<Machine>>>,
    /// Of a process that waits for a machine.
    keep: Option<Keep>,
    /// The place for a machine, until it listens.
    vacant: Mutex<Option<Incoming>>,
    /// Why a thread of the machine failed while it was not this side's to stop: it must not run here unseen.
    broken: Mutex<Option<String>>,
    /// Held by the command that starts a migration.
    departing: Mutex<()>,
    /// Of certificates, and of the name of a place to listen at: both may be where nobody answers.
    certificates: Sight,
    names: Sight,
    held_keys: HeldKeys,
    dirty_rate: DirtyRate,
    dirty_limits: DirtyLimits,
    prediction: Prediction,
    dump: Dump,
    settings: Mutex<Settings>,
    departure: Mutex<Option<Departure>>,
    arrival: Mutex<Option<Arrival>>,
    here: Here,
    reports: Reports,
    /// Of the last migration that came to nothing here: the next one uses its figures anew.
    last_failed_arrival: Mutex<Option<report::Report>>,
    machine_events: events::Events,
    endings: mpsc::Sender<Ending>,
    /// The process was asked to end: no machine is taken in any more.
    ending: AtomicBool,
}

impl Control {
    /// Takes the machine over, or waits for one. Returns the control, and where the process hears that it is to end.
    ///
    /// # Errors
    /// The thread that starts others cannot be started, or there is no directory for reports as it is asked for.
    pub fn new(
        config: Config,
        beginning: Beginning,
        machine_events: events::Events,
        events: Events,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Ending>), ControlError> {
        let (endings, end) = mpsc::channel();
        let (machine, awaited) = match beginning {
            Beginning::Here(machine) => (Some(*machine), None),
            Beginning::Awaited(awaited) => (None, Some(*awaited)),
        };
        let run = if machine.is_some() { RunState::Prelaunch } else { RunState::Inmigrate };
        let (keep, vacant) = awaited.map(|Awaited { keep, vacant }| (keep, vacant)).unzip();
        let run_on_arrival = config.paused().then_some(false);
        let launcher = Launcher::start().map_err(ControlError::Threads)?;
        let reports = match config.report_dir() {
            Some(directory) => Reports::into_directory(directory.as_path(), &launcher)?,
            None => Reports::default(),
        };
        security::look_at_certificates(&config, &launcher);
        let control = Self {
            here: Here {
                host: story::host_name(),
                name: config.name().as_str().into(),
                uuid: Arc::new(Mutex::new(config.uuid())),
                vcpus: config.cpus().get(),
            },
            reports,
            last_failed_arrival: Mutex::default(),
            settings: Mutex::new(Settings::new(&config)),
            config,
            events,
            launcher,
            turn: Mutex::default(),
            run: Mutex::new(run),
            run_on_arrival: Mutex::new(run_on_arrival),
            machine: Mutex::new(machine.map(Arc::new)),
            keep,
            vacant: Mutex::new(vacant),
            broken: Mutex::default(),
            departing: Mutex::default(),
            certificates: Sight::default(),
            names: Sight::default(),
            held_keys: HeldKeys::default(),
            dirty_rate: DirtyRate::default(),
            dirty_limits: DirtyLimits::default(),
            prediction: Prediction::default(),
            dump: Dump::default(),
            departure: Mutex::default(),
            arrival: Mutex::default(),
            machine_events,
            endings,
            ending: AtomicBool::new(false),
        };
        Ok((Arc::new(control), end))
    }

    /// Lets the machine run.
    ///
    /// # Errors
    /// It must not run: it has moved away, is about to, or has ended; or another program uses its disks.
    pub fn resume(&self) -> Result<(), CommandError> {
        let turn = self.turn.lock();
        self.dump.is_over()?;
        match self.state() {
            RunState::Running => Ok(()),
            RunState::Inmigrate => {
                *self.run_on_arrival.lock() = Some(true);
                Ok(())
            }
            RunState::Paused | RunState::Prelaunch | RunState::IoError => {
                let machine = self.machine()?;
                // Held already, unless a migration gave them up and could not have them back.
                machine.lock_disks().map_err(|error| CommandError::generic(one_line(&error)))?;
                self.set_running(&turn, &machine);
                Ok(())
            }
            state => Err(CommandError::generic(why_it_may_not_run(state))),
        }
    }

    /// Stops the machine.
    ///
    /// # Errors
    /// What the guest wrote could not be put on a disk: it is stopped all the same. Or a thread of it waits for storage or memory, and it
    /// runs on. Or a migration has stopped it, and what becomes
    /// of it is decided there.
    pub fn pause(&self) -> Result<(), CommandError> {
        let turn = self.turn.lock();
        match self.state() {
            RunState::Running => {
                let halted = self.halt(&turn, &*self.machine()?, RunState::Paused);
                halted.map_err(|error| CommandError::generic(one_line(&error)))
            }
            RunState::Inmigrate => {
                *self.run_on_arrival.lock() = Some(false);
                Ok(())
            }
            // It is stopped, but not by this command: where the migration leaves it, it would run.
            state @ RunState::FinishMigrate => Err(CommandError::generic(why_it_may_not_run(state))),
            // In no other state does it run.
            _ => Ok(()),
        }
    }

    /// Stops the machine and says so. No state but `Running` is entered or left in another way as long as the machine is
    /// this side's, so that the state is what vCPUs do.
    fn halt(&self, _turn: &MutexGuard<'_, ()>, machine: &Machine, state: RunState) -> Result<(), PauseError> {
        let ran = self.state() == RunState::Running;
        let paused = machine.pause();
        if paused.as_ref().is_err_and(PauseError::runs_on) {
            return paused.map(|_| ());
        }
        if matches!(state, RunState::Paused | RunState::IoError) {
            machine.stands_still();
        }
        if ran {
            self.events.stop(|| self.set(state));
        } else {
            self.set(state);
        }
        paused.map(|_| ())
    }

    /// Starts the guest anew, on behalf of `cause`.
    ///
    /// # Errors
    /// There is no machine here, or it could not be reset. The machine is as it was, or stopped by an internal error where half
    /// of it was reset: the message says which.
    pub fn reset(&self, cause: ShutdownCause) -> Result<(), CommandError> {
        let turn = self.turn.lock();
        self.dump.is_over()?;
        match self.state() {
            RunState::Running
            | RunState::Paused
            | RunState::Prelaunch
            | RunState::IoError
            | RunState::InternalError => {}
            state => return Err(CommandError::generic(why_it_may_not_run(state))),
        }
        let machine = self.machine()?;
        // It builds a good part of the machine anew, which is more than most threads may do.
        let (theirs, launcher) = (machine.clone(), self.launcher.clone());
        let arrival = self.arrival_that_lacks_pages();
        let forget = arrival.map(|arrival| move || arrival.handle.forget_missing(postcopy::FORGET_PATIENCE));
        let half_done = match self.launcher.run(move || theirs.reset(&launcher, forget)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) if error.is_untouched() => {
                let reason = one_line(&error);
                return Err(CommandError::generic(format!(
                    "The machine is not reset, and as it was: {reason}"
                )));
            }
            Ok(Err(error)) => Some(one_line(&error)),
            Err(defect) => Some(defect.to_string()),
        };
        if let Some(reason) = half_done {
            if let Err(error) = self.halt(&turn, &machine, RunState::InternalError) {
                tracing::error!("{}", one_line(&error));
            }
            return Err(CommandError::generic(format!(
                "Half of the machine is reset, it is stopped until it is reset again: {reason}"
            )));
        }
        // Whatever was broken was made anew.
        self.broken.lock().take();
        if matches!(self.state(), RunState::InternalError | RunState::IoError) {
            self.set(RunState::Paused);
        }
        self.events.reset(cause);
        Ok(())
    }

    /// Asks the process to end.
    pub fn end(&self, cause: ShutdownCause, status: u8) {
        self.ending.store(true, Ordering::SeqCst);
        // Nobody listens when it is ending already.
        let _ = self.endings.send(Ending { cause, status });
    }

    /// Asks the process to end, on behalf of a caller that can be told that it must not.
    ///
    /// # Errors
    /// It is not known who has the machine: what is here may be its only copy.
    pub fn ask_to_end(&self, cause: ShutdownCause) -> Result<(), CommandError> {
        if self.is_undecided() {
            return Err(CommandError::generic(
                "It is not known who has the machine, and this process may have its only copy: it does not end. Say first who \
                 has it, take_back or let_go (whimbrel-take-back, whimbrel-let-go) tell what they risk",
            ));
        }
        self.refuse_in_postcopy("This process does not end")?;
        self.end(cause, 0);
        Ok(())
    }

    /// Whether *go* was said, and it is not known who has the machine.
    pub(super) fn is_undecided(&self) -> bool {
        let departure = self.departure.lock();
        departure.as_ref().is_some_and(|departure| departure.handle.is_unknown())
    }

    /// What the machine says. The program calls this for every event, from one thread.
    pub fn hear(&self, event: MachineEvent) {
        if let Err(panic) = panics::catch(|| self.act_on(event)) {
            self.failed(&format!("Thread 'events' panicked: {panic}"));
        }
    }

    fn act_on(&self, event: MachineEvent) {
        match event {
            // It stays pending, moves with the machine, and is said again where the machine runs on.
            MachineEvent::Reset | MachineEvent::PowerOff if !self.is_here() => {}
            MachineEvent::Reset => {
                if let Err(error) = self.reset(ShutdownCause::GuestReset) {
                    // It waits for nothing else any more.
                    self.give_up_on(&format!("The guest asked for a reset, which was not possible: {error}"));
                }
            }
            MachineEvent::PowerOff => self.end(ShutdownCause::GuestShutdown, 0),
            MachineEvent::Failed { thread, reason } => {
                self.failed(&format!("Thread '{thread}' cannot go on: {reason}"));
            }
            MachineEvent::Disk { index, failure } => self.storage_failed(index, &failure),
        }
    }

    /// Ends what is under way, as far as that is safe, before the process ends.
    pub fn close(&self, cause: ShutdownCause) {
        self.events.shutdown(cause);
        // Both locks are free again before the wait: the threads that are waited for take them too.
        let departure = self.departure.lock().clone();
        let arrival = self.arrival.lock().clone();
        if let Some(departure) = departure {
            departure.handle.machine_ends(why_it_ends(cause));
            departure.handle.join_within(CLOSE_TIMEOUT);
            self.finish_postcopy(&departure);
            // Asked to end in the moment of the hand-over. Its answer is worth waiting for: who cannot wait sends a second signal.
            while departure.handle.is_unknown() && !departure.handle.is_unknown_for_ever() {
                tracing::error!(
                    "It is not known who has the machine: the process ends when the destination has said so"
                );
                departure.handle.join_within(UNDECIDED_PATIENCE);
            }
            if departure.handle.snapshot().status.is_under_way() {
                let report = story::leaving(&self.here, &departure, report::Outcome::Unresolved);
                self.reports.store(|| Some(report));
            }
        }
        if let Some(arrival) = arrival {
            self.forget_missing();
            arrival.handle.stop();
            arrival.handle.join_within(CLOSE_TIMEOUT);
        }
        drop(self.vacant.lock().take());
        self.reports.finish(CLOSE_TIMEOUT);
        let _turn = self.turn.lock();
        if let Some(machine) = self.machine.lock().take()
            && let Err(error) = machine.pause()
        {
            tracing::error!("{}", one_line(&error));
            if error.runs_on() {
                // Its threads cannot be waited for: they end with the process.
                std::mem::forget(machine);
            }
        }
    }

    /// The machine cannot go on. While it is being handed over it is stopped already, and which side goes on with it is not this
    /// side's choice any more: if it is to be this one, it does not run before it was reset.
    fn failed(&self, reason: &str) {
        *self.broken.lock() = Some(reason.into());
        if self.give_up_on(reason) {
            self.broken.lock().take();
        }
    }

    /// Stops the machine until it is reset, if it is this side's; answers whether it is.
    fn give_up_on(&self, reason: &str) -> bool {
        let turn = self.turn.lock();
        let machine = self.machine().ok().filter(|_| self.is_here());
        if let Some(machine) = &machine {
            tracing::error!("{reason}. The machine is stopped until it is reset (system_reset, then cont)");
            if let Err(error) = self.halt(&turn, machine, RunState::InternalError) {
                tracing::error!("{}", one_line(&error));
            }
        } else {
            tracing::error!("{reason}");
        }
        if self.config.monitor().is_none() {
            // Nobody could look at it or reset it.
            self.end(ShutdownCause::HostError, 1);
        }
        machine.is_some()
    }

    /// Whether the machine is this side's.
    fn is_here(&self) -> bool {
        !matches!(self.state(), RunState::Inmigrate | RunState::Postmigrate | RunState::FinishMigrate)
    }

    /// The machine, for a command that changes something of it. As long as the answer is held, no migration stops and saves
    /// the machine: the change is in what moves. After that it is too late for changes, until the machine runs again here or
    /// there.
    fn to_change(&self) -> Result<(MutexGuard<'_, ()>, Arc<Machine>), CommandError> {
        let turn = self.turn.lock();
        match self.state() {
            state @ RunState::FinishMigrate => Err(CommandError::generic(why_it_may_not_run(state))),
            _ => Ok((turn, self.machine()?)),
        }
    }

    /// The report of the migration under way, or of the last one.
    fn report(&self) -> Option<report::Report> {
        if let Some(departure) = self.departure.lock().clone() {
            let outcome = story::outcome(departure.handle.snapshot().status);
            return Some(story::leaving(&self.here, &departure, outcome));
        }
        let arrival = self.arrival.lock().clone()?;
        match arrival.handle.snapshot().status {
            status @ (Status::Active
            | Status::Device
            | Status::PostcopyActive
            | Status::PostcopyPaused
            | Status::PostcopyRecover
            | Status::Completed) => story::arriving(&self.here, &arrival, story::outcome(status), None),
            _ => self.last_failed_arrival.lock().clone(),
        }
    }

    fn machine(&self) -> Result<Arc<Machine>, CommandError> {
        let machine = self.machine.lock().clone();
        machine.ok_or_else(|| CommandError::generic(why_it_may_not_run(self.state())))
    }

    fn state(&self) -> RunState {
        *self.run.lock()
    }

    fn set(&self, state: RunState) {
        *self.run.lock() = state;
    }

    fn set_running(&self, _turn: &MutexGuard<'_, ()>, machine: &Machine) {
        self.machine_events.set_waits_for_storage(false);
        // The event goes first: what the guest does next comes after it.
        self.events.resume(|| self.set(RunState::Running));
        machine.resume();
    }
}

#[cfg(test)]
mod truth_tests;

/// Between two words about a migration that keeps the process from ending.
const UNDECIDED_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// How long the end of the process waits for a migration that it cancels.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What the destination of a migration is told whose source ends.
fn why_it_ends(cause: ShutdownCause) -> &'static str {
    match cause {
        ShutdownCause::GuestShutdown => "The machine has ended: its guest has switched it off",
        ShutdownCause::HostQmpQuit | ShutdownCause::HostSignal => {
            "The machine has ended: its process was told to end"
        }
        _ => "The machine has ended: its process cannot go on",
    }
}

fn why_it_may_not_run(state: RunState) -> String {
    match state {
        RunState::Postmigrate => "The machine has moved away and runs elsewhere".into(),
        RunState::FinishMigrate => {
            "The machine is stopped for the end of a migration: wait for it, or cancel it. Where it is not known who has the \
             machine, `info migrate` says what to do"
                .into()
        }
        RunState::Inmigrate => "There is no machine here yet: it waits for a migration".into(),
        RunState::InternalError => "The machine is stopped by an internal error: reset it".into(),
        state => format!("The machine is in state '{state}'"),
    }
}
