//! The page channels of one attempt, and the threads that serve them.

use std::{io, sync::Arc, thread::JoinHandle};

use crossbeam_channel::{Sender as Queue, bounded};
use ram::{PageSums, Placer, Ram};
use transport::Connection;
use wire::{Digest, PageCounts};

use super::{
    barrier::Barrier,
    figures::Counts,
    receiver::{Arrived, ReceiveError, Receiver},
    scan::Scan,
};
use crate::{
    ThreadRole, Threads, chain,
    cpu_time::{CpuTime, ThreadClock},
    frames::FrameReader,
    threads,
};

/// The channels that are open, of those that are to come.
pub(super) struct Channels {
    expected: u16,
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
    threads: Vec<JoinHandle<()>>,
}

impl Channels {
    pub(super) fn new(expected: u16, digest: Digest, ram: Ram, arrived: Arc<Arrived>) -> Self {
        Self {
            expected,
            connections: Vec::new(),
            places: Vec::new(),
            done: 0,
            placer: Arc::new(Placer::new(ram.clone())),
            scan: (digest == Digest::Full).then(|| Arc::new(Scan::new(ram.clone()))),
            sums: digest.is_on().then(|| Arc::new(PageSums::new(ram))),
            barrier: Arc::new(Barrier::new(usize::from(expected))),
            arrived,
            threads: Vec::new(),
        }
    }

    /// Whether a channel of that number is still to come.
    pub(super) fn wants(&self, index: u16) -> bool {
        self.places.get(usize::from(index)).is_some_and(Option::is_some)
    }

    /// Whether all channels have come.
    pub(super) fn are_open(&self) -> bool {
        self.connections.len() == usize::from(self.expected)
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
            let serve = move || {
                if let Ok(connection) = connected.recv()
                    && let Some(received) = serve(receiver(connection), &cpu)
                {
                    done(received);
                }
            };
            let failed = move |reason| lost(Err(reason));
            all.push(threads::new(threads, ThreadRole::Channel, format!("mig-recv-{index}"), serve, failed));
            self.places.push(Some(place));
        }
        self.threads = threads.spawn_all(all)?;
        Ok(())
    }

    /// Makes the receiver of a channel when there is a connection.
    fn receiver(&self, index: u16, counts: &Arc<Counts>) -> impl FnOnce(Arc<Connection>) -> Receiver + use<> {
        let all = counts.clone();
        let (placer, barrier, arrived) = (self.placer.clone(), self.barrier.clone(), self.arrived.clone());
        let (sums, scan) = (self.sums.clone(), self.scan.clone());
        move |connection| Receiver {
            counts: all.channel(index),
            all,
            index,
            connection,
            reader: FrameReader::new(),
            placer,
            barrier,
            arrived,
            sums,
            scan,
        }
    }

    /// Has a channel served that has come, and was [wanted](Self::wants).
    pub(super) fn open(&mut self, index: u16, connection: Arc<Connection>) {
        if let Some(place) = self.places.get_mut(usize::from(index)).and_then(Option::take) {
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
        drop(self.places);
        self.barrier.shatter();
        for connection in &self.connections {
            connection.shutdown();
        }
        for thread in self.threads {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// A channel thread. Returns how it ended, unless it was told to.
fn serve(mut receiver: Receiver, cpu: &CpuTime) -> Option<Result<(), String>> {
    let mut clock = ThreadClock::start();
    let received = receiver.receive_all();
    clock.add_to(cpu);
    match received {
        Ok(()) => Some(Ok(())),
        Err(ReceiveError::Stopped) => None,
        Err(error) => {
            let reason = chain(&error);
            receiver.counts.broke(&reason);
            Some(Err(reason))
        }
    }
}
