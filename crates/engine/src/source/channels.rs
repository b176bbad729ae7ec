//! The page channels of one attempt: their threads, and counting them together.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender as Queue, bounded, unbounded};
use migration::source::Event;
use ram::{PageSet, PageSums};
use transport::{Connection, Dial, Pacer, SessionSecret};
use wire::{Agreed, Role, SessionId};

use super::{
    DIAL_TIMEOUT,
    encoder::Encoder,
    needed::Needed,
    outlet::Outlet,
    pulse::PULSE,
    pusher::{PushError, Pusher, Slot},
    sender::{ChannelRound, Pages, SendError, Sender},
    work::RoundWork,
};
use crate::{
    ThreadRole, Threads, chain,
    cpu_time::{CpuTime, ThreadClock},
    greet,
    lane::Lane,
    priority, threads,
};

/// How often a channel is looked at that nothing is sent on yet.
const LOOK: Duration = Duration::from_millis(200);

/// The open channels. Dropping it without [`Channels::close`] leaves the threads to end by themselves.
pub(super) struct Channels {
    connections: Vec<Arc<Connection>>,
    work: Vec<Queue<Work>>,
    threads: Vec<JoinHandle<()>>,
    pacer: Arc<Pacer>,
    /// For pages that follow the machine.
    push_pacer: Arc<Pacer>,
    tally: Arc<Tally>,
}

/// What a channel thread is to send.
enum Work {
    Round(Arc<RoundWork>),
    /// What the destination lacks, until there is no more; the last of all.
    Push(Arc<Needed>),
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
    /// Where a connection for pages is needed that the machine waits for: where those pages are found.
    pub(super) urgent: Option<Slot>,
    pub(super) max_postcopy_bandwidth: u64,
}

/// Where a thread waits for its connection, and which one that is.
type Place = (Role, u16, Queue<Arc<Connection>>);

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
            push_pacer: Arc::new(Pacer::new(resources.max_postcopy_bandwidth)),
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
        let places = self
            .start(resources)
            .map_err(|error| format!("No threads or no memory for page channels: {error}"))?;
        for (role, index, place) in places {
            let connection = dial(resources, role, index).map_err(|reason| {
                let lane = if role == Role::Urgent { Lane::Urgent } else { Lane::Channel(index) };
                format!("{lane} cannot be opened: {reason}")
            })?;
            self.connections.push(connection.clone());
            // A thread that is gone has reported why.
            let _ = place.send(connection);
        }
        Ok(())
    }

    /// Starts all threads, and returns where each waits for its connection. One whose place is dropped ends.
    fn start(&mut self, resources: &Resources) -> io::Result<Vec<Place>> {
        let (mut places, mut threads) = (Vec::new(), Vec::new());
        for index in 0..self.tally.channels {
            let (place, connected) = bounded::<Arc<Connection>>(1);
            let (queue, work) = unbounded();
            let (tally, cpu, pages) = (self.tally.clone(), resources.cpu.clone(), resources.pages.clone());
            let (pacer, slot) = (self.push_pacer.clone(), resources.urgent.clone());
            let encoder = Encoder::new(pages.ways.clone())?;
            let serve = move || {
                if let Ok(connection) = connected.recv() {
                    let sender = Sender::new(index, connection, pages, encoder);
                    serve(sender, &work, &tally, &cpu, &pacer, slot.as_ref());
                }
            };
            let report = self.tally.report.clone();
            let failed = move |reason| report(Event::LinkLost(reason));
            let name = format!("mig-send-{index}");
            threads.push(threads::new(&resources.threads, ThreadRole::Channel, name, serve, failed));
            places.push((Role::Pages, index, place));
            self.work.push(queue);
        }
        if let Some(slot) = resources.urgent.clone() {
            let (place, connected) = bounded::<Arc<Connection>>(1);
            let (cpu, report) = (resources.cpu.clone(), self.tally.report.clone());
            let (ram, progress) = (resources.pages.ram.clone(), resources.pages.progress.clone());
            let sums = resources.pages.sums_what_follows;
            let encoder = Encoder::new(resources.pages.ways.clone())?.without_rounds();
            let lost = report.clone();
            let serve = move || {
                let Ok(connection) = connected.recv() else { return };
                let mut clock = ThreadClock::start();
                let served = Pusher::new(
                    Lane::Urgent,
                    // A few pages at a time, which the machine waits for: copying them is quicker than what comes of not copying.
                    Outlet::new(connection, None, progress),
                    0,
                    ram,
                    sums,
                    encoder,
                )
                .serve(&slot);
                clock.add_to(&cpu);
                match served {
                    Ok(()) | Err(PushError::Stopped) => {}
                    Err(error) => report(Event::LinkLost(chain(&error))),
                }
            };
            let failed = move |reason| lost(Event::LinkLost(reason));
            threads.push(threads::new(&resources.threads, ThreadRole::Channel, "mig-urgent", serve, failed));
            places.push((Role::Urgent, 0, place));
        }
        self.threads = resources.threads.spawn_all(threads)?;
        Ok(places)
    }

    /// Has all channels send a round. The end is reported as an event.
    pub(super) fn send_round(&self, work: &Arc<RoundWork>) {
        *self.tally.lock() = Default::default();
        for queue in &self.work {
            // A thread that is gone has reported why.
            let _ = queue.send(Work::Round(work.clone()));
        }
    }

    /// These pages of each block follow the machine: what was sent of them is not compared.
    pub(super) fn leave_out(&self, blocks: &[PageSet]) {
        if let Some(sums) = &self.tally.sums {
            blocks.iter().enumerate().for_each(|(index, pages)| sums.leave_out(index, pages));
        }
    }

    /// Has all channels send what the destination lacks.
    pub(super) fn push(&self, needed: &Arc<Needed>) {
        for queue in &self.work {
            let _ = queue.send(Work::Push(needed.clone()));
        }
    }

    /// What holds pages that follow the machine to a bandwidth.
    pub(super) fn push_pacer(&self) -> &Arc<Pacer> {
        &self.push_pacer
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
        self.push_pacer.stop();
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

/// A channel thread: sends one round after the other, and then what follows the machine, if anything does.
fn serve(
    mut sender: Sender,
    work: &Receiver<Work>,
    tally: &Tally,
    cpu: &CpuTime,
    pacer: &Pacer,
    slot: Option<&Slot>,
) {
    let mut clock = ThreadClock::start();
    // Where the machine runs at the destination already, there are no rounds.
    let mut are_over = slot.is_some_and(|slot| slot.lock().is_some());
    let mut is_first = true;
    loop {
        let next = next_work(&mut sender, work, is_first, are_over);
        is_first = false;
        let round = match next {
            Ok(Some(Work::Round(round))) => round,
            Ok(Some(Work::Push(needed))) => {
                priority::give_way();
                let pushed = sender.into_pusher().push(&needed, pacer);
                clock.add_to(cpu);
                return match pushed {
                    Ok(()) | Err(PushError::Stopped) => {}
                    Err(error) => (tally.report)(Event::LinkLost(chain(&error))),
                };
            }
            Ok(None) => return,
            Err(reason) => return (tally.report)(Event::LinkLost(reason)),
        };
        let (sent, last) = (sender.send_round(&round), round.last);
        // The dirty set must be free before the end of the round is reported.
        drop(round);
        clock.add_to(cpu);
        are_over = last && slot.is_some();
        match sent {
            Ok(sent) => tally.add(sent, last),
            Err(SendError::Stopped) => return,
            Err(error) => return (tally.report)(Event::LinkLost(chain(&error))),
        }
    }
}

/// Waits for what is to be sent next. The first work comes when the destination has all channels: one that broke on the way there would
/// not be noticed otherwise, as nothing is sent on it yet. When rounds `are_over`, this side says that it is there.
///
/// # Errors
/// The channel is broken.
fn next_work(
    sender: &mut Sender,
    work: &Receiver<Work>,
    is_first: bool,
    are_over: bool,
) -> Result<Option<Work>, String> {
    if !is_first && !are_over {
        return Ok(work.recv().ok());
    }
    loop {
        match work.recv_timeout(if are_over { PULSE } else { LOOK }) {
            Ok(work) => return Ok(Some(work)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if sender.is_hung_up() => {
                return Err("The destination closed a page channel before it was used".into());
            }
            Err(RecvTimeoutError::Timeout) if are_over => match sender.pulse() {
                Ok(()) => {}
                Err(SendError::Stopped) => return Ok(None),
                Err(error) => return Err(chain(&error)),
            },
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Opens one more connection to where the control connection goes.
fn dial(resources: &Resources, role: Role, index: u16) -> Result<Arc<Connection>, String> {
    let dialled = resources.dial.dial_again(&resources.control, DIAL_TIMEOUT);
    let connection = Arc::new(dialled.map_err(|error| chain(&error))?);
    let Resources { agreed, release, session, secret, .. } = resources;
    let greeted = greet::on_channel(&connection, *agreed, release, role, index, *session, secret.as_ref());
    greeted.map_err(|error| chain(&error))?;
    Ok(connection)
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
