//! Takes a machine in: the migration thread of the destination.
//!
//! [`listen`] answers at once with a [`Handle`]. Sources come and fail and come again; the thread ends when a machine runs
//! here and its source knows that, or when it is stopped.

mod attempt;
mod barrier;
mod door;
mod figures;
mod handle;
mod lobby;
mod newcomer;
mod receiver;
mod scan;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crossbeam_channel::{Receiver as Inbox, Sender as Queue, bounded, unbounded};
use migration::{
    Destination, Outcome, Status, Time,
    destination::{Action, Event},
};
use parking_lot::Mutex;
use ram::{PageSums, Placer};
use state::DeviceState;
use transport::{Accept, Connection, Stopper};
use wire::{Agreed, BlockInfo, Digest, Greeted, Greeting, Hello, Message, Offer, SessionId, StateVersions};

use self::{
    attempt::{Attempt, Link, serve},
    barrier::Barrier,
    door::Visitor,
    figures::Counts,
    lobby::Seat,
    newcomer::Newcomer,
    receiver::{Arrived, Receiver},
    scan::Scan,
};
use crate::{
    DestinationMachine, MachineError, Observer, PlainThreads, ThreadRole, Threads, catch_panic, chain,
    cpu_time::{CpuTime, ThreadClock},
    frames::{FrameReader, ReadAhead},
    threads,
};

pub use self::{
    figures::{AttemptFigures, ChannelFigures},
    handle::{Handle, Snapshot},
};

/// What the migration thread and those who ask about it share.
#[derive(Debug)]
struct Shared {
    began: Instant,
    cpu: Arc<CpuTime>,
    view: Mutex<View>,
}

#[derive(Debug, Default)]
struct View {
    status: Status,
    arrived: Arc<Arrived>,
    /// Of the last attempt, or of the one under way.
    counts: Option<Arc<Counts>>,
    /// Why the last attempt came to nothing; `None` once another has begun.
    last_failure: Option<String>,
}

/// What reaches the migration thread. Numbers tell attempts apart: what belongs to an older one is ignored.
#[derive(Debug)]
enum Input {
    /// A connection that has said what it is, and its seat.
    Visitor(Visitor, Seat),
    Heard(u32, Result<Message, String>),
    ChannelDone(u32, Result<(), String>),
    Cancel,
    Stop,
}

/// Waits for sources that come through `listener` (a [`transport::Listener`], or an [`Accept`] of the caller's), and takes the first machine in that arrives whole. `offer` is what this side can do.
///
/// # Errors
/// No threads can be started.
pub fn listen(
    machine: Box<dyn DestinationMachine>,
    listener: impl Accept + 'static,
    offer: Offer,
    observer: Arc<dyn Observer>,
) -> std::io::Result<Handle> {
    let threads: Arc<dyn Threads> = Arc::new(PlainThreads);
    listen_on(&threads, machine, listener, offer, observer)
}

/// Like [`listen`], with threads of the caller's making.
///
/// # Errors
/// As [`listen`].
pub fn listen_on(
    threads: &Arc<dyn Threads>,
    machine: Box<dyn DestinationMachine>,
    listener: impl Accept + 'static,
    offer: Offer,
    observer: Arc<dyn Observer>,
) -> std::io::Result<Handle> {
    let view = Mutex::new(View { status: Status::Setup, ..View::default() });
    let shared = Arc::new(Shared { began: Instant::now(), cpu: Arc::default(), view });
    let (queue, inbox) = unbounded();
    let stopper = listener.stopper();
    let door_queue = queue.clone();
    let admit: door::Admit = Arc::new(move |visitor, seat| {
        // Nobody is at home when the destination is done.
        let _ = door_queue.send(Input::Visitor(visitor, seat));
    });
    let door_threads = threads.clone();
    let offer = Arc::new(offer);
    let keep = move || door::keep(&listener, &door_threads, &offer, &admit);
    let failed =
        |reason| tracing::error!("{reason}: no source can connect any more, start this process anew");
    let door = threads::spawn(threads, ThreadRole::Accept, "mig-accept", keep, failed)?;
    let host = Host {
        threads: threads.clone(),
        machine,
        observer,
        shared: shared.clone(),
        queue: queue.clone(),
        stopper: stopper.clone(),
        destination: Destination::default(),
        number: 0,
        link: None,
        agreed: None,
        attempt: None,
        newcomer: None,
        status: Status::None,
        clock: None,
    };
    let (living, alive) = bounded(0);
    let run = move || {
        let _living: Queue<()> = living;
        host.run(&inbox);
        // The door was stopped; it ends by itself.
        let _ = door.join();
    };
    let closing = stopper.clone();
    let failed = move |reason| {
        tracing::error!("{reason}: no machine can come here any more, start this process anew");
        closing.stop();
    };
    let thread = threads::spawn(threads, ThreadRole::Migration, "migration", run, failed);
    let thread = thread.inspect_err(|_| stopper.stop())?;
    Ok(Handle { shared, queue, stopper, alive, thread: Mutex::new(Some(thread)) })
}

/// What the migration thread owns.
struct Host {
    threads: Arc<dyn Threads>,
    machine: Box<dyn DestinationMachine>,
    observer: Arc<dyn Observer>,
    shared: Arc<Shared>,
    queue: Queue<Input>,
    stopper: Stopper,
    destination: Destination,
    /// Number of the attempt.
    number: u32,
    link: Option<Link>,
    /// With the source that is being served.
    agreed: Option<Agreed>,
    attempt: Option<Attempt>,
    /// A source that came while another was being served.
    newcomer: Option<Newcomer>,
    status: Status,
    clock: Option<ThreadClock>,
}

impl Host {
    fn run(mut self, inbox: &Inbox<Input>) {
        self.clock = Some(ThreadClock::start());
        self.tell(Status::Setup);
        loop {
            let waits = self.newcomer.as_ref().map(Newcomer::until);
            let input = match self.destination.deadline().into_iter().chain(waits).min() {
                Some(deadline) => inbox.recv_deadline(self.shared.began + deadline).ok(),
                // `self.queue` keeps the channel open.
                None => inbox.recv().ok(),
            };
            let mut todo = VecDeque::from(match input {
                Some(Input::Stop) => return self.stop(),
                Some(input) => self.take(input),
                None => self.destination.handle(self.now(), Event::Tick),
            });
            // Not before the one before is over: what is to be done for it would be done to the newcomer.
            if todo.is_empty() {
                todo.extend(self.see_to_newcomer());
            }
            while let Some(action) = todo.pop_front() {
                if action == Action::End {
                    return self.end();
                }
                if let Some(event) = self.carry_out_safely(action) {
                    todo.extend(self.destination.handle(self.now(), event));
                }
                if todo.is_empty() {
                    todo.extend(self.see_to_newcomer());
                }
            }
            if let Some(clock) = &mut self.clock {
                clock.add_to(&self.shared.cpu);
            }
        }
    }

    fn now(&self) -> Time {
        self.shared.began.elapsed()
    }

    fn take(&mut self, input: Input) -> Vec<Action> {
        let now = self.now();
        match input {
            Input::Visitor(visitor, seat) => {
                drop(seat);
                self.visitor_came(visitor)
            }
            Input::Heard(number, _) | Input::ChannelDone(number, _) if number != self.number => Vec::new(),
            Input::Heard(_, Ok(message)) => {
                self.count(|counts| counts.heard(&message));
                if let Some(ahead) = self.link.as_ref().and_then(|link| link.ahead.as_ref()) {
                    ahead.dealt_with_one();
                }
                self.destination.handle(now, Event::Message(message))
            }
            Input::Heard(_, Err(reason)) => {
                self.count(|counts| counts.broke(&reason));
                self.destination.handle(now, Event::LinkLost(reason))
            }
            Input::ChannelDone(_, Ok(())) => self.channel_done(),
            Input::ChannelDone(_, Err(reason)) => self.destination.handle(now, Event::LinkLost(reason)),
            Input::Cancel => self.destination.handle(now, Event::Cancel),
            Input::Stop => Vec::new(),
        }
    }

    fn visitor_came(&mut self, visitor: Visitor) -> Vec<Action> {
        match visitor {
            Visitor::Source { connection, reader, hello, source } => {
                self.source_came(connection, reader, *hello, source)
            }
            Visitor::Channel { connection, greeting, agreed } => {
                self.channel_came(connection, &greeting, agreed)
            }
            Visitor::Asker { connection, reader, session } => self.asked(connection, reader, session),
        }
    }

    fn source_came(
        &mut self,
        connection: Arc<Connection>,
        reader: FrameReader,
        hello: Hello,
        source: Greeted,
    ) -> Vec<Action> {
        if self.destination.is_busy() {
            let newcomer = Newcomer::new(connection, reader, hello, source, self.now());
            match self.newcomer.take_if(|earlier| !earlier.is_gone()) {
                Some(earlier) => {
                    newcomer.refuse();
                    self.newcomer = Some(earlier);
                }
                None => self.newcomer = Some(newcomer),
            }
            return Vec::new();
        }
        self.number += 1;
        {
            let mut view = self.shared.view.lock();
            view.counts = Some(Arc::new(Counts::new(&hello, &source.release, &connection)));
            view.arrived = Arc::default();
            view.last_failure = None;
        }
        self.agreed = Some(source.agreed);
        self.link = Some(Link::new(connection, reader));
        self.destination.handle(self.now(), Event::Message(Message::Hello(hello)))
    }

    /// Lets the source that waits in as soon as there is room, and refuses it when its time is over.
    fn see_to_newcomer(&mut self) -> Vec<Action> {
        let now = self.now();
        let busy = self.destination.is_busy();
        match self.newcomer.take_if(|newcomer| !busy || newcomer.until() <= now) {
            Some(newcomer) if busy => newcomer.refuse(),
            Some(Newcomer { connection, reader, hello, source, .. }) => {
                return self.source_came(connection, reader, hello, source);
            }
            None => {}
        }
        Vec::new()
    }

    /// Answers a source that lost its link; afterwards it only says goodbye.
    fn asked(&mut self, connection: Arc<Connection>, reader: FrameReader, session: SessionId) -> Vec<Action> {
        let (answer, actions) = self.destination.asked(self.now(), session);
        let mut link = Link::new(connection, reader);
        let sent = link.sender.send(&link.connection, &answer);
        if sent.is_ok() && matches!(answer, Message::Running(_)) {
            // What the source says next (goodbye) is heard like on the link that was lost.
            self.close_link();
            self.link = Some(link);
            self.read_link();
        }
        actions
    }

    fn channel_came(
        &mut self,
        connection: Arc<Connection>,
        greeting: &Greeting,
        agreed: Agreed,
    ) -> Vec<Action> {
        let Some(attempt) = &mut self.attempt else { return Vec::new() };
        let index = greeting.index;
        let wanted = greeting.session == self.destination.session()
            && self.agreed == Some(agreed)
            && index < attempt.expected
            && !attempt.indices.contains(&index);
        if !wanted {
            tracing::warn!("A page channel was closed: it does not belong to the migration under way");
            return Vec::new();
        }
        let Some(all) = self.shared.view.lock().counts.clone() else { return Vec::new() };
        let receiver = Receiver {
            counts: all.channel(index),
            all,
            index,
            connection: connection.clone(),
            reader: FrameReader::new(),
            placer: attempt.placer.clone(),
            barrier: attempt.barrier.clone(),
            arrived: attempt.arrived.clone(),
            sums: attempt.sums.clone(),
            scan: attempt.scan.clone(),
        };
        let (number, queue, cpu) = (self.number, self.queue.clone(), self.shared.cpu.clone());
        let lost = queue.clone();
        let serve = move || serve(receiver, number, &queue, &cpu);
        let failed = move |reason| {
            let _ = lost.send(Input::ChannelDone(number, Err(reason)));
        };
        let name = format!("mig-recv-{index}");
        match threads::spawn(&self.threads, ThreadRole::Channel, name, serve, failed) {
            Ok(thread) => attempt.threads.push(thread),
            Err(error) => {
                return self
                    .destination
                    .handle(self.now(), Event::LinkLost(format!("No thread for a channel: {error}")));
            }
        }
        attempt.connections.push(connection);
        attempt.indices.push(index);
        if attempt.indices.len() == usize::from(attempt.expected) {
            self.tell(Status::Active);
            return self.destination.handle(self.now(), Event::ChannelsOpen);
        }
        Vec::new()
    }

    fn channel_done(&mut self) -> Vec<Action> {
        let Some(attempt) = &mut self.attempt else { return Vec::new() };
        attempt.done += 1;
        if attempt.done < attempt.expected {
            return Vec::new();
        }
        let pages = attempt.arrived.pages.get();
        self.destination.handle(self.now(), Event::AllReceived(pages))
    }

    /// Carries an action out. A machine that panics has failed, and the state machine knows what to do then.
    fn carry_out_safely(&mut self, action: Action) -> Option<Event> {
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

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Check(hello) => {
                let checked = self.check(&hello);
                if checked.is_ok() {
                    self.attempt = Some(self.new_attempt(hello));
                }
                Some(Event::Checked(checked))
            }
            Action::Send(message) => {
                let link = self.link.as_mut()?;
                let sent = link.sender.send(&link.connection, &message);
                sent.err().map(|error| {
                    Event::LinkLost(format!("{} could not be sent: {}", message.name(), chain(&error)))
                })
            }
            // The door lets them in from here on, since there is an attempt.
            Action::OpenChannels { .. } => {
                self.read_link();
                None
            }
            Action::Load { states, digest } => {
                self.tell(Status::Device);
                let began = self.now();
                let loaded = self.load(&states, digest.as_deref());
                let took = self.now().saturating_sub(began);
                self.count(|counts| counts.loaded(took));
                Some(
                    loaded
                        .map_or_else(|error| Event::MachineFailed(chain(error.as_ref())), |()| Event::Loaded),
                )
            }
            Action::Run { run } => Some(match self.machine.run(run) {
                Ok(()) => {
                    self.count(Counts::end);
                    self.tell(Status::Completed);
                    Event::Started
                }
                Err(error) => Event::MachineFailed(format!("The machine could not be started: {error}")),
            }),
            Action::Discard { reason } => {
                self.discard(&reason);
                None
            }
            Action::End => None,
        }
    }

    /// What of the states that come is read here, or every reason why the machine cannot come.
    fn check(&self, hello: &Hello) -> Result<Vec<StateVersions>, Vec<String>> {
        let ram = self.machine.ram();
        let blocks = ram.blocks().iter().map(|block| BlockInfo {
            name: block.name().into(),
            guest_address: block.guest_address(),
            bytes: block.bytes(),
        });
        let devices = self.machine.devices();
        let mut reasons = hello.mismatches(&blocks.collect::<Vec<_>>(), &devices);
        reasons.extend(self.machine.check(hello));
        if reasons.is_empty() { Ok(wire::reads(&hello.devices, &devices)) } else { Err(reasons) }
    }

    fn new_attempt(&self, hello: Box<Hello>) -> Attempt {
        let arrived = Arc::new(Arrived::default());
        self.shared.view.lock().arrived = arrived.clone();
        let ram = self.machine.ram();
        Attempt {
            expected: hello.channels,
            barrier: Arc::new(Barrier::new(usize::from(hello.channels))),
            connections: Vec::new(),
            indices: Vec::new(),
            done: 0,
            placer: Arc::new(Placer::new(ram.clone())),
            scan: (hello.digest == Digest::Full).then(|| Arc::new(Scan::new(ram.clone()))),
            sums: hello.digest.is_on().then(|| Arc::new(PageSums::new(ram))),
            hello,
            arrived,
            threads: Vec::new(),
        }
    }

    /// Starts the thread that reads the control connection.
    fn read_link(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(reader) = link.reader.take() else { return };
        let (number, queue, connection) = (self.number, self.queue.clone(), link.connection.clone());
        let (ahead, reading) = ReadAhead::new();
        link.ahead = Some(ahead);
        let read = move || {
            reading.read_all(reader, &connection, |heard| {
                queue.send(Input::Heard(number, heard.map_err(|error| chain(&error)))).is_ok()
            });
        };
        let queue = self.queue.clone();
        let failed = move |reason| {
            let _ = queue.send(Input::Heard(number, Err(reason)));
        };
        match threads::spawn(&self.threads, ThreadRole::Control, "mig-control", read, failed) {
            Ok(thread) => link.thread = Some(thread),
            Err(error) => {
                let _ =
                    self.queue.send(Input::Heard(number, Err(format!("No thread to read with: {error}"))));
            }
        }
    }

    fn load(&mut self, states: &[DeviceState], expected: Option<&[u64]>) -> Result<(), MachineError> {
        let Some(attempt) = &self.attempt else { return Err("There is no attempt".into()) };
        // Before the machine is made of it: a hypervisor may write guest memory while it restores vCPUs.
        match (expected, &attempt.sums) {
            (Some(expected), Some(sums)) => {
                let compared = sums.compare(expected);
                self.count(|counts| counts.compared(compared.clone()));
                compared.map_err(|places| format!("Memory is not as it was at the source: {places}"))?;
            }
            (None, Some(_)) => return Err("The source was to send a digest of memory, and has not".into()),
            (_, None) => {}
        }
        self.machine.load(&attempt.hello.machine, states)?;
        self.machine.lock_disks()
    }

    fn discard(&mut self, reason: &str) {
        tracing::warn!("Incoming migration came to nothing: {reason}");
        self.number += 1;
        self.close();
        self.count(Counts::end);
        self.shared.view.lock().last_failure = Some(reason.into());
        self.tell(Status::Failed);
        if let Err(error) = self.machine.discard() {
            tracing::error!("This destination cannot take another machine: {error}");
        }
        self.tell(Status::Setup);
    }

    /// Closes all connections of the attempt and waits for their threads: none writes guest memory afterwards.
    fn close(&mut self) {
        self.close_link();
        if let Some(attempt) = self.attempt.take() {
            attempt.barrier.shatter();
            for connection in &attempt.connections {
                connection.shutdown();
            }
            for thread in attempt.threads {
                let _ = thread.join();
            }
        }
    }

    fn close_link(&mut self) {
        if let Some(link) = self.link.take() {
            link.connection.shutdown();
            drop(link.ahead);
            if let Some(thread) = link.thread {
                let _ = thread.join();
            }
        }
    }

    /// A machine has arrived, and its source knows.
    fn end(mut self) {
        self.stopper.stop();
        self.close();
        if let Some(newcomer) = self.newcomer.take() {
            newcomer.refuse();
        }
        if let Some(clock) = &mut self.clock {
            clock.add_to(&self.shared.cpu);
        }
        self.tell(Status::Completed);
        self.observer.ended(&Outcome::Completed);
    }

    fn stop(mut self) {
        let actions = self.destination.handle(self.now(), Event::Cancel);
        for action in actions {
            self.carry_out(action);
        }
        self.close();
    }

    /// Counts something of the attempt under way.
    fn count(&self, what: impl FnOnce(&Counts)) {
        let counts = self.shared.view.lock().counts.clone();
        if let Some(counts) = counts {
            what(&counts);
        }
    }

    fn tell(&mut self, status: Status) {
        if status != self.status {
            self.status = status;
            self.shared.view.lock().status = status;
            self.observer.status(status);
        }
    }
}
