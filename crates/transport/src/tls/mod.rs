//! TLS 1.3 with certificates on both sides.
//!
//! rustls does the handshake, the certificates, and the keys. What is here is what it leaves to its user: where the files
//! are ([`Credentials`]), who may come ([`Authz`]), and the value that ties connections of a migration to each other
//! ([`exporter`]); and the records after the handshake ([`records`]), so that pages are encrypted where they lie.

mod algorithms;
mod authz;
mod certificate;
mod config;
mod credentials;
mod error;
mod exporter;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod headers;
mod incoming;
mod messages;
mod outgoing;
mod records;
mod secrets;
mod session;
mod side;
mod stream;

pub use self::{
    authz::{Authz, AuthzError},
    certificate::{Certificate, Purpose},
    config::Tls,
    credentials::Credentials,
    error::{FileError, TlsError},
    side::Side,
};
pub(crate) use self::{
    config::{TlsDestination, TlsSource},
    handshake::{as_destination, as_source},
    stream::{Stream, StreamError},
};

/// What is known of an encrypted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Security {
    /// Version of the protocol, as `TLS 1.3`.
    pub protocol: &'static str,
    /// The cipher suite by its name in the IANA registry, as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The certificate that this side showed.
    pub ours: Certificate,
    /// The certificate that the other side showed.
    pub peer: Certificate,
    /// Whether an earlier session was resumed. Never: each connection is authenticated anew.
    pub resumed: bool,
    /// How often this side has renewed the keys that it sends with.
    pub rekeys: u64,
}
