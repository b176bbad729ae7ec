//! Accepts connections and finds out what each one is.
//!
//! Anybody can connect: port scanners, peers of other versions, sources while another is being served. Each connection is
//! authenticated, where it is encrypted, and greeted on a thread of its own with a short time limit. Nothing of it is looked into
//! before it is authenticated, and nothing reaches the migration thread before its first frame was read and understood.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender as Queue, bounded};
use transport::{Accept, Connection, TransportError};
use wire::{
    Agreed, Features, Greeted, Greeting, Hello, Message, Offer, Probe, Refuse, Role, SessionId, WireError,
};

use super::{
    backlog::{Backlog, Pending, Slot},
    probed::Probes,
};
use crate::{
    Heard, ThreadRole, Threads, chain,
    frames::FrameError,
    greet::{self, GreetError, Proof, Welcomed},
    link::Link,
    threads,
};

/// How long a connection may take to say who and what it is: the TLS handshake, greetings both ways, and a first message.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a thread that has found out what a connection is waits for another one.
const IDLE: Duration = Duration::from_secs(1);
/// Pause after an error of the listener itself, such as having no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that has said what it is.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A source that wants to migrate.
    Source { link: Link, hello: Box<Hello>, source: Greeted, heard: Heard },
    /// A page channel of a session, or its urgent connection.
    Channel { connection: Arc<Connection>, greeting: Greeting, agreed: Agreed, proof: Option<Proof> },
    /// A source that lost its link and wants to know what became of its session.
    Question { link: Link, session: SessionId, proof: Option<Proof> },
}

/// Hands a connection to the migration thread. The slot is free again when it is dropped.
pub(super) type Deliver = Arc<dyn Fn(Incoming, Slot) + Send + Sync>;

/// What a connection turns out to be.
#[derive(Debug)]
enum Said {
    /// Something of a migration.
    Incoming(Incoming),
    /// No machine comes: the way here is to be measured.
    Probe(Link, Probe),
}

/// What those who greet work with.
pub(super) struct Desk {
    ours: Offer,
    deliver: Deliver,
    backlog: Arc<Backlog>,
    probes: Arc<Probes>,
}

/// Accepts until the listener is stopped.
pub(super) fn accept_all(listener: &dyn Accept, threads: &Arc<dyn Threads>, desk: &Arc<Desk>) {
    let greeters = Greeters { threads, desk, next: bounded(0) };
    loop {
        match listener.accept() {
            Ok(connection) => greeters.greet(connection),
            Err(TransportError::Stopped) => return,
            Err(error) => {
                tracing::warn!("Accepting on {} failed: {}", listener.place(), chain(&error));
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// The threads that find out what connections are: one for each at a time. One that is done with its connection takes the next,
/// as the channels of a source come one after the other, and a thread takes longer to start than to greet.
struct Greeters<'a> {
    threads: &'a Arc<dyn Threads>,
    desk: &'a Arc<Desk>,
    /// Taken only by a thread that waits for it.
    next: (Queue<Pending>, Receiver<Pending>),
}

impl Greeters<'_> {
    fn greet(&self, connection: Connection) {
        let Err(unheard) = self.next.0.try_send(self.desk.backlog.add(connection)) else { return };
        let (desk, next) = (self.desk.clone(), self.next.1.clone());
        let greet = move || {
            let mut pending = unheard.into_inner();
            loop {
                desk.greet(pending);
                match next.recv_timeout(IDLE) {
                    Ok(another) => pending = another,
                    Err(_) => return,
                }
            }
        };
        let failed = |reason| tracing::error!("A connection was closed: {reason}");
        if let Err(error) = threads::spawn(self.threads, ThreadRole::Greet, "mig-greet", greet, failed) {
            tracing::warn!("No thread for a connection: {error}");
        }
    }
}

impl Desk {
    pub(super) fn new(ours: Offer, deliver: Deliver, probes: Arc<Probes>) -> Self {
        Self { ours, deliver, backlog: Arc::default(), probes }
    }

    fn greet(&self, pending: Pending) {
        match identify(pending, &self.ours, Instant::now() + GREETING_TIMEOUT) {
            Ok(Said::Probe(link, probe)) => self.probes.serve(link, probe),
            Ok(Said::Incoming(incoming)) => match self.backlog.slot() {
                Some(slot) => (self.deliver)(incoming, slot),
                None => tracing::warn!("A connection was closed: too many others are waiting"),
            },
            Err(error) => tracing::warn!("A connection was closed: {}", chain(&error)),
        }
    }
}

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
enum GreetingError {
    #[error(transparent)]
    Greet(#[from] GreetError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("A connection for {role:?} of session {session} begins with {message}")]
    Message { role: Role, session: SessionId, message: &'static str },
}

/// Exchanges greetings, and reads the first frame where there is one, all by `deadline`: a peer that sends a byte now and then does
/// not keep a thread.
fn identify(pending: Pending, ours: &Offer, deadline: Instant) -> Result<Said, GreetingError> {
    let connection = pending.connection().clone();
    let welcomed = greet::welcome(&connection, ours, deadline)?;
    let Welcomed { greeting, agreed, proof, answered } = welcomed;
    let said = match greeting.role {
        Role::Pages | Role::Urgent => {
            Said::Incoming(Incoming::Channel { connection: connection.clone(), greeting, agreed, proof })
        }
        Role::Control | Role::Ask => {
            first_message(&connection, greeting, (agreed, proof), answered, deadline)?
        }
    };
    pending.identified()?;
    Ok(said)
}

/// Reads what a source says first, which must be of the session that it greeted with.
fn first_message(
    connection: &Arc<Connection>,
    Greeting { role, session, offer, .. }: Greeting,
    (agreed, proof): (Agreed, Option<Proof>),
    answered: Instant,
    deadline: Instant,
) -> Result<Said, GreetingError> {
    let mut link = Link::new(connection.clone());
    let message = link.first_message(deadline).inspect_err(|error| {
        if let FrameError::Wire(error) = error {
            refuse(&mut link, error);
        }
    })?;
    match (role, message) {
        (Role::Control, Message::Hello(hello)) if hello.session == session => {
            let source = Greeted { agreed, release: offer.release };
            let heard = Heard { after: answered, by: Instant::now() };
            Ok(Said::Incoming(Incoming::Source { link, hello: Box::new(hello), source, heard }))
        }
        (Role::Ask, Message::Ask { session: asked }) if asked == session => {
            Ok(Said::Incoming(Incoming::Question { link, session, proof }))
        }
        (Role::Control, Message::Probe(probe)) if agreed.features.has(Features::PROBE) => {
            Ok(Said::Probe(link, probe))
        }
        (_, message) => Err(GreetingError::Message { role, session, message: message.name() }),
    }
}

/// A source whose first word is not understood is told so: it is of a release that does not keep to what was agreed.
fn refuse(link: &mut Link, error: &WireError) {
    let reasons = vec![format!("The destination does not understand the source's first message: {error}")];
    // A source that does not hear it sees the end of the connection.
    let _ = link.send(&Message::Refuse(Refuse { reasons }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use wire::{FrameHeader, FrameKind};

    use super::*;

    #[test]
    fn who_sends_a_byte_now_and_then_is_not_listened_to_for_ever() {
        let (here, there) = UnixStream::pair().unwrap();
        let here = Connection::from_socket(here).unwrap();
        let there = Connection::from_socket(there).unwrap();
        let greeting =
            Greeting { offer: Offer::of("test"), role: Role::Control, index: 0, session: SessionId([1; 16]) };
        let hello = FrameHeader::encode(FrameKind::Control, 0, &vec![0; 1 << 16]);
        let said = [&greeting.encode()[..], &hello[..]].concat();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Each byte comes soon after the one before.
                let _ = there.send(&said);
                while there.send(&[0]).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let pending = Arc::new(Backlog::default()).add(here);
            let connection = pending.connection().clone();
            let deadline = Instant::now() + Duration::from_millis(300);
            let error = identify(pending, &Offer::of("test"), deadline).unwrap_err();
            assert!(
                matches!(error, GreetingError::Frame(FrameError::Transport(TransportError::Slow))),
                "{error}"
            );
            connection.shutdown();
        });
    }
}
