use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

/// The file of a listening unix socket, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Device and inode of the file: another process may have replaced it by its own.
    identity: (u64, u64),
}

/// Why a monitor could not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("Monitor socket {} is in use by a process that runs: end it, or choose another path", path.display())]
    InUse {
        /// The socket's file.
        path: PathBuf,
    },
    /// There is a file that is no socket.
    #[error("Monitor socket {} exists and is not a socket: remove it, or choose another path", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// Another process keeps others from making files in the folder.
    #[error(
        "Monitor socket {} could not be made: another process has locked the folder {} for long (flock), end it or choose another folder",
        path.display(),
        folder.display()
    )]
    Locked {
        /// The socket's file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The system refused.
    #[error("Monitor socket {} could not be made", path.display())]
    Io {
        /// The socket's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server's thread could not start or could not be confined.
    #[error("Monitor could not be started")]
    Start {
        /// Why.
        source: io::Error,
    },
}

/// How long the lock of a folder is waited for: making a socket takes a moment, of many on a busy host.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the lock.
const AGAIN: Duration = Duration::from_millis(5);
/// Clients that may wait to be taken.
const BACKLOG: i32 = 64;

impl Socket {
    /// Makes the file and listens.
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), BindError> {
        let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
        // Two processes that find the same stale file must not both replace it. The folder's lock leaves no file behind.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock =
            rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed(error.into()))?;
        have_alone(&lock).map_err(|error| match error {
            Errno::WOULDBLOCK => BindError::Locked { path: path.to_owned(), folder: folder.to_owned() },
            error => failed(error.into()),
        })?;
        remove_stale(path, &address)?;
        let listener = listen(&address).map_err(failed)?;
        let file = std::fs::symlink_metadata(path).map_err(failed)?;
        Ok((Self { path: path.to_owned(), identity: (file.dev(), file.ino()) }, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "Monitor socket could not be removed");
        }
    }
}

/// Locks the folder, for which those who make their sockets there now are waited for, and nobody else.
fn have_alone(folder: &OwnedFd) -> Result<(), Errno> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(AGAIN),
            Err(Errno::INTR) => {}
            locked => return locked,
        }
    }
}

/// Removes the file at `path` if it is a socket that nobody listens on.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    // Without waiting: a server whose queue is full would make this wait for ever.
    let probe = stream_socket().map_err(failed)?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(failed),
        // Connected, or its queue is full, or it is another kind of socket: another process lives there.
        Ok(()) | Err(_) => Err(BindError::InUse { path: path.to_owned() }),
    }
}

fn listen(address: &SocketAddrUnix) -> io::Result<UnixListener> {
    let socket = stream_socket()?;
    // Linux gives the file the mode of the unbound socket (unix_bind in net/unix/af_unix.c), so that it is never open to
    // others, not even for a moment. Who can speak to the monitor owns the machine.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}
