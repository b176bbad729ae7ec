//! Moves a machine away: the migration thread of the source.
//!
//! [`start`] answers at once with a [`Handle`]; the attempt goes on in the background. Everything that happens becomes an
//! [`Event`] for the state machine, and [`Attempt::carry_out`] does what the state machine answers.

mod abandoned;
mod channels;
mod handle;
mod sender;
mod stalls;
mod work;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender as Queue, bounded, unbounded};
use migration::{
    FixedCosts, Outcome, Params, Source, Status,
    handover::SourceSide,
    source::{Action, Event, State},
};
use parking_lot::Mutex;
use ram::{DirtySet, PageSums, Touched};
use transport::{Connection, Dial, Pacer};
use wire::{Agreed, BlockInfo, DeviceInfo, Greeted, Hello, Message, Offer, Role, SessionId};

use self::{
    abandoned::Abandoned,
    channels::Channels,
    stalls::Stalls,
    work::{Chunks, RoundProgress, RoundWork},
};
use crate::{
    MachineError, Observer, PlainThreads, SourceMachine, ThreadRole, Threads, catch_panic, chain,
    cpu_time::{CpuTime, ThreadClock},
    frames::{FrameReader, MessageSender, ReadAhead},
    greet, threads,
};

pub use self::{
    handle::{Handle, Snapshot},
    stalls::RoundStalls,
};

/// How long dialling may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// How long what a destination said last may take to arrive, once it does not take any more. The machine may be stopped.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where to migrate to, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Target {
    /// Makes the connections to the destination.
    pub dial: Arc<dyn Dial>,
    /// Identifies the attempt; random.
    pub session: SessionId,
    /// What this side can do, and its release.
    pub offer: Offer,
    /// What switchovers have cost so far, if that is known.
    pub fixed_costs: FixedCosts,
}

impl Target {
    /// To where `dial` leads, in an attempt that `session` identifies, from a side that can do what `offer` says. What switchovers
    /// have cost is not known.
    pub fn new(dial: impl Dial + 'static, session: SessionId, offer: Offer) -> Self {
        Self { dial: Arc::new(dial), session, offer, fixed_costs: FixedCosts::default() }
    }
}

/// What the migration thread and those who ask about it share.
#[derive(Debug)]
struct Shared {
    source: Mutex<Source>,
    /// The last status that was told.
    status: Mutex<Status>,
    began: Instant,
    progress: Arc<RoundProgress>,
    pacer: Arc<Pacer>,
    cpu: Arc<CpuTime>,
    channels: std::sync::atomic::AtomicU16,
    stalls: Mutex<Stalls>,
    /// Whether the machine ran, once it was stopped.
    was_running: Mutex<Option<bool>>,
}

/// What reaches the migration thread.
#[derive(Debug)]
enum Input {
    Event(Event),
    /// A dial is over, greetings included; the number tells it apart from an older one.
    Dialled(u32, Result<(Arc<Connection>, Greeted), String>),
    /// The reader of control connection number so-and-so heard something or ended.
    Heard(u32, Result<Message, String>),
}

/// Starts moving `machine` to `target`.
///
/// # Errors
/// The machine cannot describe itself, or no thread can be started. Nothing has happened then.
pub fn start(
    machine: Arc<dyn SourceMachine>,
    params: Params,
    target: Target,
    observer: Arc<dyn Observer>,
) -> Result<Handle, MachineError> {
    let threads: Arc<dyn Threads> = Arc::new(PlainThreads);
    start_on(&threads, machine, params, target, observer)
}

/// Like [`start`], with threads of the caller's making.
///
/// # Errors
/// As [`start`].
pub fn start_on(
    threads: &Arc<dyn Threads>,
    machine: Arc<dyn SourceMachine>,
    params: Params,
    target: Target,
    observer: Arc<dyn Observer>,
) -> Result<Handle, MachineError> {
    let hello = describe(machine.as_ref(), &params, &target)?;
    let progress = Arc::new(RoundProgress::default());
    let pacer = Arc::new(Pacer::new(params.max_bandwidth));
    let (source, actions) = Source::start(params, hello, target.fixed_costs);
    let shared = Arc::new(Shared {
        source: Mutex::new(source),
        status: Mutex::new(Status::Setup),
        began: Instant::now(),
        progress,
        pacer,
        cpu: Arc::default(),
        channels: 0.into(),
        stalls: Mutex::default(),
        was_running: Mutex::default(),
    });
    let (events, inputs) = unbounded();
    let (living, alive) = bounded(0);
    let abandoned =
        Abandoned { machine: machine.clone(), observer: observer.clone(), shared: shared.clone() };
    let attempt = Attempt {
        threads: threads.clone(),
        touched: Touched::new(machine.ram()),
        machine,
        target,
        observer,
        shared: shared.clone(),
        queue: events.clone(),
        control: None,
        dial: 0,
        channels: None,
        chunks: Chunks::default(),
        dirty_pages: 0,
        set: None,
        sent: false,
        status: Status::None,
        clock: None,
    };
    let run = move || {
        let _living: Queue<()> = living;
        attempt.run(actions, &inputs);
    };
    let failed = move |reason| abandoned.take_back(reason);
    let thread = threads::spawn(threads, ThreadRole::Migration, "migration", run, failed)?;
    Ok(Handle { shared, events, alive, thread: Mutex::new(Some(thread)) })
}

fn describe(machine: &dyn SourceMachine, params: &Params, target: &Target) -> Result<Hello, MachineError> {
    let ram = machine.ram();
    let blocks = ram.blocks().iter().map(|block| BlockInfo {
        name: block.name().into(),
        guest_address: block.guest_address(),
        bytes: block.bytes(),
    });
    // What is saved is of the newest version: no older one can be asked for.
    let devices = machine.devices().into_iter().map(|info| DeviceInfo { oldest: info.version, ..info });
    Ok(Hello {
        session: target.session,
        channels: params.channels,
        page_bytes: wire::PAGE_BYTES as u32,
        digest: params.digest,
        blocks: blocks.collect(),
        devices: devices.collect(),
        machine: machine.description()?,
    })
}

/// What the migration thread owns.
struct Attempt {
    threads: Arc<dyn Threads>,
    /// Made beforehand, as this thread may not be allowed to.
    touched: Touched,
    machine: Arc<dyn SourceMachine>,
    target: Target,
    observer: Arc<dyn Observer>,
    shared: Arc<Shared>,
    queue: Queue<Input>,
    control: Option<Control>,
    /// Number of the last dial; what an older one brings is ignored.
    dial: u32,
    channels: Option<Channels>,
    chunks: Chunks,
    /// Pages in `set`.
    dirty_pages: u64,
    set: Option<Arc<DirtySet>>,
    /// Whether the set was given to the channels since it was fetched.
    sent: bool,
    status: Status,
    clock: Option<ThreadClock>,
}

/// The control connection, and the thread that reads it.
struct Control {
    connection: Arc<Connection>,
    agreed: Agreed,
    sender: MessageSender,
    ahead: ReadAhead,
    reader: JoinHandle<()>,
}

impl Attempt {
    fn run(mut self, actions: Vec<Action>, inputs: &Receiver<Input>) {
        self.clock = Some(ThreadClock::start());
        let mut todo = VecDeque::from(actions);
        loop {
            self.observe();
            while let Some(action) = todo.pop_front() {
                if let Action::End(outcome) = action {
                    return self.end(&outcome);
                }
                if let Some(event) = self.carry_out_safely(action) {
                    let event = self.with_its_cause(event, inputs);
                    todo.extend(self.handle(event));
                }
            }
            if let Some(clock) = &mut self.clock {
                clock.add_to(&self.shared.cpu);
            }
            let event = self.next_event(inputs);
            todo.extend(self.handle(event));
        }
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        let now = self.shared.began.elapsed();
        let mut source = self.shared.source.lock();
        if let Event::RoundSent { .. } = event {
            // From here on the round is in the statistics.
            self.shared.progress.reset();
        }
        let actions = source.handle(now, event);
        drop(source);
        self.observe();
        actions
    }

    fn observe(&mut self) {
        let status = self.shared.source.lock().status();
        if status != self.status {
            self.status = status;
            // How it ended is told at the very end, when everything is cleaned up.
            if status.is_under_way() {
                self.tell(status);
            }
        }
    }

    fn tell(&self, status: Status) {
        *self.shared.status.lock() = status;
        self.observer.status(status);
    }

    fn next_event(&mut self, inputs: &Receiver<Input>) -> Event {
        loop {
            let deadline = self.shared.source.lock().deadline();
            let input = match deadline {
                Some(deadline) => match inputs.recv_deadline(self.shared.began + deadline) {
                    Ok(input) => input,
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Event::Tick,
                },
                // `self.queue` keeps the channel open.
                None => inputs.recv().unwrap_or(Input::Event(Event::Tick)),
            };
            match input {
                Input::Event(event) => return self.with_its_cause(event, inputs),
                Input::Dialled(number, _) | Input::Heard(number, _) if number != self.dial => {}
                Input::Dialled(_, Ok((connection, destination))) => {
                    return self.adopt(connection, destination);
                }
                Input::Dialled(_, Err(reason)) | Input::Heard(_, Err(reason)) => {
                    return Event::LinkLost(reason);
                }
                Input::Heard(_, Ok(message)) => {
                    if let Some(control) = &self.control {
                        control.ahead.dealt_with_one();
                    }
                    return Event::Message(message);
                }
            }
        }
    }

    /// What is sent to a destination that has given up fails, often before it is heard why: then its last words are the reason.
    fn with_its_cause(&self, event: Event, inputs: &Receiver<Input>) -> Event {
        let source = self.shared.source.lock();
        let is_over = source.side() != SourceSide::Owner || source.outcome().is_some();
        drop(source);
        let (Event::LinkLost(_), false, Some(control)) = (&event, is_over, &self.control) else {
            return event;
        };
        let deadline = Instant::now() + LAST_WORDS;
        while let Ok(input) = inputs.recv_deadline(deadline) {
            match input {
                Input::Heard(number, _) if number != self.dial => {}
                Input::Heard(_, Ok(message @ (Message::Abort { .. } | Message::Refuse(_)))) => {
                    return Event::Message(message);
                }
                // It was waiting for go already when it gave up.
                Input::Heard(_, Ok(Message::NotRunning { reason })) => {
                    return Event::Message(Message::Abort { reason });
                }
                // Who talks on and on is not waited for.
                _ if Instant::now() >= deadline => break,
                // What else it said has no meaning any more.
                Input::Heard(_, Ok(_)) => control.ahead.dealt_with_one(),
                Input::Heard(_, Err(_)) => break,
                Input::Event(Event::Cancel) => return Event::Cancel,
                Input::Event(_) | Input::Dialled(..) => {}
            }
        }
        event
    }

    /// Carries an action out. A machine that panics has failed, and the state machine knows what to do then.
    fn carry_out_safely(&mut self, action: Action) -> Option<Event> {
        let is_resume = action == Action::Resume;
        catch_panic(|| self.carry_out(action)).unwrap_or_else(|panic| {
            let reason = format!("The migration thread panicked: {panic}");
            Some(if is_resume { Event::Resumed(Err(reason)) } else { Event::MachineFailed(reason) })
        })
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Connect(role) => self.dial(role),
            Action::Send(message) => self.send(&message),
            Action::Prepare { channels } => Some(self.prepare(channels).unwrap_or_else(Event::LinkLost)),
            Action::SendRound { round, last } => self.send_round(round, last),
            Action::FetchDirty => Some(self.fetch_dirty()),
            Action::Stop => Some(match self.machine.stop() {
                Ok(was_running) => {
                    *self.shared.was_running.lock() = Some(was_running);
                    Event::Stopped { was_running }
                }
                Err(error) => Event::MachineFailed(format!(
                    "The machine could not be stopped: {}",
                    chain(error.as_ref())
                )),
            }),
            Action::SaveDevices => Some(self.save_devices()),
            Action::Resume => {
                // The source's word is final: pages that are still on their way are of no use any more.
                self.disconnect();
                let resumed = self.machine.resume(self.shared.was_running.lock().unwrap_or(true));
                Some(Event::Resumed(resumed.map_err(|error| chain(error.as_ref()))))
            }
            Action::Disconnect => {
                self.disconnect();
                None
            }
            Action::End(_) => None,
        }
    }

    /// Dials in a thread of its own, so that a cancel does not have to wait for a host that does not answer.
    fn dial(&mut self, role: Role) -> Option<Event> {
        self.dial += 1;
        let (number, queue, target) = (self.dial, self.queue.clone(), self.target.clone());
        let dial = move || {
            let dialled = target.dial.dial(DIAL_TIMEOUT);
            let greeted = dialled.map_err(|error| chain(&error)).and_then(|connection| {
                let greeted = greet::exchange(&connection, &target.offer, role, target.session);
                let greeted = greeted.map_err(|error| chain(&error))?;
                Ok((Arc::new(connection), greeted))
            });
            // Nobody listens when the attempt is over.
            let _ = queue.send(Input::Dialled(number, greeted));
        };
        let queue = self.queue.clone();
        let failed = move |reason| {
            let _ = queue.send(Input::Dialled(number, Err(reason)));
        };
        let spawned = threads::spawn(&self.threads, ThreadRole::Dial, "mig-dial", dial, failed);
        spawned.err().map(|error| Event::LinkLost(format!("No thread to dial with: {error}")))
    }

    fn adopt(&mut self, connection: Arc<Connection>, destination: Greeted) -> Event {
        let (number, queue, incoming) = (self.dial, self.queue.clone(), connection.clone());
        let (ahead, reading) = ReadAhead::new();
        let read = move || {
            reading.read_all(FrameReader::new(), &incoming, |heard| {
                queue.send(Input::Heard(number, heard.map_err(|error| chain(&error)))).is_ok()
            });
        };
        let queue = self.queue.clone();
        let failed = move |reason| {
            let _ = queue.send(Input::Heard(number, Err(reason)));
        };
        match threads::spawn(&self.threads, ThreadRole::Control, "mig-control", read, failed) {
            Ok(reader) => {
                let agreed = destination.agreed;
                let sender = MessageSender::new();
                self.control = Some(Control { connection, agreed, sender, ahead, reader });
                Event::Connected(destination)
            }
            Err(error) => Event::LinkLost(format!("No thread to read with: {error}")),
        }
    }

    fn send(&mut self, message: &Message) -> Option<Event> {
        // Without a connection there is nobody to tell, as for the abort of an attempt that never connected.
        let control = self.control.as_mut()?;
        let sent = control.sender.send(&control.connection, message);
        if *message == Message::Go {
            // Should the destination have gone, what it said last may be the answer. Whoever reads it will see the end too.
            return None;
        }
        sent.err()
            .map(|error| Event::LinkLost(format!("{} could not be sent: {}", message.name(), chain(&error))))
    }

    fn prepare(&mut self, count: u16) -> Result<Event, String> {
        let ram = self.machine.ram();
        self.chunks = Chunks::new(&ram, count);
        self.dirty_pages = ram.bytes() / ram::PAGE_SIZE as u64;
        let log = self.machine.dirty_log();
        log.start().map_err(|error| format!("Dirty logging cannot be started: {error}"))?;
        self.shared.stalls.lock().begin(self.machine.vcpu_times());
        self.observer.pass(1);
        self.set = Some(Arc::new(DirtySet::all(&ram)));
        let digest = self.shared.source.lock().params().digest;
        let sums = digest.is_on().then(|| Arc::new(PageSums::new(ram.clone())));
        let queue = self.queue.clone();
        let report = move |event| {
            // Nobody listens when the attempt is over.
            let _ = queue.send(Input::Event(event));
        };
        let shared = &self.shared;
        let control = self.control.as_ref().ok_or("There is no control connection")?;
        let resources = channels::Resources {
            threads: self.threads.clone(),
            dial: self.target.dial.clone(),
            control: control.connection.clone(),
            agreed: control.agreed,
            release: self.target.offer.release.clone(),
            session: self.target.session,
            ram,
            log,
            touched: self.touched.clone(),
            pacer: shared.pacer.clone(),
            progress: shared.progress.clone(),
            cpu: shared.cpu.clone(),
            digest,
            sums,
        };
        self.channels = Some(Channels::open(count, &resources, Arc::new(report))?);
        shared.channels.store(count, Ordering::Relaxed);
        Ok(Event::Prepared)
    }

    fn send_round(&mut self, round: u32, last: bool) -> Option<Event> {
        let (Some(channels), Some(set)) = (&self.channels, &self.set) else {
            return Some(Event::LinkLost("There are no channels".into()));
        };
        self.sent = true;
        let chunks = self.chunks.for_round(self.dirty_pages);
        channels.send_round(&Arc::new(RoundWork::new(round, last, set.clone(), chunks)));
        None
    }

    fn fetch_dirty(&mut self) -> Event {
        // Not when the machine is stopped: every microsecond counts then.
        let state = self.shared.source.lock().state();
        if let State::Fetching { round } = state {
            self.shared.stalls.lock().end_round(round, self.machine.vcpu_times());
        }
        let (ram, log) = (self.machine.ram(), self.machine.dirty_log());
        // The channel threads have let go of the set: they did so before they reported the end of their round.
        let Some(set) = self.set.as_mut().and_then(Arc::get_mut) else {
            return Event::MachineFailed("The dirty set is in use between two rounds".into());
        };
        // The set that the decision to stop was based on was not sent.
        let fetched =
            if self.sent { set.fetch(&ram, log.as_ref()) } else { set.fetch_more(&ram, log.as_ref()) };
        self.sent = false;
        match fetched {
            Ok(pages) => {
                self.dirty_pages = pages;
                self.observer.pass(self.shared.source.lock().statistics().dirty_syncs + 1);
                Event::DirtyFetched { pages, running: self.machine.is_running() }
            }
            Err(error) => Event::MachineFailed(format!("The dirty log cannot be read: {error}")),
        }
    }

    fn save_devices(&mut self) -> Event {
        self.try_save_devices().unwrap_or_else(|error| {
            Event::MachineFailed(format!("The device states cannot be saved: {}", chain(error.as_ref())))
        })
    }

    fn try_save_devices(&mut self) -> Result<Event, MachineError> {
        let states = self.machine.save()?;
        let devices = u32::try_from(states.len())?;
        for state in states {
            if let Some(lost) = self.send(&Message::Device(state)) {
                return Ok(lost);
            }
        }
        self.machine.release_disks()?;
        Ok(Event::Saved { devices })
    }

    /// Closes all connections and waits for the threads that used them.
    fn disconnect(&mut self) {
        self.dial += 1;
        if let Some(channels) = self.channels.take() {
            channels.close();
        }
        if let Some(control) = self.control.take() {
            control.connection.shutdown();
            drop(control.ahead);
            let _ = control.reader.join();
        }
    }

    fn end(mut self, outcome: &Outcome) {
        self.disconnect();
        if let Err(error) = self.machine.dirty_log().stop() {
            tracing::warn!("Dirty logging could not be stopped: {error}");
        }
        if let Some(clock) = &mut self.clock {
            clock.add_to(&self.shared.cpu);
        }
        self.observer.ended(outcome);
        // Whoever hears this finds everything as it now is.
        self.tell(outcome.status());
    }
}

impl RoundProgress {
    fn reset(&self) {
        self.sent_bytes.store(0, Ordering::Relaxed);
        self.pages.reset();
    }
}
