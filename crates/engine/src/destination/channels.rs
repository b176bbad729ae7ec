//! The page channels of one attempt, and the threads that serve them.

use std::{io, sync::Arc, thread::JoinHandle};

use crossbeam_channel::{Sender as Queue, bounded};
use ram::{Intake, PageSums, Placer, Ram, Userfaultfd};
use transport::Connection;
use wire::{Digest, Features, PageCounts, Role};

use super::{
    arrived::Arrived,
    barrier::Barrier,
    encoded::Encoded,
    figures::Counts,
    follow::Postcopy,
    pushed::{Pushed, PushedError},
    receiver::{ReceiveError, Receiver},
    scan::Scan,
};
use crate::{
    ThreadRole, Threads, chain,
    cpu_time::{CpuTime, ThreadClock},
    frames::FrameReader,
    lane::Lane,
    priority, threads,
};

/// The channels that are open, of those that are to come.
pub(super) struct Channels {
    expected: u16,
    /// What both sides can do.
    features: Features,
    connections: Vec<Arc<Connection>>,
    /// Where the threads of channels wait that are still to come.
    places: Vec<Option<Queue<Arc<Connection>>>>,
    done: u16,
    placer: Arc<Placer>,
    /// Kept where there is a digest.
    sums: Option<Arc<PageSums>>,
    /// Shared out where all memory is compared.
    scan: Option<Arc<Scan>>,
    barrier: Arc<Barrier>,
    arrived: Arc<Arrived>,
    /// Where pages may follow the machine.
    postcopy: Option<Postcopy>,
    /// Where the thread of the urgent connection waits, if it is still to come.
    urgent_place: Option<Queue<Arc<Connection>>>,
    /// Whether the machine runs: there are no rounds any more.
    is_pushed: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Channels {
    pub(super) fn new(
        expected: u16,
        features: Features,
        digest: Digest,
        (ram, maker): (Ram, Option<Userfaultfd>),
        arrived: Arc<Arrived>,
        postcopy: Option<Postcopy>,
    ) -> Self {
        Self {
            expected,
            features,
            connections: Vec::new(),
            places: Vec::new(),
            done: 0,
            placer: Arc::new(Placer::new(ram.clone(), maker)),
            scan: (digest == Digest::Full).then(|| Arc::new(Scan::new(ram.clone()))),
            sums: digest.is_on().then(|| Arc::new(PageSums::new(ram))),
            barrier: Arc::new(Barrier::new(usize::from(expected))),
            arrived,
            postcopy,
            urgent_place: None,
            is_pushed: false,
            threads: Vec::new(),
        }
    }

    /// Those of a source that was found again, whose machine runs here.
    pub(super) fn again(
        expected: u16,
        features: Features,
        ram: Ram,
        arrived: Arc<Arrived>,
        postcopy: Postcopy,
    ) -> Self {
        let channels = Self::new(expected, features, Digest::Off, (ram, None), arrived, Some(postcopy));
        Self { is_pushed: true, ..channels }
    }

    /// Whether a channel of that number is still to come.
    pub(super) fn wants(&self, role: Role, index: u16) -> bool {
        match role {
            Role::Urgent => index == 0 && self.urgent_place.is_some(),
            _ => self.places.get(usize::from(index)).is_some_and(Option::is_some),
        }
    }

    /// Whether all channels have come.
    pub(super) fn are_open(&self) -> bool {
        let urgent = usize::from(self.postcopy.is_some());
        self.connections.len() == usize::from(self.expected) + urgent
    }

    pub(super) fn sums(&self) -> Option<&PageSums> {
        self.sums.as_deref()
    }

    /// Starts the threads that serve the channels to come: at once, while the source makes ready. `done` is called on one when its
    /// last round is over, or with a reason when it cannot go on; not if [`Self::close`] ends it.
    pub(super) fn start(
        &mut self,
        threads: &Arc<dyn Threads>,
        counts: &Arc<Counts>,
        cpu: &Arc<CpuTime>,
        done: &(impl Fn(Result<(), String>) + Clone + Send + 'static),
    ) -> io::Result<()> {
        let mut all = Vec::new();
        for index in 0..self.expected {
            let (place, connected) = bounded(1);
            let (receiver, cpu) = (self.receiver(index, counts), cpu.clone());
            let (done, lost) = (done.clone(), done.clone());
            let (postcopy, is_pushed) = (self.postcopy.clone(), self.is_pushed);
            let serve = move || {
                if let Ok(connection) = connected.recv() {
                    serve(receiver(connection), &cpu, postcopy.as_ref(), is_pushed, &done);
                }
            };
            let failed = move |reason| lost(Err(reason));
            all.push(threads::new(threads, ThreadRole::Channel, format!("mig-recv-{index}"), serve, failed));
            self.places.push(Some(place));
        }
        if let Some(postcopy) = self.postcopy.clone() {
            let (place, connected) = bounded(1);
            let (arrived, cpu) = (self.arrived.clone(), cpu.clone());
            let (done, lost, features) = (done.clone(), done.clone(), self.features);
            let serve = move || {
                if let Ok(connection) = connected.recv()
                    && let Err(error) = serve_urgent(connection, arrived, features, &cpu, &postcopy)
                {
                    done(Err(chain(&error)));
                }
            };
            let failed = move |reason| lost(Err(reason));
            all.push(threads::new(threads, ThreadRole::Channel, "mig-urgent", serve, failed));
            self.urgent_place = Some(place);
        }
        self.threads = threads.spawn_all(all)?;
        Ok(())
    }

    /// Makes the receiver of a channel when there is a connection.
    fn receiver(&self, index: u16, counts: &Arc<Counts>) -> impl FnOnce(Arc<Connection>) -> Receiver + use<> {
        let all = counts.clone();
        let (placer, barrier, arrived) = (self.placer.clone(), self.barrier.clone(), self.arrived.clone());
        let (sums, scan, features) = (self.sums.clone(), self.scan.clone(), self.features);
        move |connection| Receiver {
            counts: all.channel(index),
            all,
            index,
            connection,
            reader: FrameReader::new(),
            features,
            encoded: Encoded::default(),
            intake: Intake::new(placer),
            barrier,
            arrived,
            sums,
            scan,
        }
    }

    /// Has a channel served that has come, and was [wanted](Self::wants).
    pub(super) fn open(&mut self, role: Role, index: u16, connection: Arc<Connection>) {
        let place = match role {
            Role::Urgent => self.urgent_place.take(),
            _ => self.places.get_mut(usize::from(index)).and_then(Option::take),
        };
        if let Some(place) = place {
            self.connections.push(connection.clone());
            // A thread that is gone has said why.
            let _ = place.send(connection);
        }
    }

    /// Another channel has come to the end of its last round. Returns what all of them brought if it was the last.
    pub(super) fn done(&mut self) -> Option<PageCounts> {
        self.done += 1;
        (self.done >= self.expected).then(|| self.arrived.pages.get())
    }

    /// Closes all channels and waits for their threads: none writes guest memory afterwards.
    pub(super) fn close(self) {
        drop((self.places, self.urgent_place));
        self.barrier.shatter();
        if let Some(postcopy) = &self.postcopy {
            postcopy.gate.close(&postcopy.closed);
        }
        for connection in &self.connections {
            connection.shutdown();
        }
        // A source that sends what it must not may have one of them wait for a page that does not come.
        let _ = self.placer.release();
        for thread in self.threads {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// A channel thread: rounds, unless they are over, and then pages that follow the machine, if there are any. `done` hears of the
/// end of the rounds, and of whatever else ends the thread but being told to.
fn serve(
    mut receiver: Receiver,
    cpu: &CpuTime,
    postcopy: Option<&Postcopy>,
    is_pushed: bool,
    done: &impl Fn(Result<(), String>),
) {
    let mut clock = ThreadClock::start();
    let broke = |receiver: &Receiver, reason: String| {
        receiver.counts.broke(&reason);
        done(Err(reason));
    };
    if !is_pushed {
        let received = receiver.receive_all();
        clock.add_to(cpu);
        match received {
            Ok(()) => done(Ok(())),
            Err(ReceiveError::Stopped) => return,
            Err(error) => return broke(&receiver, chain(&error)),
        }
    }
    let Some(postcopy) = postcopy else { return };
    let Some(incomplete) = postcopy.gate.wait(&postcopy.closed) else { return };
    priority::give_way();
    let received = receiver.receive_pushed(&incomplete, postcopy);
    clock.add_to(cpu);
    match received {
        Ok(()) | Err(PushedError::Stopped) => {}
        Err(error) => broke(&receiver, chain(&error)),
    }
}

/// The thread of the urgent connection: asks for what the machine waits for, and receives it.
fn serve_urgent(
    connection: Arc<Connection>,
    arrived: Arc<Arrived>,
    features: Features,
    cpu: &CpuTime,
    postcopy: &Postcopy,
) -> Result<(), PushedError> {
    let Some(incomplete) = postcopy.gate.wait(&postcopy.closed) else { return Ok(()) };
    let mut clock = ThreadClock::start();
    postcopy.faults.ask_on(connection.clone());
    let received = Pushed::new(Lane::Urgent, connection, FrameReader::new(), arrived, features)
        .receive(&incomplete, postcopy);
    // A machine that is being loaded must not wait for pages that do not come.
    postcopy.faults.hang_up();
    clock.add_to(cpu);
    match received {
        Err(PushedError::Stopped) => Ok(()),
        received => received,
    }
}
