//! The page channels of one attempt: their threads, and counting them together.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender as Queue, bounded, unbounded};
use migration::source::Event;
use ram::PageSums;
use transport::{Connection, Dial, Pacer, SessionSecret};
use wire::{Agreed, SessionId};

use super::{
    DIAL_TIMEOUT,
    sender::{ChannelRound, Pages, SendError, Sender},
    work::RoundWork,
};
use crate::{
    ThreadRole, Threads, chain,
    cpu_time::{CpuTime, ThreadClock},
    greet, threads,
};

/// How often a channel is looked at that nothing is sent on yet.
const LOOK: Duration = Duration::from_millis(200);

/// The open channels. Dropping it without [`Channels::close`] leaves the threads to end by themselves.
pub(super) struct Channels {
    connections: Vec<Arc<Connection>>,
    work: Vec<Queue<Arc<RoundWork>>>,
    threads: Vec<JoinHandle<()>>,
    pacer: Arc<Pacer>,
    tally: Arc<Tally>,
}

/// What opening a channel needs.
pub(super) struct Resources {
    pub(super) threads: Arc<dyn Threads>,
    pub(super) dial: Arc<dyn Dial>,
    /// Channels go where the control connection goes.
    pub(super) control: Arc<Connection>,
    pub(super) agreed: Agreed,
    /// Of this side.
    pub(super) release: String,
    pub(super) session: SessionId,
    pub(super) secret: Option<SessionSecret>,
    pub(super) cpu: Arc<CpuTime>,
    pub(super) pages: Pages,
}

/// Where channel threads report to.
pub(super) type Report = Arc<dyn Fn(Event) + Send + Sync>;

/// Adds up the channels of a round, and reports once: when all are done, or when the first fails.
struct Tally {
    channels: u16,
    round: Mutex<(usize, ChannelRound)>,
    sums: Option<Arc<PageSums>>,
    report: Report,
}

impl Channels {
    /// None yet, of so many.
    pub(super) fn new(count: u16, resources: &Resources, report: Report) -> Self {
        Self {
            connections: Vec::new(),
            work: Vec::new(),
            threads: Vec::new(),
            pacer: resources.pages.pacer.clone(),
            tally: Arc::new(Tally {
                channels: count,
                round: Mutex::default(),
                sums: resources.pages.sums.clone(),
                report,
            }),
        }
    }

    /// Starts the threads of all channels, dials them, and says hello on each.
    ///
    /// # Errors
    /// Why one of them cannot be opened. Those before it stay open: if the destination has given up, it may have said why, and it must
    /// not take the end of these for the cause.
    pub(super) fn open(&mut self, resources: &Resources) -> Result<(), String> {
        // At once, and before there is anything for them: starting one after the other takes longer than dialling.
        let places =
            self.start(resources).map_err(|error| format!("No threads for page channels: {error}"))?;
        for (index, place) in (0..).zip(places) {
            let connection = Self::connect(index, resources)
                .map_err(|reason| format!("Page channel {index} cannot be opened: {reason}"))?;
            self.connections.push(connection.clone());
            // A thread that is gone has reported why.
            let _ = place.send(connection);
        }
        Ok(())
    }

    /// Starts all threads, and returns where each waits for its connection. One whose place is dropped ends.
    fn start(&mut self, resources: &Resources) -> io::Result<Vec<Queue<Arc<Connection>>>> {
        let (mut places, mut threads) = (Vec::new(), Vec::new());
        for index in 0..self.tally.channels {
            let (place, connected) = bounded::<Arc<Connection>>(1);
            let (queue, work) = unbounded();
            let (tally, cpu, pages) = (self.tally.clone(), resources.cpu.clone(), resources.pages.clone());
            let serve = move || {
                if let Ok(connection) = connected.recv() {
                    serve(Sender::new(index, connection, pages), &work, &tally, &cpu);
                }
            };
            let report = self.tally.report.clone();
            let failed = move |reason| report(Event::LinkLost(reason));
            let name = format!("mig-send-{index}");
            threads.push(threads::new(&resources.threads, ThreadRole::Channel, name, serve, failed));
            places.push(place);
            self.work.push(queue);
        }
        self.threads = resources.threads.spawn_all(threads)?;
        Ok(places)
    }

    fn connect(index: u16, resources: &Resources) -> Result<Arc<Connection>, String> {
        let dialled = resources.dial.dial_again(&resources.control, DIAL_TIMEOUT);
        let connection = dialled.map_err(|error| chain(&error))?;
        let Resources { agreed, release, session, secret, .. } = resources;
        let greeted = greet::on_channel(&connection, *agreed, release, index, *session, secret.as_ref());
        greeted.map_err(|error| chain(&error))?;
        Ok(Arc::new(connection))
    }

    /// Has all channels send a round. The end is reported as an event.
    pub(super) fn send_round(&self, work: &Arc<RoundWork>) {
        *self.tally.lock() = Default::default();
        for queue in &self.work {
            // A thread that is gone has reported why.
            let _ = queue.send(work.clone());
        }
    }

    /// How often keys were renewed, over all of them.
    pub(super) fn rekeys(&self) -> u64 {
        self.connections
            .iter()
            .filter_map(|connection| connection.security())
            .map(|security| security.rekeys)
            .sum()
    }

    /// Breaks all connections and waits for the threads.
    pub(super) fn close(self) {
        self.pacer.stop();
        for connection in &self.connections {
            connection.shutdown();
        }
        drop(self.work);
        for thread in self.threads {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// A channel thread: sends one round after the other.
fn serve(mut sender: Sender, work: &Receiver<Arc<RoundWork>>, tally: &Tally, cpu: &CpuTime) {
    let mut clock = ThreadClock::start();
    let first = match first_round(&sender, work) {
        Ok(Some(round)) => round,
        Ok(None) => return,
        Err(reason) => return (tally.report)(Event::LinkLost(reason)),
    };
    for round in std::iter::once(first).chain(work) {
        let (sent, last) = (sender.send_round(&round), round.last);
        // The dirty set must be free before the end of the round is reported.
        drop(round);
        clock.add_to(cpu);
        match sent {
            Ok(sent) => tally.add(sent, last),
            Err(SendError::Stopped) => return,
            Err(error) => return (tally.report)(Event::LinkLost(chain(&error))),
        }
    }
}

/// Waits for the first round, which comes when the destination has all channels. A channel that broke on the way there would
/// not be noticed otherwise: nothing is sent on it yet.
///
/// # Errors
/// The channel is broken.
fn first_round(sender: &Sender, work: &Receiver<Arc<RoundWork>>) -> Result<Option<Arc<RoundWork>>, String> {
    loop {
        match work.recv_timeout(LOOK) {
            Ok(round) => return Ok(Some(round)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if sender.is_hung_up() => {
                return Err("The destination closed a page channel before it was used".into());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Tally {
    fn add(&self, sent: ChannelRound, last: bool) {
        let mut round = self.lock();
        round.0 += 1;
        round.1.bytes += sent.bytes;
        round.1.pages += sent.pages;
        if round.0 == usize::from(self.channels) {
            let ChannelRound { bytes, pages } = round.1;
            drop(round);
            let digest = self.sums.as_ref().filter(|_| last).map(|sums| sums.pieces());
            (self.report)(Event::RoundSent { bytes, pages, digest });
        }
    }

    fn lock(&self) -> MutexGuard<'_, (usize, ChannelRound)> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
