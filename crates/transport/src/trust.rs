use std::net::{SocketAddr, ToSocketAddrs};

use address::Address;

use crate::{Tls, TransportError};

/// Whom connections are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Who is on this host, and nobody else. Connections are not encrypted.
    ThisHost,
    /// Anyone, and everyone between: the user said to know the risk. Connections are not encrypted.
    Anyone,
    /// Who shows the right certificate, wherever it is. Connections are encrypted.
    Certified(Tls),
}

/// The socket addresses behind the TCP address `address`, all of which may be used with `trust`.
///
/// The check is on what the name resolves to, not on the name.
pub(crate) fn resolve(
    address: &Address,
    host: &str,
    port: u16,
    trust: &Trust,
) -> Result<Vec<SocketAddr>, TransportError> {
    let resolved = (host, port).to_socket_addrs();
    let found: Vec<_> = resolved
        .map_err(|source| TransportError::Resolve { address: address.to_string(), source })?
        .collect();
    if *trust == Trust::ThisHost && found.iter().any(|found| !found.ip().to_canonical().is_loopback()) {
        return Err(TransportError::NotLoopback { address: address.to_string() });
    }
    Ok(found)
}
