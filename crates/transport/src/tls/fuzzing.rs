//! What TLS makes of bytes from the network, for fuzzing: the handshake with a stranger, and records and messages after it. What
//! must hold is asserted by who calls this.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustls::{ConnectionTrafficSecrets, Error, crypto::cipher::AeadKey};

use super::{
    Side, Tls, TlsError,
    config::{TlsDestination, TlsSource},
    handshake,
    incoming::Incoming,
    messages::{self, Message},
    records::{HEADER_BYTES, Keys, Kind},
};
use crate::Address;

/// For a handshake with someone who has said everything already.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes with their kind and padding that the length in a header can be of: all of them but those of the tag.
const MOST_INNER: usize = 0xffff - 16;

/// Both sides of handshakes.
#[derive(Debug)]
pub struct Handshakes {
    source: TlsSource,
    destination: TlsDestination,
}

/// What came of a handshake with a stranger.
#[derive(Debug)]
pub struct Met {
    /// What was sent to the stranger.
    pub answer: Vec<u8>,
    /// Why it was turned away; `None` if it was not.
    pub error: Option<TlsError>,
}

/// What arrives after a handshake.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'b> {
    /// A record that the other side has sealed: its content, with its kind and so many zeros behind that.
    Sealed(&'b [u8], usize),
    /// Whatever somebody else sends.
    Forged(&'b [u8]),
}

/// What was received until the connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What was handed over.
    pub bytes: Vec<u8>,
    /// What ended it; `None` where no more arrived.
    pub end: Option<Result<&'static str, String>>,
}

impl Handshakes {
    /// With the certificates for both sides in `directory`, which has to stay there.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn new(directory: &Path) -> Result<Self, TlsError> {
        let mut tls = Tls::new(directory);
        tls.authz = Some("*".parse()?);
        let address = Address::Tcp { host: "127.0.0.1".into(), port: 1 };
        Ok(Self { source: TlsSource::load(&tls, &address)?, destination: TlsDestination::load(&tls)? })
    }

    /// A stranger says `bytes` to `side`, and nothing more.
    ///
    /// # Errors
    /// There are no sockets.
    pub fn meet(&self, side: Side, bytes: &[u8]) -> io::Result<Met> {
        let (here, mut stranger) = UnixStream::pair()?;
        stranger.write_all(bytes)?;
        stranger.shutdown(Shutdown::Write)?;
        let until = Instant::now() + PATIENCE;
        let stream = match side {
            Side::Source => handshake::as_source(here.as_fd(), &self.source, until),
            Side::Destination => handshake::as_destination(here.as_fd(), &self.destination, until),
        };
        let error = stream.err();
        here.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        stranger.read_to_end(&mut answer)?;
        Ok(Met { answer, error })
    }
}

/// Receives what arrives, in pieces of `piece` bytes, or 256 at most.
///
/// # Errors
/// There are no sockets, or a record cannot be sealed.
pub fn receive(arrivals: &[Arrival<'_>], piece: usize) -> Result<Received, TlsError> {
    let protocol = |error: Error| TlsError::Protocol(error.to_string());
    let (mut theirs, mut ours) = (keys().map_err(protocol)?, keys().map_err(protocol)?);
    let mut wire = Vec::new();
    for arrival in arrivals {
        match arrival {
            Arrival::Forged(bytes) => wire.extend(*bytes),
            Arrival::Sealed(content, zeros) => {
                let inner = (content.len() + zeros).min(MOST_INNER);
                let mut record = vec![0; HEADER_BYTES + inner + 16];
                let content = &content[..content.len().min(inner)];
                record[HEADER_BYTES..HEADER_BYTES + content.len()].copy_from_slice(content);
                theirs.seal_inner(&mut record, inner).map_err(protocol)?;
                wire.extend(record);
            }
        }
    }
    // Not in so many that all of the time goes there.
    take_in(&wire, piece.max(1 + wire.len() / 256), &mut ours).map_err(TlsError::Socket)
}

fn take_in(wire: &[u8], piece: usize, keys: &mut Keys) -> io::Result<Received> {
    let (here, mut there) = UnixStream::pair()?;
    let (mut incoming, mut bytes) = (Incoming::new(), Vec::new());
    for piece in wire.chunks(piece.min(64 << 10)) {
        there.write_all(piece)?;
        incoming.read(here.as_fd(), None)?;
        let end = loop {
            match incoming.open(keys, Side::Destination) {
                Ok(Some(Message::Bytes)) => {
                    incoming.give(usize::MAX, &mut |part| bytes.extend(part));
                }
                Ok(Some(Message::Nothing)) => {}
                Ok(Some(Message::End)) => break Some(Ok("farewell")),
                Ok(Some(Message::KeysAreRenewed { .. })) => break Some(Ok("other keys")),
                Ok(None) => break None,
                Err(error) => break Some(Err(error.to_string())),
            }
        };
        if end.is_some() {
            return Ok(Received { bytes, end });
        }
    }
    Ok(Received { bytes, end: None })
}

fn keys() -> Result<Keys, Error> {
    let key = AeadKey::from([7; 32]);
    Keys::new((0, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv: [9; 12].into() }))
}

/// What `from` says with `content` of that kind, in words, and the alert that it is answered with.
pub fn message(kind: u8, content: &[u8], from: Side) -> (Result<String, String>, Option<[u8; 2]>) {
    let kind = match kind % 3 {
        0 => Kind::Alert,
        1 => Kind::Handshake,
        _ => Kind::Data,
    };
    match Message::read(kind, content, from) {
        Ok(message) => (Ok(format!("{message:?}")), None),
        Err(error) => {
            let alert = messages::alert(&error);
            (Err(error.to_string()), alert)
        }
    }
}
