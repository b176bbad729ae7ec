use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, SystemTime},
};

use engine::{MachineError, Observer, SourceMachine, Threads, Throttle, VcpuTimes, source};
use migration::{FixedCosts, Outcome, Status, source::Verdict};
use monitor::{CommandError, types::RunState};
use ram::{DirtyLog, Ram};
use state::DeviceState;
use transport::{Address, Dialler, Trust};
use uuid::Uuid;
use wire::{DeviceInfo, Forward, SessionId};

use super::{
    Control,
    dirty_log::dirty_log,
    moves::Departure,
    offer::{self, Offer},
    one_line, query, security, story,
    throttle::Throttler,
};
use crate::{Machine, arch::realtime_ns, vcpu::Spent};

impl Control {
    /// What a switchover of this machine may cost, before there was one.
    fn guessed_costs(&self) -> FixedCosts {
        FixedCosts::guess(self.config.cpus().get())
    }

    /// Starts moving the machine to `address`.
    pub(super) fn depart(self: &Arc<Self>, address: Address, session: Uuid) -> Result<(), CommandError> {
        let _about = tracing::error_span!("migration", id = %session).entered();
        // Held until the attempt is registered: two commands at once start one migration, and the first one's.
        let _departing = self.departing.lock();
        let under_way = |departure: &Departure| departure.handle.snapshot().status.is_under_way();
        if self.departure.lock().as_ref().is_some_and(under_way) {
            return Err(CommandError::generic("There's a migration process in progress"));
        }
        if self.departure.lock().as_ref().is_some_and(|departure| departure.session == session.to_string()) {
            return Err(CommandError::generic(format!(
                "Session {session} is over: every migration needs a new one"
            )));
        }
        self.refuse_while_pages_come()?;
        self.dump.is_over()?;
        let machine = self.machine()?;
        match self.state() {
            RunState::Running | RunState::Paused | RunState::Prelaunch | RunState::IoError => {}
            state => return Err(CommandError::generic(super::why_it_may_not_run(state))),
        }
        let trust = self.trust()?;
        security::check_address(&trust, &address)?;
        self.check_to_leave(&trust)?;
        self.dirty_rate.give_way()?;
        let total_bytes = machine.ram().bytes();
        let (params, fixed_costs) = {
            let settings = self.settings.lock();
            (settings.params(), settings.fixed_costs.unwrap_or_else(|| self.guessed_costs()))
        };
        if trust == Trust::Anyone && !address.is_loopback() {
            tracing::warn!(
                "The migration to {address} is not encrypted: {}",
                security::in_clear(&address.to_string())
            );
        }
        tracing::info!("Migrating to {address}");
        let (goes_to, began) = (address.to_string(), SystemTime::now());
        let offer = wire::Offer::of(release::VERSION);
        let dialler = Dialler::new(address, trust);
        let mut target = source::Target::new(dialler, SessionId(*session.as_bytes()), offer);
        target.fixed_costs = fixed_costs;
        let leaving = Arc::new(Leaving { control: self.clone(), machine });
        let observer = Arc::new(Watch { control: Arc::downgrade(self) });
        // Without the lock of the departure: the machine describes itself, for which storage may take its time, and whoever asks
        // about migrations does not wait for that.
        let handle = source::start_on(&self.threads(), leaving, params, target, observer)
            .map_err(|error| CommandError::generic(one_line(error.as_ref())))?;
        let session = session.to_string();
        self.register(Departure { handle: Arc::new(handle), session, address: goes_to, began, total_bytes });
        Ok(())
    }

    /// From here on the migration is the one that commands are about. What they have changed since it began holds for it too.
    fn register(&self, departing: Departure) {
        let mut departure = self.departure.lock();
        departing.follow(self.settings.lock().params());
        if self.ending.load(Ordering::SeqCst) {
            departing.handle.cancel();
        }
        self.events.migration(query::status(Status::Setup), || *departure = Some(departing));
    }

    /// People say who has the machine, where the destination cannot.
    pub(super) fn decide(&self, verdict: Verdict) -> Result<(), CommandError> {
        let departure = self.undecided()?;
        if verdict == Verdict::TakeBack && self.ending.load(Ordering::SeqCst) {
            return Err(CommandError::generic(
                "The process was told to end before this became unknown: no machine runs in it any more",
            ));
        }
        if verdict == Verdict::TakeBack && departure.handle.snapshot().status.is_postcopy() {
            return Err(CommandError::generic(
                "The machine ran at the destination: what is here of it is memory as it was then. It is not taken back; let_go gives \
                 that up too",
            ));
        }
        tracing::warn!(session = %departure.session, "An operator decides who has the machine: {verdict:?}");
        departure.handle.decide(verdict);
        Ok(())
    }

    /// The migration of which it is not known who has the machine, or why people need not say.
    pub(super) fn undecided(&self) -> Result<Departure, CommandError> {
        let Some(departure) = self.departure.lock().clone() else {
            let where_it_is = match self.state() {
                RunState::Inmigrate => "no machine is here yet",
                _ => "the machine is here",
            };
            return Err(CommandError::generic(format!(
                "There is nothing to decide: no migration was started from here, {where_it_is}"
            )));
        };
        match departure.handle.snapshot().status {
            Status::Unknown if departure.handle.is_unknown_for_ever() => Err(CommandError::generic(
                "The migration's thread has ended by a defect, which the log tells: nothing can be decided here any more. See at \
                 the destination whether the machine ran there; a second SIGTERM ends this process and what it has",
            )),
            // Pages are here that the machine lacks. Whether it is there to need them, people may know.
            Status::Unknown | Status::PostcopyPaused | Status::PostcopyRecover => Ok(departure),
            status => Err(CommandError::generic(format!(
                "There is nothing to decide: it is known who has the machine, the migration is '{}'",
                status.name()
            ))),
        }
    }

    /// How the engine starts its threads.
    pub(super) fn threads(&self) -> Arc<dyn Threads> {
        Arc::new(self.launcher.clone())
    }

    /// No migration is under way that could let the machine run again: from here on that is the operator's business. A machine
    /// that broke meanwhile wants to be reset first.
    pub(super) fn stays(&self) {
        let _turn = self.turn.lock();
        if self.state() == RunState::FinishMigrate {
            let broken = self.broken.lock().take();
            self.set(if broken.is_some() { RunState::InternalError } else { self.why_stopped() });
        }
    }

    /// Whom migrations are made with.
    pub(super) fn trust(&self) -> Result<Trust, CommandError> {
        security::trust(&self.settings.lock().parameters, self.config.insecure())
    }
}

/// What a migration is to be called by both sides: what was said, or else what nobody has said.
pub(super) fn session(said: Option<&str>) -> Result<Uuid, CommandError> {
    let Some(said) = said else { return Ok(Uuid::new_v4()) };
    let session = Uuid::try_parse(said).ok().filter(|session| !session.is_nil());
    session.ok_or_else(|| {
        CommandError::generic("Parameter 'whimbrel-session' expects a UUID that is not all zeros")
    })
}

/// The machine as the engine's source sees it.
pub(super) struct Leaving {
    pub(super) control: Arc<Control>,
    pub(super) machine: Arc<Machine>,
}

impl SourceMachine for Leaving {
    fn ram(&self) -> Ram {
        self.machine.ram().clone()
    }

    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        dirty_log(&self.machine, &self.control.launcher)
    }

    fn vcpu_times(&self) -> Option<VcpuTimes> {
        let Spent { faults, kernel, waiting } = self.machine.vcpus_spent();
        let mut times = VcpuTimes::new(kernel, waiting);
        times.faults = faults;
        Some(times)
    }

    fn throttle(&self) -> Option<Arc<dyn Throttle>> {
        Some(Arc::new(Throttler::new(&self.machine, self.control.launcher.clone())))
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        offer::leaving(self.machine.description(), &self.control.machine_events)
    }

    fn description(&self) -> Result<DeviceState, MachineError> {
        // As late as this: the guest may rewrite its disks before the other side looks at them.
        let images = self.machine.image_clues(&self.control.launcher);
        let machine = self.machine.description().clone();
        let offer = Offer { machine, images, realtime_ns: Some(realtime_ns()), greeted_ns: None };
        Ok(DeviceState::encode("machine", &offer)?)
    }

    fn description_now(&self, description: DeviceState) -> DeviceState {
        let offer = description.decode::<Offer>();
        let now = offer.and_then(|offer| DeviceState::encode("machine", &offer.now()));
        // It is what this side made itself.
        now.unwrap_or(description)
    }

    fn is_running(&self) -> bool {
        self.control.state() == RunState::Running
    }

    fn flush_ahead(&self, wait: Duration) -> Result<Option<Duration>, MachineError> {
        Ok(Some(self.machine.flush_ahead(wait)?))
    }

    fn stop(&self) -> Result<bool, MachineError> {
        if self.is_running() {
            self.machine.flush_bulk()?;
        }
        let turn = self.control.turn.lock();
        if self.control.ending.load(Ordering::SeqCst) {
            return Err("this process, and the machine with it, is ending".into());
        }
        let state = self.control.state();
        match state {
            RunState::Running | RunState::Paused | RunState::Prelaunch | RunState::IoError => {}
            state => return Err(format!("the machine is in state '{state}'").into()),
        }
        let was_running = state == RunState::Running;
        self.control.held_keys.release_all(&self.machine);
        if let Err(error) = self.control.halt(&turn, &self.machine, RunState::FinishMigrate) {
            if !error.runs_on() {
                // It is paused, and goes on where it is: what it wrote is not known to be on its disk.
                self.control.set_running(&turn, &self.machine);
            }
            return Err(error.into());
        }
        Ok(was_running)
    }

    fn save(&self) -> Result<Vec<DeviceState>, MachineError> {
        Ok(self.machine.save()?)
    }

    fn touched_next(&self) -> Vec<u64> {
        self.machine.touched_next()
    }

    fn undelivered(&self, most: usize) -> Vec<Forward> {
        self.machine.undelivered(most)
    }

    fn release_disks(&self) -> Result<(), MachineError> {
        Ok(self.machine.unlock_disks()?)
    }

    fn resume(&self, run: bool) -> Result<(), MachineError> {
        let turn = self.control.turn.lock();
        if self.control.state() != RunState::FinishMigrate {
            return Ok(());
        }
        // Nothing has changed if this fails: the destination may hold them a moment longer, and it is tried again.
        self.machine.lock_disks()?;
        self.control.set(self.control.why_stopped());
        if let Some(reason) = self.control.broken.lock().take() {
            tracing::error!("{reason}. The machine stays here, and is stopped until it is reset");
            self.control.set(RunState::InternalError);
        } else if run {
            self.control.set_running(&turn, &self.machine);
        }
        self.control.machine_events.repeat();
        Ok(())
    }
}

/// Tells the monitor's clients how the migration goes.
struct Watch {
    control: Weak<Control>,
}

impl Observer for Watch {
    fn status(&self, status: Status, publish: &mut dyn FnMut()) {
        let Some(control) = self.control.upgrade() else { return };
        if status == Status::Setup {
            // It is told when the migration is registered, or whoever hears it would find the one before.
            drop(control.departing.lock());
        } else {
            control.events.migration(query::status(status), publish);
        }
    }

    fn pass(&self, pass: u32) {
        if let Some(control) = self.control.upgrade() {
            control.events.migration_pass(pass);
        }
    }

    fn ended(&self, outcome: &Outcome) {
        let Some(control) = self.control.upgrade() else { return };
        tracing::info!("{}", query::sentence(outcome));
        if *outcome == Outcome::Completed {
            control.set(RunState::Postmigrate);
            // It runs elsewhere now: without it nothing can run it here again, and its memory goes back to the host.
            control.machine.lock().take();
        } else {
            control.stays();
        }
        let departure = control.departure.lock().clone();
        if let Some(departure) = departure {
            let measured = departure.handle.snapshot().fixed_costs;
            let mut settings = control.settings.lock();
            let assumed = settings.fixed_costs.unwrap_or_else(|| control.guessed_costs());
            settings.fixed_costs = Some(assumed.learn(&measured));
            drop(settings);
            let report = story::leaving(&control.here, &departure, story::outcome(outcome.status()));
            control.reports.store(|| Some(report));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt as _, sync::mpsc::Receiver};

    use config::{Config, RawConfig};
    use tempfile::NamedTempFile;

    use super::*;
    use crate::{
        Ending, Events, MachineEvent,
        testing::{guest, kvm_is_usable},
    };

    struct Running {
        control: Arc<Control>,
        config: Config,
        events: Events,
        _kept: (NamedTempFile, Receiver<MachineEvent>, Receiver<Ending>),
    }

    /// A machine that runs, with one disk.
    fn running(image: &NamedTempFile) -> Running {
        let kernel = guest(&[0xf4]);
        let yaml = format!(
            "kernel: {}\nserial: none\ndisks:\n - path: {}",
            kernel.path().display(),
            image.path().display()
        );
        let config = Config::new(RawConfig::from_yaml(&yaml, "test").unwrap()).unwrap();
        let (events, heard) = Events::channel();
        let machine = Machine::boot(&config, events.clone()).unwrap();
        let (control, end) =
            Control::new(config.clone(), machine.into(), events.clone(), monitor::Events::new()).unwrap();
        control.resume().unwrap();
        Running { control, config, events, _kept: (kernel, heard, end) }
    }

    #[test]
    fn what_is_said_of_an_image_is_as_new_as_the_description_of_the_machine() {
        if !kvm_is_usable("what_is_said_of_an_image_is_as_new_as_the_description_of_the_machine") {
            return;
        }
        let image = NamedTempFile::new().unwrap();
        image.as_file().write_all_at(&[1; 1 << 20], 0).unwrap();
        let Running { control, _kept, .. } = running(&image);
        let leaving = Leaving { control: control.clone(), machine: control.machine().unwrap() };
        let said = || leaving.description().unwrap().decode::<Offer>().unwrap().images;
        let before = said();
        assert_eq!(said(), before);
        image.as_file().write_all_at(&[2; 1 << 20], 0).unwrap();
        assert_ne!(said(), before);
    }

    #[test]
    fn a_machine_that_cannot_have_its_disks_back_is_paused_until_it_can() {
        if !kvm_is_usable("a_machine_that_cannot_have_its_disks_back_is_paused_until_it_can") {
            return;
        }
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(1 << 20).unwrap();
        let Running { control, config, events, _kept } = running(&image);
        let boot = || Machine::boot(&config, events.clone());

        let leaving = Leaving { control: control.clone(), machine: control.machine().unwrap() };
        assert!(leaving.stop().unwrap());
        leaving.release_disks().unwrap();
        let other = boot().unwrap();
        for _ in 0..2 {
            leaving.resume(true).unwrap_err();
            assert_eq!(control.state(), RunState::FinishMigrate, "the migration will try again");
        }
        control.resume().unwrap_err();
        Watch { control: Arc::downgrade(&control) }.ended(&Outcome::Failed("it took too long".into()));
        assert_eq!(control.state(), RunState::Paused);
        let error = control.resume().unwrap_err().to_string();
        assert!(error.contains("in use by another virtual machine"), "{error}");
        assert_eq!(control.state(), RunState::Paused);

        drop(other);
        control.resume().unwrap();
        assert_eq!(control.state(), RunState::Running);
        boot().unwrap_err();
    }
}
