//! Counts what comes of a probe, for a source that wants to know how fast the way here is.
//!
//! It is done where connections are greeted, and nothing of it reaches the migration thread: a machine that comes does not notice it,
//! but for some hundredths of a second in which the network has both.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use transport::{Connection, TransportError};
use wire::{Came, Message, Probe, Probed, Refuse};

use crate::{chain, link::Link};

/// What comes is counted so often.
const SLICE: Duration = Duration::from_millis(10);
/// How long what still comes is taken in, once it has been answered: what nobody has read when a connection ends takes the answer with it.
const LINGER: Duration = Duration::from_secs(1);

/// What all probes of a destination share.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// There is one under way.
    is_one: AtomicBool,
    /// A machine comes.
    is_busy: AtomicBool,
}

/// The right to measure, of which there is one.
struct Turn<'a>(&'a AtomicBool);

impl Probes {
    /// Whether a machine comes: then nothing is measured, and what is being measured ends.
    pub(super) fn busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::Relaxed);
    }

    /// Serves a source that has asked for `probe`, and ends its connection. Takes some seconds at most.
    pub(super) fn serve(&self, mut link: Link, probe: Probe) {
        let connection = link.connection().clone();
        match self.answer(&connection, probe) {
            Ok(answer) => {
                // A source that does not hear it gives up by itself.
                if link.send(&answer).is_ok() {
                    linger(&connection);
                }
            }
            Err(error) => tracing::warn!("A probe came to nothing: {}", chain(&error)),
        }
        link.close();
    }

    fn answer(&self, connection: &Arc<Connection>, probe: Probe) -> Result<Message, TransportError> {
        let Some(_turn) = Turn::take(&self.is_one) else {
            return Ok(refuse("another source is measuring the way there, which takes a second: try again"));
        };
        let probed = self.count(connection, probe)?;
        Ok(probed.map_or_else(|| refuse("a machine comes there now: try again when that is over"), Message::Probed))
    }

    /// What comes; `None` if a machine does.
    fn count(&self, connection: &Connection, probe: Probe) -> Result<Option<Probed>, TransportError> {
        let (began, most, time) = (Instant::now(), probe.bytes(), probe.time());
        let since = |bytes| Came { bytes, nanoseconds: began.elapsed().as_nanos() as u64 };
        let (mut whole, mut half) = (Came::default(), None);
        while whole.bytes < most && began.elapsed() < time {
            if self.is_busy.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let until = (Instant::now() + SLICE).min(began + time);
            whole = since(whole.bytes + connection.forget_until(most - whole.bytes, until)?);
            if half.is_none() && (whole.bytes >= most / 2 || began.elapsed() >= time / 2) {
                half = Some(whole);
            }
        }
        let half = half.unwrap_or(whole);
        let late = Came {
            bytes: whole.bytes - half.bytes,
            nanoseconds: whole.nanoseconds - half.nanoseconds,
        };
        tracing::info!("The way here was measured: {} bytes in {:?}", whole.bytes, began.elapsed());
        Ok(Some(Probed { whole, late }))
    }
}

fn refuse(reason: &str) -> Message {
    Message::Refuse(Refuse { reasons: vec![reason.into()] })
}

/// Takes in what still comes until the source ends the connection, or has had its time.
fn linger(connection: &Connection) {
    let until = Instant::now() + LINGER;
    while Instant::now() < until && connection.forget_until(u64::MAX, until).is_ok() {}
}

impl<'a> Turn<'a> {
    fn take(is_one: &'a AtomicBool) -> Option<Self> {
        (!is_one.swap(true, Ordering::Relaxed)).then_some(Self(is_one))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
