//! One TLS session, of either side, as a machine that turns records into bytes and back. It does no I/O.

use rustls::{
    Error, PeerMisbehaved,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

/// Most bytes that a record carries.
pub(super) const RECORD_BYTES: usize = 16 << 10;
/// Most bytes that a record takes on the wire beyond what it carries (RFC 8446, 5.2).
pub(super) const RECORD_OVERHEAD: usize = 5 + 256;

/// After how many records keys are renewed, however short they are: a quarter of what rustls allows, so that it is always done here.
const REKEY_AFTER_RECORDS: u64 = 1 << 22;

/// The session of either side.
pub(super) struct Session {
    rustls: Rustls,
    /// Records that rustls wants sent, in their order: of the handshake, key updates, alerts.
    queued: Vec<u8>,
    /// Why the session is over.
    broken: Option<Error>,
    /// Sent with the present keys.
    sent_bytes: u64,
    sent_records: u64,
    rekey_after: u64,
    rekeys: u64,
}

enum Rustls {
    Source(Box<UnbufferedClientConnection>),
    Destination(Box<UnbufferedServerConnection>),
}

/// What came of a look at what has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record carried bytes, which have been handed over.
    Bytes,
    /// There is no whole record; the handshake is over.
    Nothing,
    /// There is no whole record; the handshake is under way.
    HandshakeWaits,
    /// The other side has said that nothing follows.
    End,
}

/// What one step came to.
enum Step {
    Done(Found),
    Again,
}

impl Session {
    pub(super) fn of_source(connection: UnbufferedClientConnection, rekey_after: u64) -> Self {
        Self::new(Rustls::Source(Box::new(connection)), rekey_after)
    }

    pub(super) fn of_destination(connection: UnbufferedServerConnection, rekey_after: u64) -> Self {
        Self::new(Rustls::Destination(Box::new(connection)), rekey_after)
    }

    fn new(rustls: Rustls, rekey_after: u64) -> Self {
        Self {
            rustls,
            queued: Vec::new(),
            broken: None,
            sent_bytes: 0,
            sent_records: 0,
            rekey_after,
            rekeys: 0,
        }
    }

    /// Deals with what is at the front of `arrived`, up to the first record that carries bytes, which are handed to `take`. Returns how
    /// much of `arrived` is used up. What is not used up is at the front when this is called next.
    ///
    /// # Errors
    /// The session is over. What there is to say of it is [queued](Self::take_queued).
    pub(super) fn open(
        &mut self,
        arrived: &mut [u8],
        take: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Found, Error>) {
        if let Err(error) = self.check() {
            return (0, Err(error));
        }
        let mut used = 0;
        loop {
            let (step_used, step) = self.step(&mut arrived[used..], take);
            used += step_used;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Done(Found::Nothing)) if begins_with_a_record(&arrived[used..]) => {
                    // It was looked into and is still there: the beginning of a message, whose rest is to come in another. rustls
                    // remembers where it lies, and must not be called with any other buffer, as it is to send something. No peer
                    // has a reason to cut the few bytes that may come after the handshake into two.
                    let error = PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into();
                    return (used, Err(self.end(error)));
                }
                Ok(Step::Done(found)) => return (used, Ok(found)),
                Err(error) => return (used, Err(self.end(error))),
            }
        }
    }

    /// Has rustls queue all that it has to say by itself. Before something is [sealed](Self::seal).
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        self.open(&mut [], &mut |_| {}).1.map(|_| ())
    }

    fn step(&mut self, arrived: &mut [u8], take: &mut dyn FnMut(&[u8])) -> (usize, Result<Step, Error>) {
        match &mut self.rustls {
            Rustls::Source(connection) => {
                step(connection.process_tls_records(arrived), &mut self.queued, take)
            }
            Rustls::Destination(connection) => {
                step(connection.process_tls_records(arrived), &mut self.queued, take)
            }
        }
    }

    /// The session is over: it is kept why, and what rustls has to say of it (an alert) is queued.
    fn end(&mut self, error: Error) -> Error {
        self.broken = Some(error.clone());
        // Only as long as there is something: the next step would look into a buffer that is not here.
        while self.has_records_to_send() {
            if !matches!(self.step(&mut [], &mut |_| {}), (_, Ok(Step::Again))) {
                break;
            }
        }
        error
    }

    /// rustls must not be called any more once it has failed: what it remembers is of a buffer that is not here.
    fn check(&self) -> Result<(), Error> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn has_records_to_send(&self) -> bool {
        match &self.rustls {
            Rustls::Source(connection) => connection.wants_write(),
            Rustls::Destination(connection) => connection.wants_write(),
        }
    }

    /// Encrypts at most [`RECORD_BYTES`] into one record at the front of `record`, which has room for them and
    /// [`RECORD_OVERHEAD`]. Returns the record's length. The handshake is over, the session is
    /// [settled](Self::settle), and nothing is queued.
    pub(super) fn seal(&mut self, bytes: &[u8], record: &mut [u8]) -> Result<usize, Error> {
        self.check()?;
        let sealed = match &mut self.rustls {
            Rustls::Source(connection) => seal(connection.process_tls_records(&mut []), bytes, record),
            Rustls::Destination(connection) => seal(connection.process_tls_records(&mut []), bytes, record),
        };
        let sealed = sealed.map_err(|error| self.end(error))?;
        self.sent_bytes += bytes.len() as u64;
        self.sent_records += 1;
        if self.sent_bytes >= self.rekey_after || self.sent_records >= REKEY_AFTER_RECORDS {
            self.renew_keys()?;
        }
        Ok(sealed)
    }

    /// The record that tells the other side is queued.
    fn renew_keys(&mut self) -> Result<(), Error> {
        let renewed = match &mut self.rustls {
            Rustls::Source(connection) => renew_keys(connection.process_tls_records(&mut [])),
            Rustls::Destination(connection) => renew_keys(connection.process_tls_records(&mut [])),
        };
        renewed.map_err(|error| self.end(error))?;
        (self.sent_bytes, self.sent_records) = (0, 0);
        self.rekeys += 1;
        self.settle()
    }

    /// A record that says that nothing follows; empty where none can be made any more.
    pub(super) fn farewell(&mut self) -> Vec<u8> {
        if self.broken.is_some() {
            return Vec::new();
        }
        let mut record = vec![0; RECORD_OVERHEAD];
        let written = match &mut self.rustls {
            Rustls::Source(connection) => farewell(connection.process_tls_records(&mut []), &mut record),
            Rustls::Destination(connection) => farewell(connection.process_tls_records(&mut []), &mut record),
        };
        record.truncate(written);
        record
    }

    /// Records to send before any other.
    pub(super) fn take_queued(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.queued)
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    pub(super) fn rekeys(&self) -> u64 {
        self.rekeys
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

/// Whether there is a whole record, whatever is behind it.
fn begins_with_a_record(arrived: &[u8]) -> bool {
    let length = arrived.get(3..5).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    length.is_some_and(|length| arrived.len() >= 5 + length)
}

fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    queued: &mut Vec<u8>,
    take: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, Error>) {
    let mut used = status.discard;
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        used += record.discard;
                        take(record.payload);
                    }
                    Err(error) => return (used, Err(error)),
                }
            }
            Ok(Step::Done(Found::Bytes))
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, queued).map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // It is queued, and goes out before anything else.
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Done(Found::HandshakeWaits)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done(Found::Nothing)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Done(Found::End)),
        Ok(_) => Err(Error::General("a state that is not used here".into())),
    };
    (used, step)
}

fn encode<Data>(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, Data>,
    queued: &mut Vec<u8>,
) -> Result<(), Error> {
    let before = queued.len();
    let mut room = RECORD_OVERHEAD;
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

fn seal<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    bytes: &[u8],
    record: &mut [u8],
) -> Result<usize, Error> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            traffic.encrypt(bytes, record).map_err(|error| match error {
                EncryptError::EncryptExhausted => Error::EncryptError,
                error => Error::General(error.to_string()),
            })
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => {
            Err(Error::General("the other side has ended the session".into()))
        }
        other => Err(Error::General(format!("nothing can be sent in the state {other:?}"))),
    }
}

fn renew_keys<Data>(status: UnbufferedStatus<'_, '_, Data>) -> Result<(), Error> {
    match status.state? {
        ConnectionState::WriteTraffic(traffic) => traffic.refresh_traffic_keys(),
        other => Err(Error::General(format!("keys cannot be renewed in the state {other:?}"))),
    }
}

fn farewell<Data>(status: UnbufferedStatus<'_, '_, Data>, record: &mut [u8]) -> usize {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.queue_close_notify(record).unwrap_or(0),
        _ => 0,
    }
}
