use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::{
    Accept, Address, Connection, Stopper, TransportError, Trust, tls::TlsDestination, trust::resolve, zone,
};

/// Connections that the kernel keeps until they are accepted, if its own limit (`net.core.somaxconn`) allows as many. Where a crowd
/// fills the queue, a source's first packet is lost, and it tries again a second later; the standard library asks for 128.
const QUEUE: i32 = 4096;

/// Accepts connections at an address until it is stopped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    addresses: Vec<Address>,
    stop: Arc<OwnedFd>,
    /// What connections are encrypted with.
    tls: Option<Arc<TlsDestination>>,
}

#[derive(Debug)]
enum Socket {
    /// One for each address of the host.
    Tcp(Vec<TcpListener>),
    /// The path is removed when the listener goes, unless somebody has put another file there.
    Unix { listener: UnixListener, path: PathBuf, identity: (u64, u64) },
}

impl Listener {
    /// Listens on `address`: where it is a name, on every address that the name has and this host too. May wait for a name server.
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
                Socket::Tcp(listen_on_all(&resolve(address, host, *port, trust)?).map_err(failed)?)
            }
            Address::Unix(path) => {
                remove_abandoned(path).map_err(failed)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let identity = identity(path).map_err(failed)?;
                Socket::Unix { listener, path: path.clone(), identity }
            }
        };
        // Again, with more room: that is allowed (listen(2)).
        let listening = socket.fds().into_iter().try_for_each(|fd| rustix::net::listen(fd, QUEUE));
        listening.map_err(|error| failed(error.into()))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let addresses = socket.addresses().map_err(failed)?;
        Ok(Self { socket, addresses, stop: Arc::new(stop), tls })
    }

    /// The first address that is listened on, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// All addresses that are listened on: one at least, and all with the same port.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }
}

/// How often another port is tried where the system chooses it, and it is taken on another of the addresses.
const PORTS_TRIED: u32 = 16;

/// Listens on all of `addresses`, with one port.
fn listen_on_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let may_choose = addresses.iter().all(|address| address.port() == 0);
    let mut tries = 1;
    loop {
        match try_all(addresses) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && may_choose && tries < PORTS_TRIED => {
                tries += 1;
            }
            result => return result,
        }
    }
}

fn try_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut missing = io::ErrorKind::AddrNotAvailable.into();
    let (mut port, mut known) = (None, Vec::new());
    for mut address in addresses.iter().copied() {
        if known.contains(&address.ip()) {
            continue;
        }
        known.push(address.ip());
        address.set_port(port.unwrap_or(address.port()));
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                port = Some(listener.local_addr()?.port());
                listeners.push(listener);
            }
            // Without IPv6 a host still knows the name of its address.
            Err(error) if is_not_here(&error) => missing = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(missing) } else { Ok(listeners) }
}

/// The last is said of a link-local address of which nobody knows the interface: names have such.
fn is_not_here(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT | Errno::INVAL))
}

impl Accept for Listener {
    /// A connection that is gone before it is accepted is no error.
    fn accept(&self) -> Result<Connection, TransportError> {
        loop {
            let fds = std::iter::once(self.stop.as_fd()).chain(self.socket.fds());
            let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(TransportError::Broken(error.into())),
            }
            if !fds[0].revents().is_empty() {
                return Err(TransportError::Stopped);
            }
            let ready = fds[1..].iter().position(|fd| !fd.revents().is_empty());
            match self.socket.accept(ready.unwrap_or_default()) {
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
        self.address().to_string()
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
    /// `index` is that of the descriptor.
    fn accept(&self, index: usize) -> io::Result<Connection> {
        match self {
            Self::Tcp(listeners) => {
                let (stream, _) = listeners[index].accept()?;
                stream.set_nonblocking(false)?;
                Connection::tcp(stream)
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Connection::unix(stream)
            }
        }
    }

    fn addresses(&self) -> io::Result<Vec<Address>> {
        let address = |listener: &TcpListener| {
            let local = listener.local_addr()?;
            Ok(Address::Tcp { host: zone::host(local), port: local.port() })
        };
        match self {
            Self::Tcp(listeners) => listeners.iter().map(address).collect(),
            Self::Unix { path, .. } => Ok(vec![Address::Unix(path.clone())]),
        }
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Tcp(listeners) => listeners.iter().map(AsFd::as_fd).collect(),
            Self::Unix { listener, .. } => vec![listener.as_fd()],
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix { path, identity: ours, .. } = self
            && identity(path).is_ok_and(|there| there == *ours)
        {
            // Another process may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Device and inode of the file at `path`.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes the file at `path` if it is a socket that nobody listens on. Never another file: connecting to that is refused too.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    use rustix::{io::Errno, net};
    if !std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        return Ok(());
    }
    // Without waiting: whoever listens there may have a queue that is full.
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    let probe = net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, flags, None)?;
    match net::connect(&probe, &net::SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_name_is_listened_on_at_all_of_its_addresses_with_one_port() {
        let both: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        let listeners = listen_on_all(&both).unwrap();
        let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0]));
        if listeners.len() == 1 {
            eprintln!("SKIPPED in part: this host has no IPv6");
        }
        let address: Address = format!("tcp:localhost:{}", ports[0]).parse().unwrap();
        assert!(Listener::bind(&address, &Trust::ThisHost).is_err(), "the port is taken");
        drop(listeners);

        let listener = Listener::bind(&address, &Trust::ThisHost).unwrap();
        for place in listener.addresses() {
            let Address::Tcp { host, port } = place else { panic!("{place}") };
            let _dialled = TcpStream::connect((host.as_str(), *port)).unwrap();
            listener.accept().unwrap();
        }
    }

    #[test]
    fn a_socket_that_a_dead_process_left_is_replaced_and_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = Address::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&address, &Trust::ThisHost).unwrap();
        let taken = Listener::bind(&address, &Trust::ThisHost).unwrap_err();
        assert!(matches!(taken, TransportError::Listen { .. }), "{taken}");

        // Whoever has put something else there keeps it.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(listener);
        Listener::bind(&address, &Trust::ThisHost).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_in_use_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let holder = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&holder, 0).unwrap();
        let _waits = std::os::unix::net::UnixStream::connect(&path).unwrap();
        Listener::bind(&Address::Unix(path.clone()), &Trust::ThisHost).unwrap_err();
        assert!(path.exists());
    }

    #[test]
    fn an_address_that_this_host_does_not_have_is_left_out_if_there_is_another() {
        let (elsewhere, here) = ("192.0.2.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        assert_eq!(listen_on_all(&[elsewhere, here, here]).unwrap().len(), 1);
        let nowhere = "[fe80::1]:0".parse().unwrap();
        assert_eq!(listen_on_all(&[nowhere, here]).unwrap().len(), 1);
        assert_eq!(listen_on_all(&[elsewhere]).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let holder = TcpListener::bind(taken).unwrap();
        assert_eq!(listen_on_all(&[taken]).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(holder);
    }
}
