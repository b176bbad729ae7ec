use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// Where a migration goes to or comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationAddress {
    /// `tcp:HOST:PORT`. The host may be a name, or an IPv6 address in brackets; empty means all of this host's addresses.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// 0 lets the system choose when listening.
        port: u16,
    },
    /// `unix:PATH`.
    Unix {
        /// The socket's file.
        path: PathBuf,
    },
}

/// A text that is no migration address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No scheme that is known.
    #[error(
        "Parameter 'uri' expects a valid migration protocol: '{text}' starts with none of tcp:HOST:PORT, unix:PATH"
    )]
    Scheme {
        /// What was given.
        text: String,
    },
    /// A scheme of QEMU's that is not spoken here.
    #[error(
        "Parameter 'uri' names the transport '{scheme}', which is not supported: use tcp:HOST:PORT or unix:PATH"
    )]
    Unsupported {
        /// The scheme.
        scheme: String,
    },
    /// No host and port after `tcp:`.
    #[error(
        "Address '{text}' is not HOST:PORT: write a host name or address (IPv6 in brackets), a colon and a port"
    )]
    HostPort {
        /// What stood after the scheme.
        text: String,
    },
    /// A port that is no number from 0 to 65535.
    #[error("Port '{text}' is not a number from 0 to 65535")]
    Port {
        /// What was given.
        text: String,
    },
    /// A path that is empty, or too long for a socket's address.
    #[error("Path '{text}' cannot be a unix socket: it must have 1 to 107 bytes")]
    Path {
        /// What was given.
        text: String,
    },
}

/// Bytes of a socket's path that fit `struct sockaddr_un` beside its terminating zero (unix(7)).
const MAX_UNIX_PATH: usize = 107;

impl FromStr for MigrationAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once(':') {
            Some(("tcp", rest)) => Self::tcp(rest),
            Some(("unix", path)) => Self::unix(path),
            Some((scheme @ ("vsock" | "fd" | "exec" | "file" | "rdma"), _)) => {
                Err(AddressError::Unsupported { scheme: scheme.to_owned() })
            }
            _ => Err(AddressError::Scheme { text: text.to_owned() }),
        }
    }
}

impl MigrationAddress {
    fn tcp(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::HostPort { text: text.to_owned() };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(wrong)?,
            None => text.rsplit_once(':').ok_or_else(wrong)?,
        };
        if !text.starts_with('[') && host.contains(':') {
            return Err(wrong());
        }
        Self::inet(host, port)
    }

    /// An address from host and port as a client gives them in a list of channels.
    pub(crate) fn inet(host: &str, port: &str) -> Result<Self, AddressError> {
        let port = port.parse().map_err(|_| AddressError::Port { text: port.to_owned() })?;
        Ok(Self::Tcp { host: host.to_owned(), port })
    }

    /// An address from the path of a socket.
    pub(crate) fn unix(path: &str) -> Result<Self, AddressError> {
        if path.is_empty() || path.len() > MAX_UNIX_PATH || path.contains('\0') {
            return Err(AddressError::Path { text: path.to_owned() });
        }
        Ok(Self::Unix { path: path.into() })
    }
}

impl fmt::Display for MigrationAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

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

impl From<&MigrationAddress> for SocketAddress {
    fn from(address: &MigrationAddress) -> Self {
        match address {
            MigrationAddress::Tcp { host, port } => Self::Inet { host: host.clone(), port: port.to_string() },
            MigrationAddress::Unix { path } => Self::Unix { path: path.display().to_string() },
        }
    }
}
