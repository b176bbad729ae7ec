use std::net::{SocketAddr, ToSocketAddrs};

use address::Address;

use crate::TransportError;

/// Which addresses may be used without encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only addresses that do not leave this host.
    Loopback,
    /// Any: the user said to know the risk.
    Anywhere,
}

/// The socket addresses behind the TCP address `address`, all of them within `reach`.
///
/// The check is on what the name resolves to, not on the name.
pub(crate) fn resolve(
    address: &Address,
    host: &str,
    port: u16,
    reach: Reach,
) -> Result<Vec<SocketAddr>, TransportError> {
    let resolved = (host, port).to_socket_addrs();
    let found: Vec<_> = resolved
        .map_err(|source| TransportError::Resolve { address: address.to_string(), source })?
        .collect();
    if reach == Reach::Loopback && found.iter().any(|found| !found.ip().to_canonical().is_loopback()) {
        return Err(TransportError::NotLoopback { address: address.to_string() });
    }
    Ok(found)
}
