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
        Ok(probed.map_or_else(
            || refuse("a machine comes there now: try again when that is over"),
            Message::Probed,
        ))
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
        let late =
            Came { bytes: whole.bytes - half.bytes, nanoseconds: whole.nanoseconds - half.nanoseconds };
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Arc<Connection>, Connection) {
        let (here, there) = UnixStream::pair().unwrap();
        (Arc::new(Connection::from_socket(here).unwrap()), Connection::from_socket(there).unwrap())
    }

    fn probe(bytes: u64) -> Probe {
        Probe { bytes, ..Probe::FULL }
    }

    #[test]
    fn what_comes_is_counted_whole_and_from_its_half_on() {
        let (here, there) = pair();
        let sent = std::thread::spawn(move || there.send(&[7; 1 << 20]));
        let answer = Probes::default().answer(&here, probe(1 << 20)).unwrap();
        sent.join().unwrap().unwrap();
        let Message::Probed(probed) = answer else { panic!("{answer:?}") };
        assert_eq!(probed.whole.bytes, 1 << 20);
        assert!(probed.late.bytes <= 1 << 19 && probed.late.nanoseconds <= probed.whole.nanoseconds);
        assert!(probed.bytes_per_second(1 << 20).is_some());
    }

    #[test]
    fn a_source_that_sends_nothing_is_not_waited_for_longer_than_a_probe_takes() {
        let (here, _there) = pair();
        let short = Probe { milliseconds: 30, ..Probe::FULL };
        let answer = Probes::default().answer(&here, short).unwrap();
        let Message::Probed(probed) = answer else { panic!("{answer:?}") };
        assert_eq!((probed.whole.bytes, probed.bytes_per_second(1)), (0, None));
    }

    #[test]
    fn nothing_is_measured_while_a_machine_comes_or_another_source_measures() {
        let (here, _there) = pair();
        let probes = Probes::default();
        let turn = Turn::take(&probes.is_one).unwrap();
        let refused = |probes: &Probes| {
            let answer = probes.answer(&here, Probe::FULL).unwrap();
            let Message::Refuse(Refuse { reasons }) = answer else { panic!("{answer:?}") };
            reasons.concat()
        };
        assert!(refused(&probes).contains("another source"));
        drop(turn);
        probes.busy(true);
        assert!(refused(&probes).contains("a machine comes"));
        probes.busy(false);
        assert!(!probes.is_one.load(Ordering::Relaxed));
    }

    #[test]
    fn who_hangs_up_is_not_answered() {
        let (here, there) = pair();
        drop(there);
        assert!(matches!(Probes::default().answer(&here, Probe::FULL), Err(TransportError::Closed)));
    }
}
