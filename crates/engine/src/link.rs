//! The control connection, on either side: messages out, messages in on a thread of their own, and what closing it means.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use transport::Connection;
use wire::Message;

use crate::{
    ThreadRole, Threads, chain,
    frames::{FrameError, FrameReader},
    threads,
};

/// How long a message may take to go out. The migration thread waits for it, and the machine may be stopped.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that are read ahead of what was dealt with: a peer that talks faster than it is listened to has to wait, and
/// cannot fill this process's memory.
const READ_AHEAD: usize = 16;

/// A control connection.
#[derive(Debug)]
pub(crate) struct Link {
    connection: Arc<Connection>,
    /// Of the next message that is sent.
    sequence: u32,
    incoming: Incoming,
}

/// Where messages go that come in.
#[derive(Debug)]
enum Incoming {
    /// Nobody reads yet, but for a first message.
    Unread(FrameReader),
    /// A thread reads them.
    Read { permits: Permits, thread: JoinHandle<()> },
    /// That thread could not be started.
    Broken,
}

/// Permission to read ahead. The reader waits while all of it is used up, and ends when this is dropped.
#[derive(Debug)]
struct Permits(Receiver<()>);

impl Link {
    /// A connection that is not read from yet.
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, sequence: 0, incoming: Incoming::Unread(FrameReader::new()) }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits until `deadline` for a first message, before [`Self::read`].
    pub(crate) fn first_message(&mut self, deadline: Instant) -> Result<Message, FrameError> {
        match &mut self.incoming {
            Incoming::Unread(reader) => reader.read_message_by(&self.connection, deadline),
            Incoming::Read { .. } | Incoming::Broken => Err(transport::TransportError::Stopped.into()),
        }
    }

    /// Starts the thread that reads. It hands `hear` each message, and at last why there are no more; it ends as well when
    /// `hear` returns that nobody listens. A thread that cannot be started is heard as the end of the messages.
    pub(crate) fn read(
        &mut self,
        threads: &Arc<dyn Threads>,
        hear: impl Fn(Result<Message, String>) -> bool + Clone + Send + 'static,
    ) {
        let incoming = std::mem::replace(&mut self.incoming, Incoming::Broken);
        let Incoming::Unread(mut reader) = incoming else {
            self.incoming = incoming;
            return;
        };
        let (taken, permits) = bounded(READ_AHEAD);
        let (connection, tell) = (self.connection.clone(), hear.clone());
        let body = move || read_all(&taken, &mut reader, &connection, &tell);
        let told = hear.clone();
        let failed = move |reason| {
            told(Err(reason));
        };
        match threads::spawn(threads, ThreadRole::Control, "mig-control", body, failed) {
            Ok(thread) => self.incoming = Incoming::Read { permits: Permits(permits), thread },
            Err(error) => {
                hear(Err(format!("No thread to read with: {error}")));
            }
        }
    }

    /// A message was dealt with: one more may be read.
    pub(crate) fn dealt_with_one(&self) {
        if let Incoming::Read { permits, .. } = &self.incoming {
            // Empty only if the message was read on another connection.
            let _ = permits.0.try_recv();
        }
    }

    pub(crate) fn send(&mut self, message: &Message) -> Result<(), FrameError> {
        let frame = message.encode(self.sequence)?;
        // Who parts does not wait: the end of the connection says the same.
        let is_farewell = matches!(message, Message::Abort { .. } | Message::Bye);
        self.connection.send_within(&frame, if is_farewell { Duration::ZERO } else { SEND_TIMEOUT })?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    /// Ends the connection for both sides, and waits for the thread that reads it.
    pub(crate) fn close(self) {
        self.connection.shutdown();
        if let Incoming::Read { permits, thread } = self.incoming {
            drop(permits);
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// Reads messages until the connection ends, nobody listens, or the permits are gone.
fn read_all(
    taken: &Sender<()>,
    reader: &mut FrameReader,
    connection: &Connection,
    hear: &impl Fn(Result<Message, String>) -> bool,
) {
    while taken.send(()).is_ok() {
        let heard = reader.read_message(connection).map_err(|error| chain(&error));
        let over = heard.is_err();
        if !hear(heard) || over {
            return;
        }
    }
}
