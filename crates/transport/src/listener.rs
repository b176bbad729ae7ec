use std::{
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::Arc,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::{
    Accept, Address, Connection, Stopper, TransportError, Trust, tls::TlsDestination, trust::resolve,
};

/// Connections that the kernel keeps until they are accepted, if its own limit (`net.core.somaxconn`) allows as many. Where a crowd
/// fills the queue, a source's first packet is lost, and it tries again a second later; the standard library asks for 128.
const QUEUE: i32 = 4096;

/// Accepts connections at an address until it is stopped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
    stop: Arc<OwnedFd>,
    /// What connections are encrypted with.
    tls: Option<Arc<TlsDestination>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// The path is removed when the listener goes.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on `address`.
    ///
    /// A unix socket that a dead process left behind is replaced; one that answers is not.
    ///
    /// # Errors
    /// The address is open to other hosts and `trust` is not, it is in use, or not allowed; certificates cannot be used.
    pub fn bind(address: &Address, trust: &Trust) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Listen { address: address.to_string(), source };
        let tls = match trust {
            Trust::Certified(tls) => Some(Arc::new(TlsDestination::load(tls)?)),
            Trust::ThisHost | Trust::Anyone => None,
        };
        let socket = match address {
            Address::Tcp { host, port } => {
                let listener =
                    TcpListener::bind(resolve(address, host, *port, trust)?.as_slice()).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Socket::Tcp(listener)
            }
            Address::Unix(path) => {
                if path.exists()
                    && UnixStream::connect(path)
                        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Socket::Unix(listener, path.clone())
            }
        };
        // Again, with more room: that is allowed (listen(2)).
        rustix::net::listen(&socket, QUEUE).map_err(|error| failed(error.into()))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let address = socket.address().map_err(failed)?;
        Ok(Self { socket, address, stop: Arc::new(stop), tls })
    }

    /// The address that is listened on, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Accept for Listener {
    /// A connection that is gone before it is accepted is no error.
    fn accept(&self) -> Result<Connection, TransportError> {
        loop {
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(TransportError::Broken(error.into())),
            }
            if !fds[1].revents().is_empty() {
                return Err(TransportError::Stopped);
            }
            match self.socket.accept() {
                Ok(connection) => {
                    return Ok(match &self.tls {
                        None => connection,
                        Some(tls) => connection.encrypted_for(tls.clone()),
                    });
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(TransportError::Broken(error)),
            }
        }
    }

    fn stopper(&self) -> Stopper {
        let stop = self.stop.clone();
        Stopper::new(move || {
            // Fails only when the counter is full, and then it is stopped already.
            let _ = rustix::io::write(&*stop, &1_u64.to_ne_bytes());
        })
    }

    fn place(&self) -> String {
        self.address.to_string()
    }
}

/// Errors of `accept` that concern one connection (or a moment without descriptors), not the listener.
fn is_passing(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    use rustix::io::Errno;
    matches!(
        errno,
        Some(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM | Errno::TIMEDOUT)
    )
}

impl Socket {
    fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Connection::tcp(stream)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Connection::unix(stream)
            }
        }
    }

    fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => {
                let local = listener.local_addr()?;
                Address::Tcp { host: local.ip().to_string(), port: local.port() }
            }
            Self::Unix(_, path) => Address::Unix(path.clone()),
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Another process may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}
