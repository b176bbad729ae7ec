//! Connections between the two sides: dialling, accepting, sending and receiving, pacing to a bandwidth.
//!
//! A program can bring sockets of its own: [`Connection::from_socket`] takes one, and the traits [`Dial`] and [`Accept`] are where
//! the connections of a migration come from. [`Dialler`] and [`Listener`] are what they are for addresses.
//!
//! What the bytes mean is none of this crate's business. Connections are blocking; [`Connection::shutdown`] from another
//! thread ends every call that is waiting on one.

mod accept;
mod binding;
mod buffer;
mod bulk;
mod connection;
mod dial;
mod error_queue;
mod filler;
mod in_flight;
mod listener;
mod options;
mod pacer;
mod standstill;
mod tls;
mod trust;
mod vectored;
mod zone;

pub use accept::{Accept, Stopper};
pub use address::Address;
pub use binding::{PROOF_BYTES, SessionSecret};
pub use buffer::Buffer;
pub use bulk::{Bulk, WhyCopied};
pub use connection::Connection;
pub use dial::{Dial, Dialler};
pub use listener::Listener;
pub use options::unacknowledged;
pub use pacer::{Pacer, Turn};
#[cfg(feature = "fuzzing")]
pub use tls::fuzzing;
pub use tls::{
    Authz, AuthzError, Certificate, Credentials, FileError, Purpose, Security, Side, Tls, TlsError,
};
pub use trust::Trust;
pub use vectored::{Piece, fill};

use std::io;

/// Why a connection could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address is of another host, and connections are not encrypted.
    #[error(
        "'{address}' is not on this host, and without certificates connections are not encrypted: guest memory would be \
         readable on the network. Give certificates, use a loopback address or a unix socket, or allow it expressly"
    )]
    NotLoopback {
        /// The address as it was given.
        address: String,
    },
    /// The name does not resolve.
    #[error("Cannot resolve '{address}': check the name and the port")]
    Resolve {
        /// The address as it was given.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("Cannot connect to {address}: check that a destination listens there")]
    Connect {
        /// The address as it was given.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("Cannot listen on {address}: check that it is free and may be used")]
    Listen {
        /// The address as it was given.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket that the caller brought cannot be used.
    #[error("The socket cannot carry a migration: it must be a connected stream socket, TCP or unix")]
    Socket(#[source] io::Error),
    /// The other side closed the connection.
    #[error("The other side closed the connection")]
    Closed,
    /// The other side does not take what is sent, or the network does not carry it.
    #[error(
        "The connection has been stuck for too long: see whether the other side and the network are well"
    )]
    Slow,
    /// The connection broke.
    #[error("The connection broke")]
    Broken(#[source] io::Error),
    /// It cannot be encrypted, or the other side not be trusted.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The other side of an encrypted connection is not known yet.
    #[error("The other side of the connection is not authenticated")]
    NotAuthenticated,
    /// Only an encrypted connection can prove what it belongs to.
    #[error("The connection is not encrypted, and the session that it is to belong to is")]
    NotEncrypted,
    /// It was shut down on purpose, from this side.
    #[error("Stopped")]
    Stopped,
}
