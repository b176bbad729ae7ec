//! The handshake, with a limit on all of its time.

use std::{io, os::fd::BorrowedFd, time::Instant};

use rustls::{client::UnbufferedClientConnection, server::UnbufferedServerConnection};

use super::{
    Certificate, Side, TlsError,
    config::{OfConnection, TlsDestination, TlsSource},
    exporter::Exporter,
    headers::Headers,
    incoming::Incoming,
    session::{Found, Session},
    stream::{Facts, Stream},
};
use crate::vectored;

/// Types of TLS records: change_cipher_spec to application_data (RFC 8446, 5.1).
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// The record that a side gets which does not speak TLS: a fatal alert, `unexpected_message` (RFC 8446, 6).
const UNEXPECTED: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// At the source: proves who this is, and that the destination is who it should be. The destination may still turn this side away,
/// which is heard when something is received.
pub(crate) fn as_source(fd: BorrowedFd<'_>, tls: &TlsSource, until: Instant) -> Result<Stream, TlsError> {
    let (config, of_connection) = tls.connection()?;
    let connection = UnbufferedClientConnection::new(config, tls.name.clone());
    let connection = connection.map_err(|error| TlsError::of(error, Side::Destination))?;
    let session = Session::of_source(connection);
    shake_hands(fd, session, Side::Destination, &of_connection, until)
}

/// At the destination: finds out who comes.
pub(crate) fn as_destination(
    fd: BorrowedFd<'_>,
    tls: &TlsDestination,
    until: Instant,
) -> Result<Stream, TlsError> {
    let (config, of_connection) = tls.connection(until)?;
    let connection = UnbufferedServerConnection::new(config);
    let connection = connection.map_err(|error| TlsError::of(error, Side::Source))?;
    let session = Session::of_destination(connection);
    shake_hands(fd, session, Side::Source, &of_connection, until)
}

fn shake_hands(
    fd: BorrowedFd<'_>,
    mut session: Session,
    peer: Side,
    of_connection: &OfConnection,
    until: Instant,
) -> Result<Stream, TlsError> {
    let mut incoming = Incoming::new();
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => TlsError::Slow { peer },
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            TlsError::Closed { peer }
        }
        _ => TlsError::Socket(error),
    };
    let mut headers = Headers::default();
    let mut is_first = true;
    loop {
        let (used, found) = session.open(incoming.raw());
        incoming.used(used);
        let sent = vectored::send_all_until(fd, &session.take_queued(), until);
        match found {
            Ok(Found::Over) => {
                sent.map_err(broken)?;
                return established(session, incoming, peer, of_connection);
            }
            Ok(Found::Waits) => sent.map_err(broken)?,
            Ok(Found::End) => return Err(TlsError::Closed { peer }),
            // Whether the other side hears of it or not.
            Err(error) => return Err(of_connection.explain(error, peer)),
        }
        let arrived = incoming.read(fd, Some(until)).map_err(broken)?;
        headers.check(arrived).map_err(TlsError::Socket)?;
        if is_first && incoming.raw().first().is_some_and(|byte| !RECORD_TYPES.contains(byte)) {
            // It may know what that is, or not hear it.
            let _ = vectored::send_all_until(fd, &UNEXPECTED, until);
            return Err(TlsError::Plain { peer });
        }
        is_first = false;
    }
}

fn established(
    session: Session,
    incoming: Incoming,
    peer: Side,
    of_connection: &OfConnection,
) -> Result<Stream, TlsError> {
    let missing = |what: &str| TlsError::Protocol(format!("the handshake is over, and there is no {what}"));
    let suite = session.suite().ok_or_else(|| missing("cipher suite"))?;
    let exporter = Exporter::new(&of_connection.secret, suite).ok_or_else(|| missing("exporter"))?;
    let theirs = session.peer_certificate().ok_or_else(|| missing("certificate of the other side"))?;
    let theirs = Certificate::read(theirs).map_err(|reason| TlsError::Peer { peer, reason })?;
    let ours = of_connection.certificates.get(of_connection.shown.chosen()).cloned();
    let ours = ours.ok_or_else(|| missing("certificate of this side"))?;
    let cipher = suite.as_str().map_or("unknown", |name| strip(name));
    let agreed = session.finish().map_err(|error| TlsError::of(error, peer))?;
    let facts = Facts { cipher, ours, theirs, peer };
    Stream::new(agreed, of_connection.rekey_after, incoming, exporter, facts).map_err(TlsError::NoMemory)
}

/// rustls calls suites of TLS 1.3 `TLS13_…`, the IANA registry `TLS_…`.
fn strip(name: &'static str) -> &'static str {
    match name {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        other => other,
    }
}

impl OfConnection {
    fn explain(&self, error: rustls::Error, peer: Side) -> TlsError {
        let turned_away = self.turned_away.as_ref().and_then(|turned_away| turned_away.lock().take());
        match turned_away {
            Some(certificate) => TlsError::Peer {
                peer,
                reason: format!(
                    "it is valid, but {certificate} is not in the list of sources that may come. Add one of these names there"
                ),
            },
            None => TlsError::of(error, peer),
        }
    }
}
