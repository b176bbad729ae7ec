use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Instant,
};

use config::{Config, Identity};
use engine::{DestinationMachine, Heard, MachineError, Observer, destination};
use migration::{Outcome, Status};
use monitor::{
    CommandError,
    types::{RunState, SocketAddress},
};
use parking_lot::Mutex;
use ram::{Incomplete, PAGE_SIZE, Ram, Userfaultfd};
use state::DeviceState;
use transport::{Address, Listener, Trust};
use wire::{DeviceInfo, Forward, Hello};

use super::{
    Control, announce,
    filling::Filling,
    moves::Arrival,
    offer::{self, Offer},
    one_line, query, security, story,
};
use crate::{
    Ahead, BuildError, Events, Incoming, Keep, Machine, PageFaults, Transit, launcher::Launcher,
    machine::Sight, seccomp::Role,
};

/// Why no machine is taken in.
const ENDING: &str = "this process is ending";

/// The place for a machine that is to come, before it listens. Its vCPUs have their threads, so that these can be pinned.
#[derive(Debug)]
pub struct Awaited {
    pub(super) keep: Keep,
    pub(super) vacant: Incoming,
}

impl Awaited {
    /// Prepares all of the machine that `config` describes that is not its contents.
    ///
    /// # Errors
    /// Something that the machine needs is missing, or not what it should be.
    pub fn prepare(config: &Config, page_faults: PageFaults, events: Events) -> Result<Self, BuildError> {
        let keep = Keep::open(config, page_faults)?;
        Ok(Self { vacant: Incoming::prepare(config, &keep, events)?, keep })
    }
}

impl Control {
    /// Listens at `address` for a source.
    ///
    /// # Errors
    /// Something listens already, something that the machine needs is missing, or the address cannot be used.
    pub fn listen(self: &Arc<Self>, address: &Address) -> Result<(), CommandError> {
        self.may_listen(self.arrival.lock().as_ref())?;
        let listener = self.bind(address)?;
        self.launch(move |control| control.listen_with(listener))
    }

    fn may_listen(&self, arrival: Option<&Arrival>) -> Result<&Keep, CommandError> {
        let (RunState::Inmigrate, Some(keep)) = (self.state(), &self.keep) else {
            return Err(CommandError::generic(
                "'-incoming' was not specified on the command line: the machine does not wait for a migration",
            ));
        };
        match arrival {
            Some(_) => Err(CommandError::generic("The incoming migration has already been started")),
            None => Ok(keep),
        }
    }

    /// Begins to take connections at `address`, whose name may have to be found out: nobody else waits for that, and nobody for long.
    fn bind(&self, address: &Address) -> Result<Listener, CommandError> {
        let trust = self.trust()?;
        security::check_address(&trust, address)?;
        if trust == Trust::Anyone && !address.is_loopback() {
            tracing::warn!(
                "Migrations to {address} are not encrypted: {}",
                security::in_clear(&address.to_string())
            );
        }
        let theirs = address.clone();
        let is_known = match address {
            Address::Tcp { host, .. } => host.contains(':') || host.parse::<std::net::Ipv4Addr>().is_ok(),
            Address::Unix(_) => true,
        };
        // What needs no name server and no file is not kept waiting by what hangs there.
        let is_free = is_known && !matches!(trust, Trust::Certified(_));
        let names = if is_free { Sight::default() } else { self.names.clone() };
        let bound =
            names.ask(Role::Listen, &self.launcher, "listen", move || Listener::bind(&theirs, &trust));
        let late = |why| {
            format!(
                "Cannot listen on {address}: {why}. See whether its name can be found, and its certificates read"
            )
        };
        bound
            .map_err(|why| CommandError::generic(late(why)))?
            .map_err(|error| CommandError::generic(one_line(&error)))
    }

    fn listen_with(self: &Arc<Self>, listener: Listener) -> Result<(), CommandError> {
        let failed = |error: &(dyn std::error::Error + 'static)| CommandError::generic(one_line(error));
        // Held until it listens: two commands at once listen once.
        let mut arrival = self.arrival.lock();
        let keep = self.may_listen(arrival.as_ref())?;
        let vacant = self.vacant.lock().take();
        // There is none if it came this far before, and failed in the next step.
        let incoming = vacant.map_or_else(|| self.prepare(keep), Ok).map_err(|error| failed(&error))?;
        let addresses: Vec<_> = listener.addresses().iter().map(SocketAddress::from).collect();
        let listens_at: Vec<_> = listener.addresses().iter().map(Address::to_string).collect();
        tracing::info!("Waiting for a migration at {}", listens_at.join(" and "));
        let total_bytes = incoming.ram().bytes();
        let filling = Arc::new(Filling::new(self.launcher.clone()));
        filling.begin(incoming.ram());
        let vacancy = Vacancy {
            control: Arc::downgrade(self),
            launcher: self.launcher.clone(),
            may_differ: self.config.may_differ().to_vec(),
            keep: keep.clone(),
            filling: filling.clone(),
            ram: incoming.ram().clone(),
            devices: offer::devices(incoming.description()),
            incoming: Some(incoming),
            machine: None,
            states_came: None,
            ahead: Mutex::new(Ahead::Unknown),
            lacking: None,
        };
        let watch = Arc::new(Watch { control: Arc::downgrade(self), filling });
        let offer = wire::Offer::of(release::VERSION);
        let handle = destination::listen_on(&self.threads(), Box::new(vacancy), listener, offer, watch)
            .map_err(|error| failed(&error))?;
        *arrival = Some(Arrival { handle: Arc::new(handle), addresses, listens_at, total_bytes });
        Ok(())
    }

    fn keep_failed_arrival(&self) {
        let Some(arrival) = self.arrival.lock().clone() else { return };
        let reason = arrival.handle.snapshot().last_failure;
        let report = story::arriving(&self.here, &arrival, report::Outcome::Failed, reason);
        self.last_failed_arrival.lock().clone_from(&report);
        self.reports.store(|| report);
    }

    /// Prepares a place for a machine once more.
    fn prepare(&self, keep: &Keep) -> Result<Incoming, BuildError> {
        Incoming::prepare(&self.config, keep, self.machine_events.clone())
    }

    /// The machine that has arrived is this side's from here on, unless this side is about to end.
    fn take_over(self: &Arc<Self>, machine: Machine, ran: bool) -> Result<(), MachineError> {
        let turn = self.turn.lock();
        if self.ending.load(Ordering::SeqCst) {
            return Err(ENDING.into());
        }
        if let Some(reason) = self.broken.lock().take() {
            return Err(format!("The machine cannot run here: {reason}").into());
        }
        let machine = Arc::new(machine);
        self.here.is_of(machine.description().uuid);
        *self.machine.lock() = Some(machine.clone());
        let run = self.run_on_arrival.lock().unwrap_or(ran);
        if run {
            self.set_running(&turn, &machine);
        } else {
            machine.stands_still();
            self.set(self.why_stopped());
        }
        self.machine_events.repeat();
        if let Err(error) = announce::start(self, self.settings.lock().parameters.announce) {
            machine.no_packets_follow();
            tracing::warn!("The machine that has arrived cannot be announced to the network: {error}");
        }
        Ok(())
    }
}

/// The place for a machine, as the engine's destination sees it.
struct Vacancy {
    control: Weak<Control>,
    /// Builds machines: the migration thread may not do all that this needs.
    launcher: Launcher,
    /// In what the machine may be another one than awaited.
    may_differ: Vec<Identity>,
    keep: Keep,
    filling: Arc<Filling>,
    ram: Ram,
    devices: Vec<DeviceInfo>,
    incoming: Option<Incoming>,
    machine: Option<Machine>,
    /// When the first state of the machine came that is about to be loaded.
    states_came: Option<Instant>,
    /// By how much the wall clock of this host is ahead of that of the source that came last.
    ahead: Mutex<Ahead>,
    /// Of the machine that is about to be loaded, if pages of it will follow.
    lacking: Option<Weak<Incomplete>>,
}

impl DestinationMachine for Vacancy {
    fn ram(&self) -> Ram {
        self.ram.clone()
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        self.devices.clone()
    }

    fn check(&self, hello: &Hello, heard: Heard) -> Vec<String> {
        tracing::info!("A source offers a machine");
        // What comes now starts threads.
        self.filling.source_came(hello.channels);
        let Some(incoming) = &self.incoming else {
            return vec![
                "The destination could not be made ready again after the last attempt: see its log".into(),
            ];
        };
        match hello.machine.decode::<Offer>() {
            Ok(offer) => {
                *self.ahead.lock() = offer.ahead(heard);
                offer::refusals(incoming, &offer, &self.may_differ, &self.launcher)
            }
            Err(error) => vec![one_line(&error)],
        }
    }

    fn userfault(&self) -> Result<Userfaultfd, MachineError> {
        self.filling.pages_will_be_missing();
        Ok(self.keep.page_faults().userfault()?)
    }

    fn page_maker(&self) -> Option<Userfaultfd> {
        self.keep.page_faults().userfault().ok()
    }

    fn has_room(&self, pages: u64) -> Result<(), MachineError> {
        self.keep.has_room(pages.saturating_mul(PAGE_SIZE as u64), self.ram().bytes()).map_err(Into::into)
    }

    fn vcpu_threads(&self) -> Vec<u32> {
        self.keep.vcpu_threads()
    }

    fn lacks(&mut self, memory: &Arc<Incomplete>) {
        self.lacking = Some(Arc::downgrade(memory));
    }

    fn states_come(&mut self) {
        self.states_came.get_or_insert_with(Instant::now);
    }

    fn load(&mut self, offer: &DeviceState, states: &[DeviceState]) -> Result<(), MachineError> {
        let description = offer.decode::<Offer>()?.machine;
        let incoming = self.incoming.take().ok_or("there is no place for the machine")?;
        let states = states.to_vec();
        let came = self.states_came.take().unwrap_or_else(Instant::now);
        let transit = Transit { came, ahead: *self.ahead.lock() };
        let restored = self.launcher.run(move || incoming.restore(&description, &states, transit))?;
        let machine = self.machine.insert(restored?);
        if let Some(memory) = self.lacking.take() {
            machine.lacks_memory(memory, &self.launcher)?;
        }
        Ok(())
    }

    fn lock_disks(&mut self) -> Result<(), MachineError> {
        Ok(self.machine.as_ref().ok_or("there is no machine")?.lock_disks()?)
    }

    fn run(&mut self, run: bool) -> Result<(), MachineError> {
        let control = self.control.upgrade().ok_or(ENDING)?;
        let machine = self.machine.take().ok_or("there is no machine")?;
        control.take_over(machine, run)
    }

    fn packets_follow(&mut self) {
        if let Some(machine) = &self.machine {
            machine.packets_follow();
        }
    }

    fn deliver(&mut self, packets: Forward) {
        // It is the monitor's by now. Where that is ending, so is the machine.
        let machine = self.control.upgrade().and_then(|control| control.machine.lock().clone());
        if let Some(machine) = machine {
            machine.deliver(packets);
        }
    }

    fn dismiss(&mut self) -> Result<(), MachineError> {
        self.states_came = None;
        if self.incoming.is_none() {
            // It could not be made ready after the last attempt. It may be possible now.
            return self.discard();
        }
        self.filling.source_left();
        Ok(())
    }

    fn discard(&mut self) -> Result<(), MachineError> {
        self.states_came = None;
        // What is there goes first: memory, taps and sockets cannot be had twice.
        self.ram = Ram::none();
        let (filling, left) = (self.filling.clone(), (self.machine.take(), self.incoming.take()));
        let (control, keep) = (self.control.upgrade().ok_or(ENDING)?, self.keep.clone());
        let prepared = self.launcher.run(move || {
            filling.end();
            drop(left);
            // What was wrong with that machine is not wrong with the next.
            control.broken.lock().take();
            control.prepare(&keep)
        });
        let incoming = prepared??;
        self.ram = incoming.ram().clone();
        self.filling.begin(&self.ram);
        self.incoming = Some(incoming);
        Ok(())
    }
}

/// Tells the monitor's clients how the migration goes, and the threads that fill memory when to get out of its way.
struct Watch {
    control: Weak<Control>,
    filling: Arc<Filling>,
}

impl Observer for Watch {
    fn status(&self, status: Status, publish: &mut dyn FnMut()) {
        match status {
            Status::Active => self.filling.pages_come(),
            Status::Device => self.filling.machine_loads(),
            _ => {}
        }
        let Some(control) = self.control.upgrade() else { return };
        control.events.migration(query::status(status), publish);
        match status {
            // The source waits for the word that the machine runs: the report is made elsewhere.
            Status::Completed => {
                let (here, arrival) = (control.here.clone(), control.arrival.lock().clone());
                control
                    .reports
                    .store(move || story::arriving(&here, &arrival?, report::Outcome::Completed, None));
            }
            // At once: the next attempt uses the figures anew.
            Status::Failed => control.keep_failed_arrival(),
            _ => {}
        }
    }

    fn pass(&self, _pass: u32) {}

    fn ended(&self, outcome: &Outcome) {
        tracing::info!("The incoming migration is over: {outcome:?}");
    }
}
