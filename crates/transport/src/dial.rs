use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use address::Address;
use parking_lot::Mutex;

use crate::{Connection, TransportError, Trust, tls::TlsSource};

/// Makes the connections of a source. [`Dialler`] is the one for addresses.
///
/// Neither call may take much longer than `timeout`: a machine may be stopped meanwhile.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Connects to the destination: for a control connection, and to ask what became of a migration whose control connection broke.
    ///
    /// # Errors
    /// It cannot be reached. Whether it is tried again depends on how far the migration is.
    fn dial(&self, timeout: Duration) -> Result<Connection, TransportError>;

    /// Connects for a page channel, to the very process that `control` goes to.
    ///
    /// # Errors
    /// It cannot be reached. The attempt fails then.
    fn dial_again(&self, control: &Connection, timeout: Duration) -> Result<Connection, TransportError>;
}

/// Connects to an address.
#[derive(Clone, Debug)]
pub struct Dialler {
    address: Address,
    trust: Trust,
    /// What was read of certificates when the first connection was made.
    tls: Arc<Mutex<Option<Arc<TlsSource>>>>,
}

impl Dialler {
    /// For a destination that listens at `address`, with connections as `trust` says. Certificates are read when it
    /// is first dialled, and kept from then on: a source that lost its link must be able to ask what became of its machine, whatever
    /// has happened to its files meanwhile.
    #[must_use]
    pub fn new(address: Address, trust: Trust) -> Self {
        Self { address, trust, tls: Arc::default() }
    }
}

impl Dial for Dialler {
    fn dial(&self, timeout: Duration) -> Result<Connection, TransportError> {
        let Trust::Certified(tls) = &self.trust else {
            return Connection::dial(&self.address, &self.trust, timeout);
        };
        let deadline = Instant::now() + timeout;
        let kept = self.tls.lock().clone();
        if let Some(kept) = kept {
            match Connection::dial_with(&self.address, &self.trust, Some(kept), deadline) {
                // They may have been renewed because they are not accepted any more.
                Err(TransportError::Tls(_)) => {}
                dialled => return dialled,
            }
        }
        let read = Arc::new(TlsSource::load(tls, &self.address)?);
        let connection = Connection::dial_with(&self.address, &self.trust, Some(read.clone()), deadline)?;
        *self.tls.lock() = Some(read);
        Ok(connection)
    }

    fn dial_again(&self, control: &Connection, timeout: Duration) -> Result<Connection, TransportError> {
        control.dial_again(timeout)
    }
}
