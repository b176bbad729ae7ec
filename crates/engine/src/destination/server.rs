//! The migration thread of the destination. Everything that happens becomes an [`Event`] for the state machine, and
//! [`Server::carry_out`] does what the state machine returns.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver as Inbox, Sender as Queue};
use migration::{
    Destination, Outcome, Status, Time,
    destination::{Action, Event},
    handover::DestinationSide,
};
use state::DeviceState;
use tracing::Span;
use transport::{Connection, SessionSecret, Stopper};
use wire::{Agreed, Greeted, Greeting, Hello, Message, SessionId};

use super::{
    Input, Shared, accept::Incoming, channels::Channels, figures::Counts, lacking::Lacking,
    waiting::WaitingSource,
};
use crate::{
    DestinationMachine, Heard, Observer, Threads, cpu_time::ThreadClock, greet::Proof, link::Link, threads,
};

/// How long a source that gives up may take to be heard, once a channel of it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the migration thread owns.
pub(super) struct Server {
    pub(super) threads: Arc<dyn Threads>,
    pub(super) machine: Box<dyn DestinationMachine>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Queue<Input>,
    stopper: Stopper,
    pub(super) destination: Destination,
    /// Number of the attempt.
    pub(super) number: u32,
    pub(super) link: Option<Link>,
    /// With the source that is being served.
    pub(super) agreed: Option<Agreed>,
    /// When that was heard.
    pub(super) heard: Heard,
    /// What connections of the session prove, where they are encrypted.
    secret: Option<SessionSecret>,
    pub(super) arriving: Option<Arriving>,
    /// The migration that came last, for the log: also for what comes of it afterwards.
    pub(super) about: Span,
    /// A source that came while another was being served.
    waiting: Option<WaitingSource>,
    /// Bytes that came for the machine where it was before.
    pub(super) forwarded: usize,
    status: Status,
    clock: Option<ThreadClock>,
}

/// A machine that arrives.
pub(super) struct Arriving {
    /// What the source says of it.
    pub(super) description: DeviceState,
    pub(super) channels: Channels,
    /// Where pages may follow it.
    pub(super) lacking: Option<Lacking>,
}

impl Server {
    pub(super) fn new(
        threads: Arc<dyn Threads>,
        machine: Box<dyn DestinationMachine>,
        observer: Arc<dyn Observer>,
        shared: Arc<Shared>,
        queue: Queue<Input>,
        stopper: Stopper,
    ) -> Self {
        Self {
            threads,
            machine,
            observer,
            shared,
            queue,
            stopper,
            destination: Destination::default(),
            number: 0,
            link: None,
            agreed: None,
            heard: Heard::now(),
            secret: None,
            arriving: None,
            about: Span::none(),
            waiting: None,
            forwarded: 0,
            status: Status::None,
            clock: None,
        }
    }

    pub(super) fn run(mut self, inbox: &Inbox<Input>) {
        self.clock = Some(ThreadClock::start());
        self.tell(Status::Setup);
        loop {
            let waits = self.waiting.as_ref().map(WaitingSource::until);
            let input = match self.destination.deadline().into_iter().chain(waits).min() {
                Some(deadline) => inbox.recv_deadline(self.shared.began + deadline).ok(),
                // `self.queue` keeps the channel open.
                None => inbox.recv().ok(),
            };
            let mut todo = VecDeque::from(match input {
                Some(Input::Stop) => return self.stop(),
                Some(input) => {
                    let input = self.with_its_cause(input, inbox);
                    self.take(input)
                }
                None => self.destination.handle(self.now(), Event::Tick),
            });
            // Not before the one before is over: what is to be done for it would be done to the next.
            if todo.is_empty() {
                todo.extend(self.serve_waiting());
            }
            while let Some(action) = todo.pop_front() {
                if action == Action::End {
                    return self.end();
                }
                if let Some(event) = self.carry_out_safely(action) {
                    todo.extend(self.destination.handle(self.now(), event));
                }
                if todo.is_empty() {
                    todo.extend(self.serve_waiting());
                }
            }
            self.shared.probes.busy(self.destination.is_busy());
            if let Some(clock) = &mut self.clock {
                clock.add_to(&self.shared.cpu);
            }
        }
    }

    pub(super) fn now(&self) -> Time {
        self.shared.began.elapsed()
    }

    /// A source that gives up says why on the control connection, and closes all others: what is heard of these may come first. So
    /// where a channel ends before the machine is this side's, it is waited a moment for that word.
    fn with_its_cause(&self, input: Input, inbox: &Inbox<Input>) -> Input {
        let is_lost = matches!(&input, Input::ChannelDone(number, Err(_)) if *number == self.number);
        if !is_lost || self.link.is_none() || self.destination.side().may_run() {
            return input;
        }
        let (deadline, mut others, mut cause) = (Instant::now() + LAST_WORDS, Vec::new(), None);
        while let Ok(next) = inbox.recv_deadline(deadline) {
            match next {
                Input::Heard(number, Ok(Message::Abort { .. })) if number == self.number => {
                    cause = Some(next);
                    break;
                }
                Input::Heard(_, Err(_)) | Input::Stop | Input::Cancel => {
                    others.push(next);
                    break;
                }
                next => others.push(next),
            }
        }
        for other in others {
            // This side keeps the channel open.
            let _ = self.queue.send(other);
        }
        cause.unwrap_or(input)
    }

    fn take(&mut self, input: Input) -> Vec<Action> {
        let _about = self.about.clone().entered();
        let now = self.now();
        match input {
            Input::Incoming(incoming, slot) => {
                drop(slot);
                self.connection_came(incoming)
            }
            Input::Heard(number, _) | Input::ChannelDone(number, _) if number != self.number => Vec::new(),
            Input::Heard(_, Ok(message)) => {
                self.count(|counts| counts.heard(&message));
                if matches!(message, Message::Device(_)) {
                    self.machine.states_come();
                }
                if let Some(link) = &self.link {
                    link.dealt_with_one();
                }
                self.destination.handle(now, Event::Message(message))
            }
            Input::Heard(_, Err(reason)) => {
                self.count(|counts| counts.broke(&reason));
                self.destination.handle(now, Event::LinkLost(reason))
            }
            Input::ChannelDone(_, Ok(())) => self.channel_done(),
            Input::ChannelDone(_, Err(reason)) => self.destination.handle(now, Event::LinkLost(reason)),
            Input::Whole => self.whole(),
            Input::Forget(done) => {
                self.forget();
                // Who asked may have lost patience.
                let _ = done.send(());
                Vec::new()
            }
            Input::Cancel => self.destination.handle(now, Event::Cancel),
            Input::Stop => Vec::new(),
        }
    }

    fn connection_came(&mut self, incoming: Incoming) -> Vec<Action> {
        match incoming {
            Incoming::Source { link, hello, source, heard } => self.source_came(link, *hello, source, heard),
            Incoming::Channel { connection, greeting, agreed, proof } => {
                self.channel_came(connection, &greeting, agreed, proof.as_ref())
            }
            Incoming::Question { link, session, proof } => self.asked(link, session, proof.as_ref()),
        }
    }

    fn source_came(&mut self, link: Link, hello: Hello, source: Greeted, heard: Heard) -> Vec<Action> {
        if self.destination.is_busy() {
            let waiting = WaitingSource::new(link, hello, source, heard, self.now());
            match self.waiting.take_if(|earlier| !earlier.is_gone()) {
                Some(earlier) => {
                    waiting.refuse();
                    self.waiting = Some(earlier);
                }
                None => self.waiting = Some(waiting),
            }
            return Vec::new();
        }
        self.shared.probes.busy(true);
        self.number += 1;
        self.about = threads::about(hello.session);
        {
            let mut view = self.shared.view.lock();
            view.counts = Some(Arc::new(Counts::new(&hello, &source.release, link.connection())));
            view.arrived = Arc::default();
            view.last_failure = None;
            (view.faults, view.memory) = (None, None);
        }
        self.forwarded = 0;
        self.agreed = Some(source.agreed);
        self.heard = heard;
        // It is authenticated: it came here by way of its greeting.
        self.secret = link.connection().session_secret(&hello.session.0).unwrap_or_default();
        self.link = Some(link);
        self.destination.handle(self.now(), Event::Message(Message::Hello(hello)))
    }

    /// Lets the source that waits in as soon as there is room, and refuses it when its time is over.
    fn serve_waiting(&mut self) -> Vec<Action> {
        let now = self.now();
        let busy = self.destination.is_busy();
        match self.waiting.take_if(|waiting| !busy || waiting.until() <= now) {
            Some(waiting) if busy => waiting.refuse(),
            Some(WaitingSource { link, hello, source, heard, .. }) => {
                return self.source_came(link, hello, source, heard);
            }
            None => {}
        }
        Vec::new()
    }

    /// Answers a source that lost its link; afterwards it only says goodbye.
    fn asked(&mut self, mut link: Link, session: SessionId, proof: Option<&Proof>) -> Vec<Action> {
        // The answer can end the attempt under way. That nothing is known of another session is no secret.
        let is_ours = session == self.destination.session();
        if is_ours && !Proof::fits(proof, self.secret.as_ref(), link.connection()) {
            tracing::warn!(
                "A question was not answered: who asks cannot prove that the migration is its own"
            );
            return Vec::new();
        }
        let (answer, actions) = self.destination.asked(self.now(), session);
        let sent = link.send(&answer);
        if sent.is_ok() && matches!(answer, Message::Running(_)) {
            // What the source says next is heard like on the link that was lost: goodbye, or which pages are missing.
            self.part();
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
        proof: Option<&Proof>,
    ) -> Vec<Action> {
        let Some(arriving) = &mut self.arriving else { return Vec::new() };
        let wanted = greeting.session == self.destination.session()
            && self.agreed == Some(agreed)
            && arriving.channels.wants(greeting.role, greeting.index)
            && Proof::fits(proof, self.secret.as_ref(), &connection);
        if !wanted {
            tracing::warn!("A page channel was closed: it does not belong to the migration under way");
            return Vec::new();
        }
        arriving.channels.open(greeting.role, greeting.index, connection);
        if arriving.channels.are_open() {
            let is_running = self.destination.side() == DestinationSide::Owner;
            self.tell(if is_running { Status::PostcopyActive } else { Status::Active });
            return self.destination.handle(self.now(), Event::ChannelsOpen);
        }
        Vec::new()
    }

    fn channel_done(&mut self) -> Vec<Action> {
        match self.arriving.as_mut().and_then(|arriving| arriving.channels.done()) {
            Some(pages) => self.destination.handle(self.now(), Event::AllReceived(pages)),
            None => Vec::new(),
        }
    }

    /// A machine has arrived, and its source knows.
    fn end(mut self) {
        let _about = self.about.clone().entered();
        self.stopper.stop();
        self.close();
        if let Some(waiting) = self.waiting.take() {
            waiting.refuse();
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
    pub(super) fn count(&self, what: impl FnOnce(&Counts)) {
        let counts = self.shared.view.lock().counts.clone();
        if let Some(counts) = counts {
            what(&counts);
        }
    }

    pub(super) fn tell(&mut self, status: Status) {
        if status != self.status {
            self.status = status;
            let mut publish = || self.shared.view.lock().status = status;
            self.observer.status(status, &mut publish);
            publish();
        }
    }
}
