//! Greetings: how the two sides of a connection find out what they can say to each other.

use std::time::{Duration, Instant};

use transport::{Connection, PROOF_BYTES, SessionSecret, TransportError};
use wire::{
    Agreed, GREETING_BYTES, Greeted, Greeting, Incompatible, Offer, Role, SessionId, WireError, greeting,
};

/// How long a destination may take to greet, and to take a greeting.
pub(crate) const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why two sides do not come to speak with each other.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error("No greeting")]
    Transport(#[from] TransportError),
    #[error(
        "The other side speaks TLS on this connection, and this side does not: give both certificates, or neither"
    )]
    Tls,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
}

/// First byte of TLS records with an alert and with a message of the handshake (RFC 8446, 5.1), and the one that follows.
const TLS_RECORDS: [u16; 2] = [0x1503, 0x1603];

/// What came with a greeting on an encrypted connection: that its sender knows the secret of the session.
#[derive(Debug)]
pub(crate) struct Proof {
    greeting: [u8; GREETING_BYTES],
    proof: [u8; PROOF_BYTES],
}

/// What a source said at first.
#[derive(Debug)]
pub(crate) struct Welcomed {
    pub(crate) greeting: Greeting,
    pub(crate) agreed: Agreed,
    /// On connections that are not control connections, if they are encrypted.
    pub(crate) proof: Option<Proof>,
    /// Before it was answered.
    pub(crate) answered: Instant,
}

impl Proof {
    /// Whether `connection` belongs to the session whose secret is `secret`; `None` where its control connection is not encrypted.
    pub(crate) fn fits(
        proof: Option<&Self>,
        secret: Option<&SessionSecret>,
        connection: &Connection,
    ) -> bool {
        match (proof, secret) {
            (None, None) => true,
            (Some(Self { greeting, proof }), Some(secret)) => secret.is_proven(connection, greeting, proof),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// A source's greeting on a control connection, or one to ask on, and what the destination answers. `secret` is the one of the session,
/// where its control connection was encrypted. Both may take `patience`.
pub(crate) fn exchange(
    connection: &Connection,
    ours: &Offer,
    role: Role,
    session: SessionId,
    secret: Option<&SessionSecret>,
    patience: Duration,
) -> Result<Greeted, GreetError> {
    // A destination passes over what it does not know. Now and then it has to, so that this stays true.
    let features = ours.features.and_an_unknown_one(session);
    let greeting = Greeting { offer: Offer { features, ..ours.clone() }, role, index: 0, session };
    let deadline = Instant::now() + patience;
    send(connection, &greeting, secret, patience)?;
    let (answer, _) = receive(connection, deadline)?;
    let agreed = ours.with_destination(&answer.offer)?;
    Ok(Greeted { agreed, release: answer.offer.release })
}

/// A source's greeting on a connection for pages, which is not answered: both sides know each other by then.
pub(crate) fn on_channel(
    connection: &Connection,
    agreed: Agreed,
    release: &str,
    role: Role,
    index: u16,
    session: SessionId,
    secret: Option<&SessionSecret>,
) -> Result<(), TransportError> {
    let greeting = Greeting { offer: agreed.offer(release), role, index, session };
    send(connection, &greeting, secret, GREETING_TIMEOUT)
}

/// Sends a greeting, and the proof where one is needed.
fn send(
    connection: &Connection,
    greeting: &Greeting,
    secret: Option<&SessionSecret>,
    patience: Duration,
) -> Result<(), TransportError> {
    let mut bytes = greeting.encode().to_vec();
    if let (Some(secret), false) = (secret, greeting.role == Role::Control) {
        let proof = secret.proof(connection, &bytes)?;
        bytes.extend_from_slice(&proof);
    }
    connection.send_within(&bytes, patience)
}

/// At the destination: finds out who comes, hears what for, and answers, by `deadline`.
pub(crate) fn welcome(
    connection: &Connection,
    ours: &Offer,
    deadline: Instant,
) -> Result<Welcomed, GreetError> {
    connection.authenticate(deadline.saturating_duration_since(Instant::now()))?;
    let (greeting, bytes) = receive(connection, deadline)?;
    let mut proof = None;
    if greeting.role != Role::Control && connection.security().is_some() {
        let proof = proof.insert(Proof { greeting: bytes, proof: [0; PROOF_BYTES] });
        connection.receive_by(&mut proof.proof, deadline)?;
    }
    let answered = Instant::now();
    if matches!(greeting.role, Role::Control | Role::Ask) {
        let answer =
            Greeting { offer: ours.clone(), role: greeting.role, index: 0, session: SessionId::NONE };
        let left = deadline.saturating_duration_since(Instant::now());
        connection.send_within(&answer.encode(), left)?;
    }
    let agreed = ours.with_source(&greeting.offer)?;
    Ok(Welcomed { greeting, agreed, proof, answered })
}

/// A greeting, and its bytes.
fn receive(
    connection: &Connection,
    deadline: Instant,
) -> Result<(Greeting, [u8; GREETING_BYTES]), GreetError> {
    let mut bytes = [0; GREETING_BYTES];
    let (first, rest) = bytes.split_at_mut(2);
    connection.receive_by(first, deadline)?;
    // Who speaks otherwise may not have so much to say.
    if first != &greeting::MAGIC[..2] {
        let found = u16::from_be_bytes([first[0], first[1]]);
        let is_tls = TLS_RECORDS.contains(&found) && connection.security().is_none();
        return Err(if is_tls { GreetError::Tls } else { WireError::NotWhimbrel { found }.into() });
    }
    connection.receive_by(rest, deadline)?;
    Ok((Greeting::decode(&bytes)?, bytes))
}
