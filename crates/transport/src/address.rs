use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use crate::TransportError;

/// Where a destination listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// Name or address of the host.
        host: String,
        /// Port; 0 lets the kernel choose one when listening.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Which addresses may be used without encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only addresses that do not leave this host.
    Loopback,
    /// Any: the user said that he knows.
    Anywhere,
}

impl Address {
    /// The socket addresses behind a TCP address, all of them within `reach`.
    ///
    /// The check is on what the name resolves to, not on the name.
    pub(crate) fn resolve(
        &self,
        host: &str,
        port: u16,
        reach: Reach,
    ) -> Result<Vec<SocketAddr>, TransportError> {
        let resolved = (host, port).to_socket_addrs();
        let addresses: Vec<_> = resolved
            .map_err(|source| TransportError::Resolve { address: self.to_string(), source })?
            .collect();
        if reach == Reach::Loopback
            && addresses.iter().any(|address| !address.ip().to_canonical().is_loopback())
        {
            return Err(TransportError::NotLoopback { address: self.to_string() });
        }
        Ok(addresses)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
