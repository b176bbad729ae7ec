//! The migration thread of the source. Everything that happens becomes an [`Event`] for the state machine, and
//! [`Attempt::carry_out`] does what the state machine returns.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender as Queue};
use migration::{
    Outcome, Status,
    handover::SourceSide,
    source::{Action, Event},
};
use ram::{DirtySet, PageSet, Touched};
use transport::{Connection, SessionSecret, TransportError};
use wire::{Agreed, Message};

use super::{
    Input, Shared, Target,
    channels::Channels,
    looks::Looks,
    slowing::Slowing,
    work::{Chunks, RoundWork},
};
use crate::{Observer, SourceMachine, Threads, chain, cpu_time::ThreadClock, link::Link};

/// How long what a destination said last may take to arrive, once it does not take any more. The machine may be stopped.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the migration thread owns.
pub(super) struct Attempt {
    pub(super) threads: Arc<dyn Threads>,
    /// Made beforehand, as this thread may not be allowed to.
    pub(super) touched: Touched,
    pub(super) machine: Arc<dyn SourceMachine>,
    pub(super) target: Target,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Queue<Input>,
    pub(super) link: Option<Link>,
    /// What both sides can do, once they have greeted.
    pub(super) agreed: Option<Agreed>,
    /// What connections of the session prove, where they are encrypted.
    pub(super) secret: Option<SessionSecret>,
    /// Number of the last dial; what an older one brings is ignored.
    pub(super) dial: u32,
    pub(super) channels: Option<Channels>,
    pub(super) chunks: Chunks,
    /// Pages in `set`.
    pub(super) dirty_pages: u64,
    pub(super) set: Option<Arc<DirtySet>>,
    /// Whether the set was given to the channels since it was fetched.
    pub(super) sent: bool,
    /// The round that was given to the channels last.
    pub(super) round: Option<Arc<RoundWork>>,
    /// Pages that were touched before a machine is stopped of which no page was sent.
    pub(super) ahead: Option<Vec<PageSet>>,
    /// What the destination says in a recovery that it lacks.
    pub(super) listed: Option<Vec<PageSet>>,
    pub(super) slowing: Slowing,
    pub(super) looks: Looks,
    status: Status,
    clock: Option<ThreadClock>,
}

impl Attempt {
    pub(super) fn new(
        threads: Arc<dyn Threads>,
        machine: Arc<dyn SourceMachine>,
        target: Target,
        observer: Arc<dyn Observer>,
        shared: Arc<Shared>,
        queue: Queue<Input>,
    ) -> Self {
        let slowing = Slowing::new(machine.as_ref(), shared.slowed.clone());
        if !slowing.is_possible() {
            shared.source.lock().cannot_throttle();
        }
        Self {
            slowing,
            looks: Looks::new(&machine.ram()),
            threads,
            touched: Touched::new(machine.ram()),
            machine,
            target,
            observer,
            shared,
            queue,
            link: None,
            agreed: None,
            secret: None,
            dial: 0,
            channels: None,
            chunks: Chunks::default(),
            dirty_pages: 0,
            set: None,
            sent: false,
            round: None,
            ahead: None,
            listed: None,
            status: Status::None,
            clock: None,
        }
    }

    pub(super) fn run(mut self, actions: Vec<Action>, inputs: &Receiver<Input>) {
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
            let rekeys = self.channels.as_ref().map_or(0, Channels::rekeys);
            self.shared.rekeys.store(rekeys, Ordering::Relaxed);
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
        self.shared.tell(status, self.observer.as_ref());
    }

    fn next_event(&mut self, inputs: &Receiver<Input>) -> Event {
        loop {
            let source = self.shared.source.lock();
            let (deadline, look_due) = (source.deadline(), self.looks.due(source.state()));
            drop(source);
            let deadline = deadline.map(|deadline| self.shared.began + deadline);
            let limit_due = self.slowing.due();
            let input = match deadline.into_iter().chain(look_due).chain(limit_due).min() {
                Some(deadline) => match inputs.recv_deadline(deadline) {
                    Ok(input) => input,
                    Err(_) if limit_due.is_some_and(|due| due <= Instant::now()) => {
                        self.slowing.renew();
                        continue;
                    }
                    Err(_) if look_due.is_some_and(|due| due <= Instant::now()) => return self.look(),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Event::Tick,
                },
                // `self.queue` keeps the channel open.
                None => inputs.recv().unwrap_or(Input::Event(Event::Tick)),
            };
            match input {
                Input::Event(event) => return self.with_its_cause(event, inputs),
                Input::Found(dial) => {
                    self.target.dial = dial;
                    return Event::Recover;
                }
                Input::Dialled(number, _) | Input::Heard(number, _) if number != self.dial => {}
                Input::Dialled(_, Ok((connection, destination))) => {
                    if let Err(error) = self.connected(connection, destination.agreed) {
                        return Event::LinkLost(chain(&error));
                    }
                    return Event::Connected(destination);
                }
                Input::Dialled(_, Err(reason)) | Input::Heard(_, Err(reason)) => {
                    return Event::LinkLost(reason);
                }
                Input::Heard(_, Ok(message)) => {
                    if let Some(link) = &self.link {
                        link.dealt_with_one();
                    }
                    return Event::Message(message);
                }
            }
        }
    }

    /// Looks at the round under way.
    fn look(&mut self) -> Event {
        self.slowing.renew();
        let Some(set) = &self.set else { return Event::Tick };
        let looked = self.looks.look(set, self.machine.dirty_log().as_ref(), &self.shared);
        looked.unwrap_or_else(|error| Event::MachineFailed(format!("The dirty log cannot be read: {error}")))
    }

    /// A control connection is up: from here on it is read.
    fn connected(&mut self, connection: Arc<Connection>, agreed: Agreed) -> Result<(), TransportError> {
        if self.agreed.is_none() {
            // The first: the session's secret is this connection's.
            self.secret = connection.session_secret(&self.target.session.0)?;
        }
        *self.shared.security.lock() = connection.security();
        let (number, queue) = (self.dial, self.queue.clone());
        let mut link = Link::new(connection);
        link.read(&self.threads, move |heard| queue.send(Input::Heard(number, heard)).is_ok());
        self.link = Some(link);
        self.agreed = Some(agreed);
        Ok(())
    }

    /// What is sent to a destination that has given up fails, often before it is heard why: then its last words are the reason.
    fn with_its_cause(&self, event: Event, inputs: &Receiver<Input>) -> Event {
        let source = self.shared.source.lock();
        let is_over = source.side() != SourceSide::Owner || source.outcome().is_some();
        drop(source);
        let (Event::LinkLost(_), false, Some(link)) = (&event, is_over, &self.link) else {
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
                Input::Heard(_, Ok(_)) => link.dealt_with_one(),
                Input::Heard(_, Err(_)) => break,
                Input::Event(Event::Cancel) => return Event::Cancel,
                Input::Event(_) | Input::Dialled(..) | Input::Found(_) => {}
            }
        }
        event
    }

    fn end(mut self, outcome: &Outcome) {
        // Given back already by the state machine, but for a defect.
        self.slowing.take(0.0, None);
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
