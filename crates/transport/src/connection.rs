use std::{
    fmt, io,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, sockopt},
};

use crate::{
    Address, Piece, Security, TlsError, TransportError, Trust, options,
    tls::{self, Stream, StreamError, TlsDestination, TlsSource},
    trust::{resolve, share_of},
    vectored,
};

/// How long sent data may stay unacknowledged, and a silent peer be probed, before a TCP connection counts as broken; and how long
/// nothing that is sent may find room before a unix one does.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(20);
/// Silence after which keepalive probes begin, and the pause between them.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Socket buffers of connections within this host. Left to itself the kernel lets them grow to many megabytes, and what is in
/// flight falls out of the CPU's caches before it is read: over four loopback streams 512 KiB move the same bytes in two thirds
/// of the time, with a fifth less CPU (smaller ones cost more in switches than they save). Networks need the kernel's own tuning.
const LOOPBACK_BUFFER_BYTES: usize = 512 << 10;

/// A stream connection, TCP or unix, plain or encrypted.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    stopped: AtomicBool,
    /// Where it goes, if this side dialled.
    remote: Option<Remote>,
    protection: Protection,
}

/// What a name led to, and what connections there are encrypted with.
#[derive(Clone, Debug)]
struct Remote {
    place: Place,
    tls: Option<Arc<TlsSource>>,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What bytes are protected by.
#[derive(Debug)]
enum Protection {
    Nothing,
    /// Dialled: the handshake is over.
    Dialled(Box<Stream>),
    /// Accepted: the handshake is over once there is a stream.
    Accepted(Arc<TlsDestination>, OnceLock<Box<Stream>>),
}

impl Connection {
    /// Connects to `address`, waiting at most `timeout`.
    ///
    /// # Errors
    /// The address is of another host and nothing protects what is sent there, does not resolve, or nobody answers; or one side
    /// does not trust the other.
    pub fn dial(address: &Address, trust: &Trust, timeout: Duration) -> Result<Self, TransportError> {
        let tls = match trust {
            Trust::Certified(tls) => Some(Arc::new(TlsSource::load(tls, address)?)),
            Trust::ThisHost | Trust::Anyone => None,
        };
        Self::dial_with(address, trust, tls, Instant::now() + timeout)
    }

    /// Connects to `address` with certificates that were read before.
    pub(crate) fn dial_with(
        address: &Address,
        trust: &Trust,
        tls: Option<Arc<TlsSource>>,
        deadline: Instant,
    ) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Connect { address: address.to_string(), source };
        match address {
            Address::Unix(path) => Remote { place: Place::Unix(path.clone()), tls }
                .dial(deadline)
                .map_err(|error| error.at(failed)),
            Address::Tcp { host, port } => {
                let mut last = DialError::Io(io::ErrorKind::AddrNotAvailable.into());
                let candidates = resolve(address, host, *port, trust)?;
                for (left, candidate) in (1..=candidates.len()).rev().zip(candidates) {
                    let until = share_of(deadline, left);
                    match (Remote { place: Place::Tcp(candidate), tls: tls.clone() }).dial(until) {
                        Ok(connection) => return Ok(connection),
                        Err(error) => last = error,
                    }
                }
                Err(last.at(failed))
            }
        }
    }

    /// Connects once more to where this connection goes, waiting at most `timeout`, with the certificates that this one used. A
    /// name that stands for several hosts is not looked up again: both connections go to the same one.
    ///
    /// # Errors
    /// Nobody answers, one side does not trust the other any more, or it was the other side that made this connection.
    pub fn dial_again(&self, timeout: Duration) -> Result<Self, TransportError> {
        let remote =
            self.remote.as_ref().ok_or_else(|| TransportError::Broken(io::ErrorKind::NotConnected.into()))?;
        let failed = |source| TransportError::Connect { address: remote.place.to_string(), source };
        remote.dial(Instant::now() + timeout).map_err(|error| error.at(failed))
    }

    /// Finds out who the other side of an accepted connection is, which may take `timeout`. Nothing can be sent or received before.
    /// There is nothing to find out on a connection that is not encrypted, or whose other side is known.
    ///
    /// # Errors
    /// The other side is not trusted, does not trust this one, or takes too long.
    pub fn authenticate(&self, timeout: Duration) -> Result<(), TransportError> {
        let Protection::Accepted(tls, stream) = &self.protection else { return Ok(()) };
        if stream.get().is_some() {
            return Ok(());
        }
        let shaken = tls::as_destination(self.fd.as_fd(), tls, Instant::now() + timeout);
        let shaken = shaken.map_err(|error| self.unless_stopped(error.into()))?;
        // Set by another thread meanwhile: that one reads the same bytes, and one of them has failed.
        let _ = stream.set(Box::new(shaken));
        Ok(())
    }

    /// Where the other side is, if that is another address than a unix socket's.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        net::getpeername(&self.fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok())
    }

    /// What is known of the encryption and of the other side; `None` where it is not encrypted, or not known yet.
    #[must_use]
    pub fn security(&self) -> Option<Security> {
        self.stream().ok().flatten().map(Stream::security)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The encrypted stream, if there is one.
    pub(crate) fn stream(&self) -> Result<Option<&Stream>, TransportError> {
        match &self.protection {
            Protection::Nothing => Ok(None),
            Protection::Dialled(stream) => Ok(Some(stream)),
            Protection::Accepted(_, stream) => {
                stream.get().map(|stream| Some(&**stream)).ok_or(TransportError::NotAuthenticated)
            }
        }
    }

    /// What arrives on it is encrypted, and has to be [authenticated](Self::authenticate) first.
    pub(crate) fn encrypted_for(self, tls: Arc<TlsDestination>) -> Self {
        Self { protection: Protection::Accepted(tls, OnceLock::new()), ..self }
    }

    /// A connection over a socket that the caller has, of either side: `TcpStream`, `UnixStream` or a descriptor. It is made
    /// blocking, and time-outs and options that it has are replaced. A copy of the descriptor that is kept elsewhere must not be
    /// read, written or changed any more.
    ///
    /// # Errors
    /// It is no connected stream socket, or neither TCP nor unix.
    pub fn from_socket(socket: impl Into<OwnedFd>) -> Result<Self, TransportError> {
        Self::of(socket.into()).map_err(TransportError::Socket)
    }

    fn of(socket: OwnedFd) -> io::Result<Self> {
        if sockopt::socket_type(&socket)? != net::SocketType::STREAM {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "not a stream socket"));
        }
        // Fails if it is not connected.
        net::getpeername(&socket)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
        match sockopt::socket_domain(&socket)? {
            net::AddressFamily::UNIX => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                Self::unix(stream)
            }
            net::AddressFamily::INET | net::AddressFamily::INET6 => {
                let stream = TcpStream::from(socket);
                stream.set_nonblocking(false)?;
                Self::tcp(stream)
            }
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither TCP nor unix")),
        }
    }

    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        Self::unix_that_dies_after(DEAD_AFTER, stream)
    }

    /// Nothing else ends a call that sends to a process which has stopped reading: within a host there are no probes.
    fn unix_that_dies_after(time: Duration, stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(time))?;
        Ok(Self::plain(stream.into()))
    }

    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let within_host = stream.peer_addr()?.ip().to_canonical().is_loopback();
        let fd: OwnedFd = stream.into();
        if within_host {
            sockopt::set_socket_send_buffer_size(&fd, LOOPBACK_BUFFER_BYTES)?;
            sockopt::set_socket_recv_buffer_size(&fd, LOOPBACK_BUFFER_BYTES)?;
        }
        sockopt::set_socket_keepalive(&fd, true)?;
        sockopt::set_tcp_keepidle(&fd, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(&fd, KEEPALIVE)?;
        sockopt::set_tcp_user_timeout(&fd, DEAD_AFTER.as_millis() as u32)?;
        Ok(Self::plain(fd))
    }

    fn plain(fd: OwnedFd) -> Self {
        Self { fd, stopped: AtomicBool::new(false), remote: None, protection: Protection::Nothing }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// The connection broke or was shut down; how much was sent is not known then.
    pub fn send(&self, bytes: &[u8]) -> Result<(), TransportError> {
        match self.stream()? {
            None => vectored::send_all(self.fd.as_fd(), bytes).map_err(|error| self.explain(error)),
            Some(stream) => self.send_encrypted(stream, bytes, None),
        }
    }

    /// Sends all of `bytes`, unless the other side takes them too slowly.
    ///
    /// # Errors
    /// As [`Self::send`]; also when not all was sent after `patience`. A patience of zero sends what there is room for.
    pub fn send_within(&self, bytes: &[u8], patience: Duration) -> Result<(), TransportError> {
        let deadline = Instant::now() + patience;
        match self.stream()? {
            None => vectored::send_all_until(self.fd.as_fd(), bytes, deadline)
                .map_err(|error| self.explain(error)),
            Some(stream) => self.send_encrypted(stream, bytes, Some(deadline)),
        }
    }

    /// Fills `bytes` from the connection.
    ///
    /// # Errors
    /// [`TransportError::Closed`] at the end of the stream, also when it ends in the middle of `bytes`.
    pub fn receive(&self, bytes: &mut [u8]) -> Result<(), TransportError> {
        match self.stream()? {
            None => vectored::receive_all(self.fd.as_fd(), bytes).map_err(|error| self.explain(error)),
            Some(stream) => self.receive_encrypted(stream, bytes, None),
        }
    }

    /// Fills `bytes` from the connection, unless they have not all come by `deadline`.
    ///
    /// # Errors
    /// As [`Self::receive`]; also [`TransportError::Slow`] at the deadline, however many bytes have come until then.
    pub fn receive_by(&self, bytes: &mut [u8], deadline: Instant) -> Result<(), TransportError> {
        match self.stream()? {
            None => vectored::receive_all_until(self.fd.as_fd(), bytes, deadline)
                .map_err(|error| self.explain(error)),
            Some(stream) => self.receive_encrypted(stream, bytes, Some(deadline)),
        }
    }

    /// Sends `head`, then the bytes of all `pieces`, with as few system calls as possible and without a copy in this process.
    ///
    /// # Safety
    /// The pieces are mapped for as long as the call takes. They may be written by others meanwhile; what is sent is then
    /// some mixture of old and new.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub unsafe fn send_pieces(&self, head: &[u8], pieces: &mut [Piece]) -> Result<(), TransportError> {
        let Some(stream) = self.stream()? else {
            // SAFETY: the caller's promise.
            return unsafe { vectored::send_pieces(self.fd.as_fd(), head, pieces) }
                .map_err(|error| self.explain(error));
        };
        // SAFETY: the caller's promise.
        let sent = stream.send_from(self.fd.as_fd(), None, unsafe { vectored::filler(head, pieces) });
        sent.map_err(|error| self.explain_stream(error))
    }

    /// Receives into all `pieces`, one after the other, straight from the kernel.
    ///
    /// # Safety
    /// The pieces are mapped for as long as the call takes, and nobody relies on their contents.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub unsafe fn receive_pieces(&self, pieces: &mut [Piece]) -> Result<(), TransportError> {
        let Some(stream) = self.stream()? else {
            // SAFETY: the caller's promise.
            return unsafe { vectored::receive_pieces(self.fd.as_fd(), pieces) }
                .map_err(|error| self.explain(error));
        };
        let wanted = pieces.iter().map(Piece::bytes).sum();
        let mut pieces = pieces;
        let received = stream.receive_to(self.fd.as_fd(), None, wanted, |bytes| {
            // SAFETY: the caller's promise.
            pieces = unsafe { vectored::copy_in(std::mem::take(&mut pieces), bytes) };
        });
        received.map_err(|error| self.explain_stream(error))
    }

    fn receive_encrypted(
        &self,
        stream: &Stream,
        bytes: &mut [u8],
        until: Option<Instant>,
    ) -> Result<(), TransportError> {
        let mut filled = 0;
        let received = stream.receive_to(self.fd.as_fd(), until, bytes.len(), |piece| {
            bytes[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
        received.map_err(|error| self.explain_stream(error))
    }

    fn send_encrypted(
        &self,
        stream: &Stream,
        mut bytes: &[u8],
        until: Option<Instant>,
    ) -> Result<(), TransportError> {
        let sent = stream.send_from(self.fd.as_fd(), until, |room| vectored::take_front(&mut bytes, room));
        sent.map_err(|error| self.explain_stream(error))
    }

    /// Waits until there is something to receive, or the other side has hung up, at most `timeout`. Returns whether there is.
    ///
    /// # Errors
    /// The connection was shut down.
    pub fn wait(&self, timeout: Duration) -> Result<bool, TransportError> {
        if self.stream()?.is_some_and(Stream::has_kept) {
            return Ok(true);
        }
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&timeout)) {
            Ok(found) => Ok(found > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(self.explain(error.into())),
        }
    }

    /// Gives up waiting in [`Self::receive`] after `timeout`, each time that nothing at all comes for so long; `None` waits for ever.
    ///
    /// # Errors
    /// The kernel refuses a time-out of zero.
    pub fn set_receive_timeout(&self, timeout: Option<Duration>) -> Result<(), TransportError> {
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Recv, timeout)
            .map_err(|error| TransportError::Broken(error.into()))
    }

    /// From here on what is sent goes before what other connections of this host send, where the queue of the network device tells them apart.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn set_interactive(&self) -> io::Result<()> {
        options::set_interactive(self.fd.as_fd())
    }

    /// From here on no more than `bytes` bytes wait in the socket for their turn on the network, so that what others send does not wait behind them:
    /// sending waits before there are more. Only of TCP.
    ///
    /// # Errors
    /// It is not TCP, or as setsockopt(2).
    pub fn limit_unsent(&self, bytes: u32) -> io::Result<()> {
        options::limit_unsent(self.fd.as_fd(), bytes)
    }

    /// Whether the other side has hung up, even if something that it said before is still to be read.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        let mut look = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        // A look that fails, by a signal for one, has seen nothing: nobody is given up for that. Nor for an error that is told: that is
        // how the kernel says what it has sent.
        let seen = poll(&mut look, Some(&Timespec::default())).is_ok_and(|found| found > 0);
        seen && look[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
    }

    /// Ends the connection in both directions, and every call that waits on it. May be called many times.
    pub fn shutdown(&self) {
        /// Whatever becomes of a farewell, the connection ends.
        struct End<'a>(&'a OwnedFd);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                // Fails only if the other side was faster.
                let _ = net::shutdown(self.0, net::Shutdown::Both);
            }
        }
        let _end = End(&self.fd);
        if !self.stopped.swap(true, Ordering::Relaxed)
            && let Ok(Some(stream)) = self.stream()
        {
            stream.say_farewell(self.fd.as_fd());
        }
    }

    pub(crate) fn explain_stream(&self, error: StreamError) -> TransportError {
        match error {
            StreamError::Io(error) => self.explain(error),
            StreamError::Tls(error) => self.unless_stopped(error.into()),
        }
    }

    /// What a call fails with that may have been ended from this side.
    fn unless_stopped(&self, error: TransportError) -> TransportError {
        if self.stopped.load(Ordering::Relaxed) { TransportError::Stopped } else { error }
    }

    pub(crate) fn explain(&self, error: io::Error) -> TransportError {
        self.unless_stopped(match error.kind() {
            // The second is what a time-out of the socket's own says.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => TransportError::Slow,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                TransportError::Closed
            }
            _ => TransportError::Broken(error),
        })
    }
}

/// Why a place could not be connected to.
enum DialError {
    Io(io::Error),
    Tls(TlsError),
}

impl DialError {
    fn at(self, failed: impl FnOnce(io::Error) -> TransportError) -> TransportError {
        match self {
            Self::Io(error) => failed(error),
            Self::Tls(error) => error.into(),
        }
    }
}

impl Remote {
    fn dial(&self, deadline: Instant) -> Result<Connection, DialError> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let connection = self.place.dial(timeout).map_err(DialError::Io)?;
        let protection = match &self.tls {
            None => Protection::Nothing,
            Some(tls) => {
                let stream = tls::as_source(connection.fd.as_fd(), tls, deadline).map_err(DialError::Tls)?;
                Protection::Dialled(Box::new(stream))
            }
        };
        Ok(Connection { remote: Some(self.clone()), protection, ..connection })
    }
}

impl Place {
    fn dial(&self, timeout: Duration) -> io::Result<Connection> {
        if timeout.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match self {
            Self::Tcp(address) => Connection::tcp(TcpStream::connect_timeout(address, timeout)?),
            Self::Unix(path) => Connection::unix(connect_unix(path, timeout)?),
        }
    }
}

/// A listener that is too busy to accept makes who connects wait for ever, unless there is a limit (unix(7), `SO_SNDTIMEO`).
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket =
        net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, net::SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(timeout))?;
    net::connect(&socket, &net::SocketAddrUnix::new(path)?).map_err(|error| match error {
        rustix::io::Errno::AGAIN => io::ErrorKind::TimedOut.into(),
        error => io::Error::from(error),
    })?;
    Ok(socket.into())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_listener_that_accepts_nothing_is_not_waited_for_for_ever() {
        let folder = std::env::temp_dir().join(format!("whimbrel-dial-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("full");
        let listener = net::socket(net::AddressFamily::UNIX, net::SocketType::STREAM, None).unwrap();
        net::bind(&listener, &net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        net::listen(&listener, 0).unwrap();
        let address = Address::Unix(path);
        let dial = || Connection::dial(&address, &Trust::ThisHost, Duration::from_millis(50));
        let waiting = dial().unwrap();
        let refused = dial().unwrap_err();
        let TransportError::Connect { source, .. } = &refused else { panic!("{refused}") };
        assert_eq!(source.kind(), io::ErrorKind::TimedOut);
        drop(waiting);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_socket_of_the_callers_becomes_a_blocking_connection() {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        here.set_read_timeout(Some(Duration::from_nanos(1000))).unwrap();
        let connection = Connection::from_socket(here).unwrap();
        std::thread::scope(|scope| {
            let receiving = scope.spawn(|| {
                let mut byte = [0];
                connection.receive(&mut byte).map(|()| byte)
            });
            Connection::from_socket(there).unwrap().send(&[7]).unwrap();
            assert_eq!(receiving.join().unwrap().unwrap(), [7]);
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = Connection::from_socket(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let accepted = Connection::from_socket(listener.accept().unwrap().0).unwrap();
        dialled.unwrap().send(&[8]).unwrap();
        let mut byte = [0];
        accepted.receive(&mut byte).unwrap();
        assert_eq!(byte, [8]);
    }

    #[test]
    fn what_is_no_connected_stream_is_no_connection() {
        let refused = |socket: OwnedFd| {
            assert!(matches!(Connection::from_socket(socket), Err(TransportError::Socket(_))));
        };
        refused(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into());
        refused(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into());
        refused(std::fs::File::open("/dev/null").unwrap().into());
    }

    #[test]
    fn who_sends_a_byte_now_and_then_is_not_waited_for_beyond_the_deadline() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Connection::unix(here).unwrap(), Connection::unix(there).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while there.send(&[7]).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let received = here.receive_by(&mut [0; 1 << 20], Instant::now() + Duration::from_millis(100));
            assert!(matches!(received, Err(TransportError::Slow)), "{received:?}");
            here.shutdown();
        });
    }

    #[test]
    fn what_comes_before_the_deadline_is_received_whole() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Connection::unix(here).unwrap(), Connection::unix(there).unwrap());
        let (mut bytes, deadline) = ([0; 4], Instant::now() + Duration::from_secs(60));
        std::thread::scope(|scope| {
            scope.spawn(|| [[1, 2], [3, 4]].iter().for_each(|half| there.send(half).unwrap()));
            here.receive_by(&mut bytes, deadline).unwrap();
        });
        assert_eq!(bytes, [1, 2, 3, 4]);
        there.shutdown();
        assert!(matches!(here.receive_by(&mut bytes, deadline), Err(TransportError::Closed)));
    }

    #[test]
    fn a_unix_connection_whose_other_side_reads_nothing_is_given_up() {
        let (here, there) = UnixStream::pair().unwrap();
        let connection = Connection::unix_that_dies_after(Duration::from_millis(50), here).unwrap();
        let sent = connection.send(&vec![7; 16 << 20]);
        assert!(matches!(sent, Err(TransportError::Slow)), "{sent:?}");
        drop(there);
    }
}
