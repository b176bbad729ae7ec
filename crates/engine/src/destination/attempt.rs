//! What belongs to one attempt: its connections and the threads that serve them.

use std::{sync::Arc, thread::JoinHandle};

use crossbeam_channel::Sender as Queue;
use ram::{PageSums, Placer};
use transport::Connection;
use wire::Hello;

use super::{
    Input,
    barrier::Barrier,
    receiver::{Arrived, ReceiveError, Receiver},
    scan::Scan,
};
use crate::{
    chain,
    cpu_time::{CpuTime, ThreadClock},
    frames::{FrameReader, MessageSender, ReadAhead},
};

/// The control connection of the source that is being served.
pub(super) struct Link {
    pub(super) connection: Arc<Connection>,
    pub(super) sender: MessageSender,
    pub(super) reader: Option<FrameReader>,
    pub(super) ahead: Option<ReadAhead>,
    pub(super) thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A connection that is not read from yet.
    pub(super) fn new(connection: Arc<Connection>, reader: FrameReader) -> Self {
        Self { connection, sender: MessageSender::new(), reader: Some(reader), ahead: None, thread: None }
    }
}

/// The page channels of an attempt.
pub(super) struct Attempt {
    pub(super) hello: Box<Hello>,
    pub(super) expected: u16,
    pub(super) connections: Vec<Arc<Connection>>,
    pub(super) indices: Vec<u16>,
    pub(super) done: u16,
    pub(super) placer: Arc<Placer>,
    /// Kept where there is a digest.
    pub(super) sums: Option<Arc<PageSums>>,
    /// Shared out where all memory is compared.
    pub(super) scan: Option<Arc<Scan>>,
    pub(super) barrier: Arc<Barrier>,
    pub(super) arrived: Arc<Arrived>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

/// A channel thread.
pub(super) fn serve(mut receiver: Receiver, number: u32, queue: &Queue<Input>, cpu: &CpuTime) {
    let mut clock = ThreadClock::start();
    let received = receiver.receive_all();
    clock.add_to(cpu);
    if let Err(error) = &received
        && !matches!(error, ReceiveError::Stopped)
    {
        receiver.counts.broke(&chain(error));
    }
    let done = match received {
        Ok(()) => Ok(()),
        Err(ReceiveError::Stopped) => return,
        Err(error) => Err(chain(&error)),
    };
    // Nobody is at home when the destination is done.
    let _ = queue.send(Input::ChannelDone(number, done));
}
