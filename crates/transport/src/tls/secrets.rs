//! The secrets of a connection after its handshake: rustls keeps them, and derives the next.

use parking_lot::Mutex;
use rustls::{Error, client::ClientConnectionData, kernel::KernelConnection, server::ServerConnectionData};

use super::records::Keys;

/// The secrets of both directions, of either side. Locked for as long as one is derived.
pub(super) struct Secrets(Mutex<Rustls>);

pub(super) enum Rustls {
    Source(KernelConnection<ClientConnectionData>),
    Destination(KernelConnection<ServerConnectionData>),
}

impl Secrets {
    pub(super) fn new(rustls: Rustls) -> Self {
        Self(Mutex::new(rustls))
    }

    /// The keys that this side sends with next.
    pub(super) fn next_to_send_with(&self) -> Result<Keys, Error> {
        Keys::new(match &mut *self.0.lock() {
            Rustls::Source(connection) => connection.update_tx_secret(),
            Rustls::Destination(connection) => connection.update_tx_secret(),
        }?)
    }

    /// The keys that the other side sends with next.
    pub(super) fn next_to_receive_with(&self) -> Result<Keys, Error> {
        Keys::new(match &mut *self.0.lock() {
            Rustls::Source(connection) => connection.update_rx_secret(),
            Rustls::Destination(connection) => connection.update_rx_secret(),
        }?)
    }
}
