//! Measures the way to a destination, with no machine and before there is a migration.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::bounded;
use transport::{Connection, TransportError};
use wire::{Features, Message, Probe, Role};

use super::Target;
use crate::{PlainThreads, ThreadRole, Threads, chain, frames::FrameError, greet, link::Link, threads};

/// How long it may take until there is a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the destination may take to say what it can do.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to say what came, once nothing more is sent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long all of it may take, with the name that has to be found out.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes that are sent at once. They look like noise, so that nothing on the way makes them fewer.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes that wait in the socket at most: what has not gone out when the time is over is in the way of others.
const UNSENT_BYTES: u32 = 256 << 10;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes that one connection takes in a second.
    pub bytes_per_second: u64,
    /// Bytes that were sent for that.
    pub bytes: u64,
    /// Whether they were encrypted.
    pub is_encrypted: bool,
    /// Release of the destination.
    pub release: String,
}

/// Why the way could not be measured. Nothing has become of a machine or of the destination.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// What is there says nothing that makes sense, or is of a release with which there is no migration.
    #[error(
        "What listens there does not speak as a destination: check the address and that both sides have certificates or neither has"
    )]
    Stranger(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It cannot be probed.
    #[error(
        "The destination (release {release}) cannot be probed: upgrade it, or say how many bytes the way takes in a second"
    )]
    Old {
        /// Its release.
        release: String,
    },
    /// It does not want to.
    #[error("The destination does not let itself be probed: {reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// It takes nothing any more, or does not say what came.
    #[error(
        "The destination took {sent} bytes of the probe and did not say what came of them: see whether it and the network are well, or \
         say how many bytes the way takes in a second"
    )]
    Stalled {
        /// Bytes that it, or the network, took.
        sent: u64,
        /// What was waited for.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is nothing to compute a speed from.
    #[error(
        "The probe measured nothing: {came} of {sent} bytes came at the destination. See whether the network is well, or say how many \
         bytes the way takes in a second"
    )]
    Nothing {
        /// Bytes that came.
        came: u64,
        /// Bytes that were sent.
        sent: u64,
    },
    /// It takes longer than it may.
    #[error(
        "There was no answer within {} s: check the name and the address, or say how many bytes the way takes in a second", LIMIT.as_secs()
    )]
    Late,
    /// There is no thread for it.
    #[error("There is no thread to probe with: {0}")]
    Thread(String),
}

/// Finds out how fast the way to `target` is, by bytes without a meaning: at most [`wire::MAX_PROBE_BYTES`] in at most
/// [`wire::MAX_PROBE_TIME`], over one connection. The destination waits for a machine as before. Takes 10 s at most, and a second where all
/// is well.
///
/// # Errors
/// See [`ProbeError`].
pub fn probe(target: &Target) -> Result<Measured, ProbeError> {
    let threads: Arc<dyn Threads> = Arc::new(PlainThreads);
    probe_on(&threads, target)
}

/// Like [`probe`], with a thread of the caller's making.
///
/// # Errors
/// As [`probe`].
pub fn probe_on(threads: &Arc<dyn Threads>, target: &Target) -> Result<Measured, ProbeError> {
    let (tell, told) = bounded(1);
    let (fail, target) = (tell.clone(), target.clone());
    // Who asked may have lost patience.
    let body = move || drop(tell.send(measure(&target)));
    let failed = move |reason| drop(fail.send(Err(ProbeError::Thread(reason))));
    threads::spawn(threads, ThreadRole::Dial, "mig-probe", body, failed)
        .map_err(|error| ProbeError::Thread(error.to_string()))?;
    told.recv_timeout(LIMIT).unwrap_or(Err(ProbeError::Late))
}

fn measure(target: &Target) -> Result<Measured, ProbeError> {
    let connection = Arc::new(target.dial.dial(DIAL_TIMEOUT)?);
    let greeted =
        greet::exchange(&connection, &target.offer, Role::Control, target.session, None, GREETING_TIMEOUT)
            .map_err(|error| ProbeError::Stranger(Box::new(error)))?;
    if !greeted.agreed.features.has(Features::PROBE) {
        return Err(ProbeError::Old { release: greeted.release });
    }
    // Only TCP has such a limit, and a probe is as good without.
    let _ = connection.limit_unsent(UNSENT_BYTES);
    let _ = connection.drop_unsent();
    let mut link = Link::new(connection.clone());
    let measured = converse(&mut link);
    link.close();
    let (bytes_per_second, bytes) = measured?;
    let is_encrypted = connection.security().is_some();
    Ok(Measured { bytes_per_second, bytes, is_encrypted, release: greeted.release })
}

/// Sends what there is to send, and hears what came of it. Returns the speed, and what was sent.
fn converse(link: &mut Link) -> Result<(u64, u64), ProbeError> {
    let connection = link.connection().clone();
    let stalled = |sent, error: FrameError| ProbeError::Stalled { sent, source: Box::new(error) };
    link.send(&Message::Probe(Probe::FULL)).map_err(|error| stalled(0, error))?;
    let (sent, broke) = fill(&connection);
    match link.first_message(Instant::now() + ANSWER_TIMEOUT) {
        Ok(Message::Probed(probed)) => {
            let speed = probed.bytes_per_second(sent);
            let came = probed.whole.bytes;
            speed.map(|speed| (speed, sent)).ok_or(ProbeError::Nothing { came, sent })
        }
        Ok(Message::Refuse(refuse)) => Err(ProbeError::Refused { reason: refuse.reasons.join("; ") }),
        Ok(other) => Err(ProbeError::Stranger(format!("it answered a probe with {}", other.name()).into())),
        Err(error) => Err(stalled(sent, broke.map_or(error, FrameError::Transport))),
    }
}

/// Sends until the probe's bytes or its time are over, or the destination speaks. Returns how many bytes, and why it ended early.
fn fill(connection: &Connection) -> (u64, Option<TransportError>) {
    let (until, noise) = (Instant::now() + Probe::FULL.time(), noise());
    let mut sent = 0;
    while sent < Probe::FULL.bytes() {
        let now = Instant::now();
        if now >= until || connection.wait(Duration::ZERO).unwrap_or(true) {
            break;
        }
        match connection.send_within(&noise, until - now) {
            Ok(()) => sent += noise.len() as u64,
            // Some of it has gone out, it is not known how much.
            Err(TransportError::Slow) => return (sent + noise.len() as u64, None),
            Err(error) => return (sent, Some(error)),
        }
    }
    (sent, None)
}

/// The same each time (a linear congruential generator with Knuth's constants).
fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..PIECE_BYTES).map(|_| next()).collect()
}

impl ProbeError {
    /// It and what caused it, in one line.
    #[must_use]
    pub fn told(&self) -> String {
        chain(self)
    }
}
