use std::{
    collections::VecDeque,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::events::Listener;

/// Bytes that may wait for a client. With more, an event drops it: at some 100 bytes an event that is 10 000 of them.
const MAX_BYTES: usize = 1 << 20;
/// With this many bytes waiting, a client's commands wait too.
const CONGESTED_BYTES: usize = 64 << 10;

/// What waits to be sent to one client: replies from its own thread, events from any.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Arc<[u8]>>,
    /// Bytes of the first line that are sent already.
    sent: usize,
    /// Bytes of all lines that are not sent yet.
    bytes: usize,
    /// Whether the client gets events: only after its handshake.
    events: bool,
    overflowed: bool,
    ending: bool,
    /// The client is gone.
    closed: bool,
}

/// What a client's thread must know before it waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    /// Something waits to be sent.
    pub(super) pending: bool,
    /// So much waits that no further command is to be read.
    pub(super) congested: bool,
    /// An event did not fit.
    pub(super) overflowed: bool,
    /// The server shuts down.
    pub(super) ending: bool,
}

impl Outbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { queue: Mutex::default(), wake: Wake::new()? })
    }

    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Queues a reply, whatever waits already: the client's thread stops reading commands while the outbox is congested.
    pub(super) fn reply(&self, line: Vec<u8>) {
        self.queue.lock().push(line.into());
    }

    /// From now on the client gets events.
    pub(super) fn enable_events(&self) {
        self.queue.lock().events = true;
    }

    /// The server shuts down: the client's thread sends what waits, and ends.
    pub(super) fn end(&self) {
        self.queue.lock().ending = true;
        self.wake.wake();
    }

    /// The client is gone: what waits is forgotten, and nothing more is taken.
    pub(super) fn close(&self) {
        *self.queue.lock() = Queue { closed: true, ..Queue::default() };
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }

    pub(super) fn condition(&self) -> Condition {
        let queue = self.queue.lock();
        Condition {
            pending: queue.bytes > 0,
            congested: queue.bytes > CONGESTED_BYTES,
            overflowed: queue.overflowed,
            ending: queue.ending,
        }
    }

    /// Sends what waits until the socket takes no more.
    pub(super) fn send(&self, mut socket: impl Write) -> io::Result<()> {
        loop {
            // The lock is not held while the kernel copies, so that an event never waits for it.
            let (line, sent) = {
                let queue = self.queue.lock();
                let Some(line) = queue.lines.front() else { return Ok(()) };
                (Arc::clone(line), queue.sent)
            };
            match socket.write(&line[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.queue.lock().advance(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Queue {
    fn push(&mut self, line: Arc<[u8]>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        self.bytes -= count;
        if self.lines.front().is_some_and(|line| line.len() == self.sent) {
            self.lines.pop_front();
            self.sent = 0;
        }
    }
}

impl Listener for Outbox {
    fn event(&self, line: &Arc<[u8]>) {
        {
            let mut queue = self.queue.lock();
            if !queue.events || queue.overflowed {
                return;
            }
            if queue.bytes + line.len() > MAX_BYTES {
                queue.overflowed = true;
            } else {
                queue.push(Arc::clone(line));
            }
        }
        self.wake.wake();
    }
}

/// Ends a wait in poll from another thread.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    pub(super) fn wake(&self) {
        // Fails only when the counter is full, and then the waiter wakes anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forgets the calls of [`wake`](Self::wake) so far.
    pub(super) fn clear(&self) {
        // Fails only when there were none.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
