use address::Address;
use serde::{Deserialize, Serialize};

/// An address in QEMU's JSON form, as `query-migrate` shows where a destination listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum SocketAddress {
    /// TCP.
    Inet {
        /// Name or address.
        host: String,
        /// Port; a text, as in QEMU's schema.
        port: String,
    },
    /// A unix socket.
    Unix {
        /// The socket's file.
        path: String,
    },
    /// Passed as a descriptor (QEMU only).
    Fd {
        /// Name or number of the descriptor.
        str: String,
    },
    /// A vsock (QEMU only).
    Vsock {
        /// Context id.
        cid: String,
        /// Port.
        port: String,
    },
}

impl From<&Address> for SocketAddress {
    fn from(address: &Address) -> Self {
        match address {
            Address::Tcp { host, port } => Self::Inet { host: host.clone(), port: port.to_string() },
            Address::Unix(path) => Self::Unix { path: path.display().to_string() },
        }
    }
}
