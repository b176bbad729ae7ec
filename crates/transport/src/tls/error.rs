use std::{io, path::PathBuf};

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::{AuthzError, Side};

/// Why a connection cannot be encrypted, or its other side not be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The list of sources cannot be used.
    #[error(transparent)]
    Authz(#[from] AuthzError),
    /// A destination was not told which sources may come.
    #[error(
        "It is not said which sources may come: a certificate of the CA is not enough. Give their names, as \
         dns:host-a.example.org, or * for every certificate of the CA"
    )]
    NoAuthz,
    /// A source does not know the name that the destination's certificate must have.
    #[error("It is not known which name the certificate of the destination at {address} must have: give it")]
    NoName {
        /// The address as it was given.
        address: String,
    },
    /// That is no name that a certificate can have.
    #[error("'{name}' is neither a host name nor an IP address")]
    BadName {
        /// The name as it was given.
        name: String,
    },
    /// Another connection looks at the files of certificates, and does not come to an end.
    #[error(
        "The files of certificates cannot be read in time: see whether the storage that they are on is well"
    )]
    FilesHang,
    /// The other side's certificate is not accepted here.
    #[error("The certificate of the {} is not accepted here: {reason}", .peer.name())]
    Peer {
        /// Whose it is.
        peer: Side,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The other side does not accept this side's certificate.
    #[error("The {} does not accept the certificate of this side: {reason}", .peer.name())]
    Ours {
        /// Which side does not.
        peer: Side,
        /// What it said, and what to do.
        reason: String,
    },
    /// The other side does not use TLS.
    #[error("The {} does not use TLS on this connection: give both sides certificates, or neither", .peer.name())]
    Plain {
        /// Which side.
        peer: Side,
    },
    /// The other side has no version of TLS, cipher suite or signature that this one has.
    #[error("The {} cannot do TLS 1.3 as this side can: {reason}", .peer.name())]
    Incompatible {
        /// Which side.
        peer: Side,
        /// What is missing.
        reason: String,
    },
    /// The connection ended during the handshake.
    #[error(
        "The {} closed the connection during the TLS handshake: its log says why; it may not use TLS at all",
        .peer.name()
    )]
    Closed {
        /// Which side.
        peer: Side,
    },
    /// The handshake took too long.
    #[error("The {} did not finish the TLS handshake in time", .peer.name())]
    Slow {
        /// Which side.
        peer: Side,
    },
    /// What arrived is not what the other side sent, or not TLS.
    #[error("What arrives is damaged or forged, or is no TLS: {0}")]
    Damaged(String),
    /// An error of the protocol that has no better name.
    #[error("TLS: {0}")]
    Protocol(String),
    /// The socket failed.
    #[error("The connection broke during the TLS handshake")]
    Socket(#[source] io::Error),
    /// There is no memory for what is to be encrypted.
    #[error("There is no memory for what is to be encrypted: see how much this process may map")]
    NoMemory(#[source] io::Error),
}

/// What is wrong with a file of certificates or keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is none by any of the names.
    #[error(
        "{} has no {wanted}: see docs/security.md for the files that are needed; `whimbrel ca issue` makes them",
        .directory.display()
    )]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
        /// Its usual name.
        wanted: String,
    },
    /// It cannot be read.
    #[error("{} cannot be read", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is longer than any such file is.
    #[error("{} is {bytes} bytes long, at most {most} are read: it is hardly what it should be", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// It is not in the format that it should be in.
    #[error("{} holds no {wanted} in PEM: {reason}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The key does not belong to the certificate.
    #[error("{} is not the key of {}: issue or copy both anew", .key.display(), .certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Others can read a key, or change it.
    #[error(
        "{} can be read by every user, or changed by others (mode {mode:04o}): chmod 0600 it, and issue another if that \
         was so for long",
        .path.display()
    )]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The certificate is not valid any more, or not yet.
    #[error("The certificate in {} is valid from {from} until {until}, and it is {now} here: {remedy}", .path.display())]
    Date {
        /// The certificate's file.
        path: PathBuf,
        /// Begin, RFC 3339.
        from: String,
        /// End, RFC 3339.
        until: String,
        /// The time here.
        now: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The certificate is not for this.
    #[error(
        "The certificate in {} must not be used by a TLS {wanted} (its extended key usage does not name {wanted}Auth): \
         issue one that may",
        .path.display()
    )]
    Purpose {
        /// The certificate's file.
        path: PathBuf,
        /// `server` or `client`.
        wanted: &'static str,
    },
    /// The certificate was not issued by the CA beside it.
    #[error("The certificate in {} was not issued by a CA in {}: {reason}", .path.display(), .ca.display())]
    Untrusted {
        /// The certificate's file.
        path: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl TlsError {
    /// What `error` of a connection with `peer` means.
    pub(super) fn of(error: Error, peer: Side) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::of_alert(alert, peer),
            Error::InvalidCertificate(error) => Self::Peer { peer, reason: certificate(&error) },
            Error::NoCertificatesPresented => {
                Self::Peer { peer, reason: "it shows none. Give it one".into() }
            }
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Incompatible { peer, reason: "it offers only older versions of TLS".into() },
            Error::PeerIncompatible(reason) => Self::Incompatible { peer, reason: format!("{reason:?}") },
            Error::DecryptError => Self::Damaged("a record does not decrypt".into()),
            Error::InvalidMessage(_)
            | Error::PeerSentOversizedRecord
            | Error::PeerMisbehaved(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => Self::Damaged(error.to_string()),
            other => Self::Protocol(other.to_string()),
        }
    }

    fn of_alert(alert: AlertDescription, peer: Side) -> Self {
        use AlertDescription as Alert;
        let ours = |reason: &str| Self::Ours { peer, reason: reason.into() };
        match alert {
            Alert::CertificateRequired => ours("it wants one, and got none"),
            Alert::AccessDenied => {
                ours("it is valid, but not in the list of sources that may come. Add a name of it there")
            }
            Alert::UnknownCA => ours(
                "it knows no CA that issued it, or has no valid list of what is revoked. Both sides need the same CA",
            ),
            Alert::CertificateExpired => ours(
                "it is not valid at the time there. See whether it has ended, and whether both clocks are right",
            ),
            Alert::CertificateRevoked => ours("it was revoked. Issue another"),
            Alert::UnsupportedCertificate => {
                ours("it is for another purpose. Issue one for clients and servers")
            }
            Alert::BadCertificate => ours("it has another name than was dialled, or cannot be read there"),
            Alert::CertificateUnknown | Alert::DecryptError => ours("its log says why"),
            Alert::ProtocolVersion => {
                Self::Incompatible { peer, reason: "it has no version that this side has".into() }
            }
            Alert::HandshakeFailure => {
                Self::Incompatible { peer, reason: "no cipher suite or key is for both".into() }
            }
            Alert::BadRecordMac | Alert::DecodeError | Alert::UnexpectedMessage | Alert::RecordOverflow => {
                Self::Damaged(format!("the {} says {alert:?}", peer.name()))
            }
            other => Self::Protocol(format!("the {} ended the connection with {other:?}", peer.name())),
        }
    }
}

/// What is wrong with a peer's certificate, and what to do.
pub(super) fn certificate(error: &CertificateError) -> String {
    use CertificateError as Wrong;
    let remedy = match error {
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "Issue another, and see whether both clocks are right"
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => "See whether both clocks are right",
        Wrong::Revoked => "Issue another",
        Wrong::UnknownIssuer => "Both sides need the same CA",
        Wrong::ExpiredRevocationList | Wrong::ExpiredRevocationListContext { .. } => {
            "Fetch a new list of revoked certificates from the CA"
        }
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            "Dial a name that it has, or say which to expect"
        }
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => "Issue one for clients and servers",
        _ => return error.to_string(),
    };
    format!("{error}. {remedy}")
}
