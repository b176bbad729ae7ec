//! The handshake of one connection, of either side, as a machine that records go into and come out of. It does no I/O.

use rustls::{
    Error, PeerMisbehaved,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};

use super::{
    records::{HEADER_BYTES, Keys},
    secrets::{self, Secrets},
};

/// What a handshake leaves.
pub(super) struct Agreed {
    pub(super) to_send_with: Keys,
    pub(super) to_receive_with: Keys,
    pub(super) secrets: Secrets,
}

/// Room for a first try to encode a record.
const FIRST_ROOM: usize = 256;

/// The handshake of either side.
pub(super) struct Session {
    rustls: Rustls,
    /// Records that rustls wants sent, in their order.
    queued: Vec<u8>,
}

enum Rustls {
    Source(Box<UnbufferedClientConnection>),
    Destination(Box<UnbufferedServerConnection>),
}

/// What came of a look at what has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The handshake is over. Nothing behind it was looked at.
    Over,
    /// The handshake is under way, and there is no whole record.
    Waits,
    /// The other side has said that nothing follows.
    End,
}

/// What one step came to.
enum Step {
    Done(Found),
    Again,
}

impl Session {
    pub(super) fn of_source(connection: UnbufferedClientConnection) -> Self {
        Self::new(Rustls::Source(Box::new(connection)))
    }

    pub(super) fn of_destination(connection: UnbufferedServerConnection) -> Self {
        Self::new(Rustls::Destination(Box::new(connection)))
    }

    fn new(rustls: Rustls) -> Self {
        Self { rustls, queued: Vec::new() }
    }

    /// Deals with the records of the handshake in `arrived`. Returns how much of `arrived` is used up. What is not used up is at the
    /// front when this is called next.
    ///
    /// # Errors
    /// There is no handshake. What there is to say of it is [queued](Self::take_queued).
    pub(super) fn open(&mut self, arrived: &mut [u8]) -> (usize, Result<Found, Error>) {
        // Record by record: what is behind the handshake is not rustls's.
        let (mut used, mut given) = (0, 0);
        loop {
            let (step_used, step) = self.step(&mut arrived[used..given]);
            used += step_used;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Done(Found::Waits)) if given < arrived.len() => {
                    // A part of one too: it may be seen from it that it is none.
                    given = end_of_record(arrived, given).unwrap_or(arrived.len());
                }
                Ok(Step::Done(Found::Over)) if used < given => {
                    // The beginning of another message, in the record that ended the handshake.
                    let error = PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into();
                    return (used, Err(self.end(error)));
                }
                Ok(Step::Done(found)) => return (used, Ok(found)),
                Err(error) => return (used, Err(self.end(error))),
            }
        }
    }

    fn step(&mut self, arrived: &mut [u8]) -> (usize, Result<Step, Error>) {
        match &mut self.rustls {
            Rustls::Source(connection) => step(connection.process_tls_records(arrived), &mut self.queued),
            Rustls::Destination(connection) => {
                step(connection.process_tls_records(arrived), &mut self.queued)
            }
        }
    }

    /// There is no handshake: what rustls has to say of it (an alert) is queued.
    fn end(&mut self, error: Error) -> Error {
        // Only as long as there is something: the next step would look into a buffer that is not here.
        while self.has_records_to_send() {
            if !matches!(self.step(&mut []), (_, Ok(Step::Again))) {
                break;
            }
        }
        error
    }

    fn has_records_to_send(&self) -> bool {
        match &self.rustls {
            Rustls::Source(connection) => connection.wants_write(),
            Rustls::Destination(connection) => connection.wants_write(),
        }
    }

    /// Records to send before any other.
    pub(super) fn take_queued(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.queued)
    }

    /// After the handshake, when there is no record left to send.
    pub(super) fn finish(self) -> Result<Agreed, Error> {
        let (keys, rustls) = match self.rustls {
            Rustls::Source(connection) => {
                let (keys, connection) = connection.dangerous_into_kernel_connection()?;
                (keys, secrets::Rustls::Source(connection))
            }
            Rustls::Destination(connection) => {
                let (keys, connection) = connection.dangerous_into_kernel_connection()?;
                (keys, secrets::Rustls::Destination(connection))
            }
        };
        Ok(Agreed {
            to_send_with: Keys::new(keys.tx)?,
            to_receive_with: Keys::new(keys.rx)?,
            secrets: Secrets::new(rustls),
        })
    }

    pub(super) fn suite(&self) -> Option<rustls::CipherSuite> {
        let suite = match &self.rustls {
            Rustls::Source(connection) => connection.negotiated_cipher_suite(),
            Rustls::Destination(connection) => connection.negotiated_cipher_suite(),
        };
        suite.map(|suite| suite.suite())
    }

    /// The certificate that the other side showed, in DER.
    pub(super) fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = match &self.rustls {
            Rustls::Source(connection) => connection.peer_certificates(),
            Rustls::Destination(connection) => connection.peer_certificates(),
        };
        chain.and_then(|chain| chain.first()).map(AsRef::as_ref)
    }
}

/// Where the record ends that begins at `begin`, if it is whole.
fn end_of_record(arrived: &[u8], begin: usize) -> Option<usize> {
    let header = arrived[begin..].first_chunk::<HEADER_BYTES>()?;
    let end = begin + HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (end <= arrived.len()).then_some(end)
}

fn step<Data>(status: UnbufferedStatus<'_, '_, Data>, queued: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, queued).map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // It is queued, and goes out before anything else.
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Done(Found::Waits)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done(Found::Over)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Done(Found::End)),
        Ok(_) => Err(Error::General("a state that is not used here".into())),
    };
    (status.discard, step)
}

fn encode<Data>(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, Data>,
    queued: &mut Vec<u8>,
) -> Result<(), Error> {
    let before = queued.len();
    let mut room = FIRST_ROOM;
    loop {
        queued.resize(before + room, 0);
        match data.encode(&mut queued[before..]) {
            Ok(written) => {
                queued.truncate(before + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(short)) if short.required_size > room => {
                room = short.required_size;
            }
            Err(error) => {
                queued.truncate(before);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}
