//! The door: accepts connections and finds out what each one is.
//!
//! Anybody can knock: port scanners, peers of other versions, sources while another is being served. Each knock is looked
//! at in a thread of its own with a short time limit, and nothing of it reaches the migration thread before its first frame was
//! read and understood.

use std::{sync::Arc, time::Duration};

use transport::{Connection, Listener, TransportError};
use wire::{ChannelHello, FrameKind, Hello, Message, SessionId, WireError};

use super::lobby::{Lobby, Place, Seat};
use crate::{
    ThreadRole, Threads, chain,
    frames::{FrameError, FrameReader},
    threads,
};

/// How long a connection may take to say what it is.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(5);
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

/// Takes in who introduced himself. The seat is free again when it is dropped.
pub(super) type Admit = Arc<dyn Fn(Visitor, Seat) + Send + Sync>;

/// Accepts until the listener is stopped.
pub(super) fn keep(listener: &Listener, threads: &Arc<dyn Threads>, admit: &Admit) {
    let lobby = Arc::new(Lobby::default());
    loop {
        match listener.accept() {
            Ok(connection) => introduce(connection, threads, admit.clone(), &lobby),
            Err(TransportError::Stopped) => return,
            Err(error) => {
                tracing::warn!("Accepting on {} failed: {error}", listener.address());
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn introduce(connection: Connection, threads: &Arc<dyn Threads>, admit: Admit, lobby: &Arc<Lobby>) {
    let place = lobby.enter(connection);
    let theirs = lobby.clone();
    let meet = move || match meet(place) {
        Ok(visitor) => match theirs.seat() {
            Some(seat) => admit(visitor, seat),
            None => tracing::warn!("A connection was closed: too many others are waiting"),
        },
        Err(error) => tracing::warn!("A connection was closed: {}", chain(&error)),
    };
    let failed = |reason| tracing::error!("A connection was closed: {reason}");
    if let Err(error) = threads::spawn(threads, ThreadRole::Door, "mig-door", meet, failed) {
        tracing::warn!("No thread for a connection: {error}");
    }
}

/// Reads the first frame.
fn meet(place: Place) -> Result<Visitor, FrameError> {
    let connection = place.connection().clone();
    connection.set_receive_timeout(Some(INTRODUCTION_TIMEOUT))?;
    let mut reader = FrameReader::new();
    let first = match reader.read(&connection)? {
        (FrameKind::ChannelHello, body) => Ok(ChannelHello::decode(body)?),
        (FrameKind::Control, body) => Err(Message::decode(body)?),
        (other, _) => return Err(WireError::Kind { found: other as u8 }.into()),
    };
    connection.set_receive_timeout(None)?;
    place.leave()?;
    match first {
        Ok(hello) => Ok(Visitor::Channel { connection, reader, hello }),
        Err(Message::Hello(hello)) => Ok(Visitor::Source { connection, reader, hello: Box::new(hello) }),
        Err(Message::Ask { session }) => Ok(Visitor::Asker { connection, reader, session }),
        Err(other) => {
            Err(WireError::Malformed(format!("a connection that begins with {}", other.name())).into())
        }
    }
}
