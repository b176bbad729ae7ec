//! Encrypted connections over real sockets, with certificates that are right and that are not.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod bytes;
mod files;
mod hostile;
mod others;
mod peers;
mod records;
mod session;

extern crate whimbrel_transport as transport;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use authority::{Authority, Request};
use transport::{Accept, Address, Authz, Connection, Listener, Tls, TransportError, Trust};

/// Long enough for a handshake anywhere.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An authority, and what it issued.
pub(crate) struct World {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(&folder.path().join("ca"), "Example CA").unwrap();
        Self { folder, authority }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues what `request` wants into a directory called `name`.
    pub(crate) fn issue(&self, name: &str, request: &Request) -> PathBuf {
        let directory = self.path(name);
        self.authority.issue(&directory, request).unwrap();
        directory
    }

    /// Certificates for two hosts on this one: `a` and `b`.
    pub(crate) fn two_hosts(&self) -> (Tls, Tls) {
        let a = self.issue("a", &Request::new(["host-a.example", "uri://host-a/x"]));
        let b = self.issue("b", &Request::new(["127.0.0.1", "host-b.example"]));
        (Tls::new(a), destination(&b, "host-a.example"))
    }
}

/// A destination with the certificates in `directory` that lets `who` in.
pub(crate) fn destination(directory: &Path, who: &str) -> Tls {
    let mut tls = Tls::new(directory);
    tls.authz = Some(who.parse::<Authz>().unwrap());
    tls
}

pub(crate) fn listen(tls: &Tls) -> Listener {
    Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap(), &Trust::Certified(tls.clone())).unwrap()
}

pub(crate) fn dial(address: &Address, tls: &Tls) -> Result<Connection, TransportError> {
    Connection::dial(address, &Trust::Certified(tls.clone()), PATIENCE)
}

/// Both ends of a connection; an end that could not be made says why.
pub(crate) fn connect(
    source: &Tls,
    destination: &Listener,
) -> (Result<Connection, TransportError>, Result<Connection, TransportError>) {
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| {
            let connection = destination.accept()?;
            connection.authenticate(PATIENCE)?;
            Ok(connection)
        });
        let dialled = dial(destination.address(), source);
        // What the destination thinks of the source is heard when something is received.
        let accepted = accepted.join().unwrap();
        let dialled = dialled.and_then(|connection| match &accepted {
            Ok(_) => Ok(connection),
            Err(_) => connection.receive(&mut [0]).map(|()| connection),
        });
        (dialled, accepted)
    })
}

/// Both ends of a connection that is well.
pub(crate) fn connected(source: &Tls, destination: &Listener) -> (Connection, Connection) {
    let (dialled, accepted) = connect(source, destination);
    (dialled.unwrap(), accepted.unwrap())
}

/// An error and all that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}
