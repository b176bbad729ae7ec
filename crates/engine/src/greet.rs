//! Greetings: how the two sides of a connection find out what they can say to each other.

use std::time::{Duration, Instant};

use transport::{Connection, TransportError};
use wire::{
    Agreed, GREETING_BYTES, Greeted, Greeting, Incompatible, Offer, Role, SessionId, WireError, greeting,
};

/// How long a destination may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why two sides do not come to speak with each other.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error("No greeting")]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
}

/// A source's greeting on a control connection, or one to ask on, and what the destination answers.
pub(crate) fn exchange(
    connection: &Connection,
    ours: &Offer,
    role: Role,
    session: SessionId,
) -> Result<Greeted, GreetError> {
    // A destination passes over what it does not know. Now and then it has to, so that this stays true.
    let features = ours.features.and_an_unknown_one(session);
    let greeting = Greeting { offer: Offer { features, ..ours.clone() }, role, index: 0, session };
    connection.send_within(&greeting.encode(), GREETING_TIMEOUT)?;
    let answer = receive(connection, Instant::now() + GREETING_TIMEOUT)?;
    let agreed = ours.with_destination(&answer.offer)?;
    Ok(Greeted { agreed, release: answer.offer.release })
}

/// A source's greeting on a page channel, which is not answered: both sides know each other by then.
pub(crate) fn on_channel(
    connection: &Connection,
    agreed: Agreed,
    release: &str,
    index: u16,
    session: SessionId,
) -> Result<(), TransportError> {
    let greeting = Greeting { offer: agreed.offer(release), role: Role::Pages, index, session };
    connection.send_within(&greeting.encode(), GREETING_TIMEOUT)
}

/// At the destination: hears who comes, and answers, by `deadline`.
pub(crate) fn welcome(
    connection: &Connection,
    ours: &Offer,
    deadline: Instant,
) -> Result<(Greeting, Agreed), GreetError> {
    let greeting = receive(connection, deadline)?;
    if greeting.role != Role::Pages {
        let answer =
            Greeting { offer: ours.clone(), role: greeting.role, index: 0, session: SessionId::NONE };
        let left = deadline.saturating_duration_since(Instant::now());
        connection.send_within(&answer.encode(), left)?;
    }
    let agreed = ours.with_source(&greeting.offer)?;
    Ok((greeting, agreed))
}

fn receive(connection: &Connection, deadline: Instant) -> Result<Greeting, GreetError> {
    let mut bytes = [0; GREETING_BYTES];
    let (magic, rest) = bytes.split_at_mut(greeting::MAGIC.len());
    connection.receive_by(magic, deadline)?;
    // Who speaks otherwise may not have so much to say.
    if magic != greeting::MAGIC {
        return Err(WireError::NotWhimbrel { found: u16::from_be_bytes([magic[0], magic[1]]) }.into());
    }
    connection.receive_by(rest, deadline)?;
    Ok(Greeting::decode(&bytes)?)
}
