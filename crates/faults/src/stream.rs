use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use address::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A stream socket, TCP or unix.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// How long a write may wait before it looks whether the connection was cut meanwhile.
const WRITE_SLICE: Duration = Duration::from_millis(100);
/// How long a destination on this host may take to accept.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

impl Stream {
    pub(crate) fn dial(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => Self::Unix(UnixStream::connect(path)?).prepared(),
            Address::Tcp { host, port } => {
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                for candidate in std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), *port))? {
                    match TcpStream::connect_timeout(&candidate, DIAL_TIMEOUT) {
                        Ok(stream) => return Self::Tcp(stream).prepared(),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn prepared(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_SLICE))?;
            }
            Self::Unix(stream) => stream.set_write_timeout(Some(WRITE_SLICE))?,
        }
        Ok(self)
    }

    /// Ends a direction, or both. Who waits in it goes on.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        // Fails only if it has ended.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Has the peer see a reset when the last owner lets go of the socket. A unix socket knows no such thing.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // It fails for no socket that is one.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }

    /// Whether the peer sends no more, even if not all that it sent was read.
    pub(crate) fn is_hung_up(&self) -> bool {
        let fd = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        let mut polled = [PollFd::new(&fd, PollFlags::RDHUP)];
        // HUP and ERR are told without being asked for.
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|_| !polled[0].revents().is_empty())
    }

    /// Reads some bytes; 0 at the end.
    pub(crate) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(bytes),
            Self::Unix(stream) => (&*stream).read(bytes),
        }
    }

    /// Writes some bytes; an error of kind `WouldBlock` after a moment without room.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).write(bytes),
            Self::Unix(stream) => (&*stream).write(bytes),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Stream::read(self, bytes)
    }
}

impl Listener {
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp { host, port } => TcpListener::bind((host.as_str(), *port)).map(Self::Tcp),
            Address::Unix(path) => UnixListener::bind(path).map(Self::Unix),
        }
    }

    pub(crate) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Stream::Tcp(listener.accept()?.0).prepared(),
            Self::Unix(listener) => Stream::Unix(listener.accept()?.0).prepared(),
        }
    }

    /// Where it listens, with the port that the kernel chose.
    pub(crate) fn address(&self, asked: &Address) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => {
                let local = listener.local_addr()?;
                Ok(Address::Tcp { host: local.ip().to_string(), port: local.port() })
            }
            Self::Unix(_) => Ok(asked.clone()),
        }
    }
}
