//! The door: accepts connections and finds out what each one is.
//!
//! Anybody can knock: port scanners, peers of other versions, sources while another is being served. Each knock is looked
//! at in a thread of its own with a short time limit, and nothing of it reaches the migration thread before its first frame was
//! read and understood.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use transport::{Connection, Listener, TransportError};
use wire::{ChannelHello, FrameKind, Hello, Message, SessionId, WireError};

use crate::{
    ThreadRole, Threads,
    frames::{FrameError, FrameReader},
    threads,
};

/// How long a connection may take to say what it is.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that may be introducing themselves at once; more are closed. A source opens up to 64 channels, faster than a
/// busy host accepts them; this leaves room for as many strangers.
const MAX_INTRODUCTIONS: usize = 128;
/// Pause after an error of the listener itself, such as having no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Somebody who introduced himself.
#[derive(Debug)]
pub(super) enum Visitor {
    /// A source that wants to migrate.
    Source { connection: Arc<Connection>, reader: FrameReader, hello: Box<Hello> },
    /// A page channel of a session.
    Channel { connection: Arc<Connection>, reader: FrameReader, hello: ChannelHello },
    /// A source that lost its link and wants to know what became of its session.
    Asker { connection: Arc<Connection>, reader: FrameReader, session: SessionId },
}

/// Accepts until the listener is stopped.
pub(super) fn keep(
    listener: &Listener,
    threads: &Arc<dyn Threads>,
    admit: &Arc<dyn Fn(Visitor) + Send + Sync>,
) {
    let introducing = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept() {
            Ok(connection) => introduce(connection, threads, admit.clone(), &introducing),
            Err(TransportError::Stopped) => return,
            Err(error) => {
                tracing::warn!("Accepting on {} failed: {error}", listener.address());
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn introduce(
    connection: Connection,
    threads: &Arc<dyn Threads>,
    admit: Arc<dyn Fn(Visitor) + Send + Sync>,
    introducing: &Arc<AtomicUsize>,
) {
    if introducing.fetch_add(1, Ordering::Relaxed) >= MAX_INTRODUCTIONS {
        introducing.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!("Too many connections that do not say what they are: one was closed");
        return;
    }
    let place = Place(introducing.clone());
    let meet = move || {
        let _place = place;
        match meet(connection) {
            Ok(visitor) => admit(visitor),
            Err(error) => tracing::warn!("A connection was closed: {error}"),
        }
    };
    let failed = |reason| tracing::error!("A connection was closed: {reason}");
    if let Err(error) = threads::spawn(threads, ThreadRole::Door, "mig-door", meet, failed) {
        tracing::warn!("No thread for a connection: {error}");
    }
}

/// A place at the door. It is free again when this goes, however the introduction ends.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads the first frame.
fn meet(connection: Connection) -> Result<Visitor, FrameError> {
    connection.set_receive_timeout(Some(INTRODUCTION_TIMEOUT))?;
    let mut reader = FrameReader::new();
    let first = match reader.read(&connection)? {
        (FrameKind::ChannelHello, body) => Ok(ChannelHello::decode(body)?),
        (FrameKind::Control, body) => Err(Message::decode(body)?),
        (other, _) => return Err(WireError::Kind { found: other as u8 }.into()),
    };
    connection.set_receive_timeout(None)?;
    let connection = Arc::new(connection);
    match first {
        Ok(hello) => Ok(Visitor::Channel { connection, reader, hello }),
        Err(Message::Hello(hello)) => Ok(Visitor::Source { connection, reader, hello: Box::new(hello) }),
        Err(Message::Ask { session }) => Ok(Visitor::Asker { connection, reader, session }),
        Err(other) => {
            Err(WireError::Malformed(format!("a connection that begins with {}", other.name())).into())
        }
    }
}
