//! What the state machine of the destination wants done.

use std::sync::Arc;

use migration::{
    Status,
    destination::{Action, Event},
    handover::DestinationSide,
};
use state::DeviceState;
use wire::{Features, Forward, Hello, MAX_FORWARD_BYTES, StateVersions};

use super::{
    Input,
    arrived::Arrived,
    channels::Channels,
    figures::Counts,
    lacking::Lacking,
    server::{Arriving, Server},
};
use crate::{MachineError, catch_panic, chain, machine};

impl Server {
    /// Carries an action out. A machine that panics has failed, and the state machine knows what to do then.
    pub(super) fn carry_out_safely(&mut self, action: Action) -> Option<Event> {
        let _about = self.about.clone().entered();
        let (is_check, is_run) = (matches!(action, Action::Check(_)), matches!(action, Action::Run { .. }));
        catch_panic(|| self.carry_out(action)).unwrap_or_else(|panic| {
            let reason = format!("The migration thread panicked: {panic}");
            tracing::error!("{reason}");
            match (is_check, is_run) {
                (true, _) => Some(Event::Checked(Err(vec![reason]))),
                // Some of the machine may have run. It must not run at the source again.
                (_, true) => Some(Event::Started),
                _ => Some(Event::MachineFailed(reason)),
            }
        })
    }

    pub(super) fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Check(hello) => {
                let checked = self.check(&hello);
                if checked.is_ok() {
                    self.arriving = Some(self.arriving(*hello));
                }
                Some(Event::Checked(checked))
            }
            Action::Send(message) => {
                let sent = self.link.as_mut()?.send(&message);
                sent.err().map(|error| {
                    Event::LinkLost(format!("{} could not be sent: {}", message.name(), chain(&error)))
                })
            }
            // Those that come are served from here on, since there is a machine that arrives.
            Action::OpenChannels { channels, .. } => {
                if self.destination.side() == DestinationSide::Owner {
                    self.open_again(channels);
                } else {
                    self.read_link();
                }
                self.start_channels().err().map(Event::LinkLost)
            }
            Action::Note(bits) => self.note(&bits).err().map(Event::LinkLost),
            Action::Deliver(packets) => {
                self.deliver(packets);
                None
            }
            Action::Part => {
                self.part();
                self.tell(Status::PostcopyPaused);
                None
            }
            Action::List => Some(self.list()),
            Action::Load { to_come, states, digest } => {
                self.tell(Status::Device);
                let began = self.now();
                let loaded = self.load(to_come, &states, digest.as_deref());
                let took = self.now().saturating_sub(began);
                self.count(|counts| counts.loaded(took));
                Some(
                    loaded
                        .map_or_else(|error| Event::MachineFailed(chain(error.as_ref())), |()| Event::Loaded),
                )
            }
            Action::Run { run } => Some(match self.run_machine(run) {
                Ok(()) => {
                    self.count(Counts::end);
                    self.tell(if self.lacks_pages() { Status::PostcopyActive } else { Status::Completed });
                    Event::Started
                }
                Err(error) => Event::MachineFailed(format!("The machine could not be started: {error}")),
            }),
            Action::Discard { reason, touched } => {
                self.discard(&reason, touched);
                None
            }
            Action::End => None,
        }
    }

    /// Gives the machine what followed it, as far as that was agreed on.
    fn deliver(&mut self, packets: Forward) {
        // A packet of nothing takes room too.
        self.forwarded += packets.bytes() + packets.packets.len();
        if self.features().has(Features::FORWARD) && self.forwarded <= 2 * MAX_FORWARD_BYTES {
            self.machine.deliver(packets);
        }
    }

    /// What of the states that come is read here, or every reason why the machine cannot come.
    fn check(&self, hello: &Hello) -> Result<Vec<StateVersions>, Vec<String>> {
        let ram = self.machine.ram();
        let devices = self.machine.devices();
        let mut reasons = hello.mismatches(&machine::blocks(&ram), &devices);
        reasons.extend(self.machine.check(hello, self.heard));
        if hello.postcopy
            && let Err(error) = self.machine.userfault()
        {
            reasons.push(format!("Pages cannot follow the machine here: {}", chain(error.as_ref())));
        }
        if reasons.is_empty() { Ok(wire::reads(&hello.devices, &devices)) } else { Err(reasons) }
    }

    /// What both sides can do.
    pub(super) fn features(&self) -> Features {
        self.agreed.map_or(Features::default(), |agreed| agreed.features)
    }

    fn arriving(&self, hello: Hello) -> Arriving {
        let arrived = Arc::new(Arrived::default());
        self.shared.view.lock().arrived = arrived.clone();
        let ram = self.machine.ram();
        let queue = self.queue.clone();
        let whole = move || {
            // Nobody listens when the destination is done.
            let _ = queue.send(Input::Whole);
        };
        let features = self.features();
        let has_pulse = features.has(Features::PULSE);
        let lacking = hello.postcopy.then(|| Lacking::new(&ram, has_pulse, hello.digest.is_on(), whole));
        let postcopy = lacking.as_ref().map(|lacking| lacking.postcopy.clone());
        let memory = (ram, self.machine.page_maker());
        let channels = Channels::new(hello.channels, features, hello.digest, memory, arrived, postcopy);
        Arriving { description: hello.machine, channels, lacking }
    }

    /// Starts the threads of the channels that are to come.
    fn start_channels(&mut self) -> Result<(), String> {
        let counts = self.shared.view.lock().counts.clone();
        let (Some(arriving), Some(counts)) = (&mut self.arriving, counts) else { return Ok(()) };
        let (number, queue) = (self.number, self.queue.clone());
        let done = move |done| {
            // Nobody listens when the destination is done.
            let _ = queue.send(Input::ChannelDone(number, done));
        };
        let started = arriving.channels.start(&self.threads, &counts, &self.shared.cpu, &done);
        started.map_err(|error| format!("No threads for page channels: {error}"))
    }

    /// Starts the thread that reads the control connection.
    pub(super) fn read_link(&mut self) {
        let (number, queue) = (self.number, self.queue.clone());
        if let Some(link) = &mut self.link {
            link.read(&self.threads, move |heard| queue.send(Input::Heard(number, heard)).is_ok());
        }
    }

    fn load(
        &mut self,
        to_come: u64,
        states: &[DeviceState],
        expected: Option<&[u64]>,
    ) -> Result<(), MachineError> {
        let Some(arriving) = &self.arriving else { return Err("There is no attempt".into()) };
        // Before the machine is made of it: a hypervisor may write guest memory while it restores vCPUs.
        match (expected, arriving.channels.sums()) {
            (Some(expected), Some(sums)) => {
                if let Some(lacking) = &arriving.lacking {
                    lacking.leave_out_of(sums);
                }
                let compared = sums.compare(expected);
                self.count(|counts| counts.compared(compared.clone()));
                compared.map_err(|places| format!("Memory is not as it was at the source: {places}"))?;
            }
            (None, Some(_)) => return Err("The source was to send a digest of memory, and has not".into()),
            (_, None) => {}
        }
        self.arm(to_come)?;
        let Some(arriving) = &self.arriving else { return Err("There is no attempt".into()) };
        if let Some(memory) = arriving.lacking.as_ref().and_then(Lacking::memory) {
            self.machine.lacks(memory);
        }
        self.machine.load(&arriving.description, states)?;
        self.machine.lock_disks()?;
        self.may_run()
    }

    fn discard(&mut self, reason: &str, touched: bool) {
        tracing::warn!("Incoming migration came to nothing: {reason}");
        self.number += 1;
        self.close();
        self.count(Counts::end);
        self.shared.view.lock().last_failure = Some(reason.into());
        self.tell(Status::Failed);
        let vacated = if touched { self.machine.discard() } else { self.machine.dismiss() };
        if let Err(error) = vacated {
            tracing::error!("This destination cannot take another machine: {error}");
        }
        self.tell(Status::Setup);
    }

    /// Closes all connections of the attempt and waits for their threads: none writes guest memory afterwards.
    pub(super) fn close(&mut self) {
        // First what can write guest memory.
        if let Some(arriving) = self.arriving.take() {
            arriving.channels.close();
            if let Some(mut lacking) = arriving.lacking {
                self.shared.view.lock().memory = None;
                lacking.abandon();
            }
        }
        self.close_link();
    }

    pub(super) fn close_link(&mut self) {
        if let Some(link) = self.link.take() {
            link.close();
        }
    }
}
