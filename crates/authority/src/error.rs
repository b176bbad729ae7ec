use std::{io, path::PathBuf};

/// Why an authority could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// There is an authority in the directory already.
    #[error("{} is there already: use it, or choose another directory", .path.display())]
    Exists {
        /// Its file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{} cannot be {verb}", .path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What was to be done with it.
        verb: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory is another user's.
    #[error(
        "{} belongs to user {owner}, who could exchange its files at any time, and this is user {user}: chown it, or run this as its \
         owner",
        .path.display()
    )]
    OfAnotherUser {
        /// The directory.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// This user's number.
        user: u32,
    },
    /// A file is none that this program writes.
    #[error("{} is none that `whimbrel ca` has made: {reason}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name cannot be in a certificate.
    #[error("'{name}' cannot be in a certificate: give a host name, an IP address or a URI")]
    Name {
        /// The name as it was given.
        name: String,
    },
    /// A host has no name.
    #[error("A certificate needs a name: give the host's name or address")]
    NoName,
    /// There is nothing to take back.
    #[error("{} has neither server-cert.pem nor client-cert.pem: give the directory that was issued to a host", .path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// What is to be revoked was issued by another authority.
    #[error("{} was issued by '{issuer}', not by this authority", .path.display())]
    OfAnother {
        /// The certificate's file.
        path: PathBuf,
        /// Who issued it.
        issuer: String,
    },
    /// The certificate could not be made.
    #[error("The certificate cannot be made")]
    Make(#[from] rcgen::Error),
}
