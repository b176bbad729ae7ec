use std::{fmt, time::Duration};

use address::Address;

use crate::{Connection, TransportError, Trust};

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
}

impl Dialler {
    /// For a destination that listens at `address`, with connections as `trust` says. Certificates are read when it is dialled.
    #[must_use]
    pub fn new(address: Address, trust: Trust) -> Self {
        Self { address, trust }
    }
}

impl Dial for Dialler {
    fn dial(&self, timeout: Duration) -> Result<Connection, TransportError> {
        Connection::dial(&self.address, &self.trust, timeout)
    }

    fn dial_again(&self, control: &Connection, timeout: Duration) -> Result<Connection, TransportError> {
        control.dial_again(timeout)
    }
}
