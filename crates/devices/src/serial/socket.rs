use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::{Backend, BackendError, backend::Backlog};
use crate::{Interest, Watch};

/// A unix socket at which one client at a time talks to the serial port. Others wait until it leaves.
///
/// Output without a client is dropped, and so is what a client does not read in time.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed in the end.
    identity: (u64, u64),
    listener: UnixListener,
    client: Option<UnixStream>,
    backlog: Backlog,
    /// Holds the listener and the client: the machine watches this one descriptor, while clients come and go.
    epoll: OwnedFd,
}

impl Socket {
    /// Listens at `path`. A socket file that a process left behind is replaced.
    ///
    /// # Errors
    /// Another program listens there, or the socket cannot be made.
    pub fn listen(path: &Path) -> Result<Self, BackendError> {
        let failed = |source: io::Error| BackendError::Listen { path: path.into(), source };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if !is_abandoned(path) {
                    return Err(BackendError::InUse { path: path.into() });
                }
                std::fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            result => result,
        }
        .map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        watch(&epoll, &listener, epoll::EventFlags::IN).map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            path: path.into(),
            identity: (metadata.dev(), metadata.ino()),
            listener,
            client: None,
            backlog: Backlog::default(),
            epoll,
        })
    }

    /// Takes the next client, if there is none and one waits.
    fn accept(&mut self) {
        while self.client.is_none() {
            let Ok((client, _)) = self.listener.accept() else { return };
            let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
            if client.set_nonblocking(true).is_ok() && watch(&self.epoll, &client, interest).is_ok() {
                self.client = Some(client);
            }
        }
    }

    fn drop_client(&mut self) {
        self.client = None;
        self.backlog.clear();
        self.accept();
    }

    fn flush(&mut self) {
        let Some(client) = &mut self.client else { return };
        let mut gone = false;
        self.backlog.drain(|bytes| match client.write(bytes) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                gone = true;
                0
            }
        });
        if gone {
            self.drop_client();
        }
    }
}

impl Backend for Socket {
    fn watches(&self) -> Vec<Watch> {
        vec![Watch { fd: self.epoll.as_raw_fd(), interest: Interest::Read, token: 0 }]
    }

    fn ready(&mut self, _token: u32) {
        // The outer watch is edge-triggered: it fires again only if the inner one was emptied.
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        while epoll::wait(&self.epoll, &mut events[..], Some(&now)).is_ok_and(|count| count > 0) {}
        self.accept();
        self.flush();
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.client.is_some() {
            self.backlog.add(bytes);
            self.flush();
        }
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        while let Some(client) = &mut self.client {
            match client.read(room) {
                Ok(bytes) if bytes > 0 => return bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.drop_client(),
            }
        }
        0
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = std::fs::metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // Nothing follows from a file that stays: the next listener replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A socket that nobody listens on refuses. So does any other file, which is not ours to remove.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    // Without waiting: whoever listens there may have a queue that is full.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = || {
        let probe = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        net::connect(&probe, &SocketAddrUnix::new(path)?)
    };
    is_socket && connected() == Err(Errno::CONNREFUSED)
}

fn watch(epoll: &OwnedFd, fd: &impl std::os::fd::AsFd, interest: epoll::EventFlags) -> Result<(), Errno> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(0), interest | epoll::EventFlags::ET)
}
