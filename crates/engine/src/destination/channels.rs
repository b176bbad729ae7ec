//! The page channels of one attempt, and the threads that serve them.

use std::{io, sync::Arc, thread::JoinHandle};

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
    indices: Vec<u16>,
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
            indices: Vec::new(),
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
        index < self.expected && !self.indices.contains(&index)
    }

    /// Whether all channels have come.
    pub(super) fn are_open(&self) -> bool {
        self.indices.len() == usize::from(self.expected)
    }

    pub(super) fn sums(&self) -> Option<&PageSums> {
        self.sums.as_deref()
    }

    /// Serves a channel that has come, on a thread of its own. `done` is called there when its last round is over, or with a
    /// reason when it cannot go on; not if [`Self::close`] ends it.
    pub(super) fn open(
        &mut self,
        threads: &Arc<dyn Threads>,
        index: u16,
        connection: Arc<Connection>,
        counts: Arc<Counts>,
        cpu: Arc<CpuTime>,
        done: impl Fn(Result<(), String>) + Clone + Send + 'static,
    ) -> io::Result<()> {
        let receiver = Receiver {
            counts: counts.channel(index),
            all: counts,
            index,
            connection: connection.clone(),
            reader: FrameReader::new(),
            placer: self.placer.clone(),
            barrier: self.barrier.clone(),
            arrived: self.arrived.clone(),
            sums: self.sums.clone(),
            scan: self.scan.clone(),
        };
        let lost = done.clone();
        let serve = move || {
            if let Some(received) = serve(receiver, &cpu) {
                done(received);
            }
        };
        let failed = move |reason| lost(Err(reason));
        let name = format!("mig-recv-{index}");
        self.threads.push(threads::spawn(threads, ThreadRole::Channel, name, serve, failed)?);
        self.connections.push(connection);
        self.indices.push(index);
        Ok(())
    }

    /// Another channel has come to the end of its last round. Returns what all of them brought if it was the last.
    pub(super) fn done(&mut self) -> Option<PageCounts> {
        self.done += 1;
        (self.done >= self.expected).then(|| self.arrived.pages.get())
    }

    /// Closes all channels and waits for their threads: none writes guest memory afterwards.
    pub(super) fn close(self) {
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
