//! The server: a unix socket, a thread that takes clients, and a thread for each client.
//!
//! A client's thread reads, parses, calls the [`Handler`] and writes. Events come from other threads, and reach a client
//! through its outbox, which is bounded: who does not read is dropped, so that neither the machine nor another client
//! ever waits for it.

mod outbox;
mod session;
mod socket;

use std::{
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use outbox::{Outbox, Wake};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use session::Session;
pub use socket::BindError;
use socket::Socket;
use tracing::{debug, info, warn};

use crate::{CommandError, Events, Handler, protocol::Reply};

/// The most clients at a time. Each costs a thread and a bounded outbox; QEMU's monitor takes one.
pub const MAX_CLIENTS: usize = 16;

/// How long a client waits for a place: those who have just left may still be on their way out.
const ADMISSION: Duration = Duration::from_millis(250);

/// A monitor that listens. Dropping it is [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// Removes the socket's file; only after the last client is gone.
    _socket: Socket,
}

/// What all threads of a server know.
struct Shared {
    handler: Arc<dyn Handler>,
    events: Events,
    stopping: AtomicBool,
    acceptor: Wake,
    clients: Mutex<Vec<Client>>,
    /// A client has left.
    left: Condvar,
}

struct Client {
    outbox: Arc<Outbox>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens on a unix socket at `path`, which only the owner of this process may connect to.
    ///
    /// The file of a process that no longer runs is replaced; any other file there is an error.
    pub fn bind(path: &Path, handler: Arc<dyn Handler>, events: Events) -> Result<Self, BindError> {
        Self::bind_confined(path, handler, events, || Ok(()))
    }

    /// Like [`bind`](Self::bind), and calls `confine` first thing on the server's first thread. A seccomp filter that it
    /// installs holds for the threads of all clients too, since they are started from there. When it fails, so does this.
    pub fn bind_confined(
        path: &Path,
        handler: Arc<dyn Handler>,
        events: Events,
        confine: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Self, BindError> {
        let start = |source| BindError::Start { source };
        let (socket, listener) = Socket::bind(path)?;
        let shared = Arc::new(Shared {
            handler,
            events,
            stopping: AtomicBool::new(false),
            acceptor: Wake::new().map_err(start)?,
            clients: Mutex::default(),
            left: Condvar::new(),
        });
        let (confined, outcome) = mpsc::channel();
        let acceptor = thread::Builder::new().name("monitor".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let outcome = confine();
                let go = outcome.is_ok();
                // The other end waits for this, unless its thread died; then nobody needs it.
                let _ = confined.send(outcome);
                if go {
                    shared.accept_clients(&listener);
                }
            }
        });
        let acceptor = acceptor.map_err(start)?;
        let died = |_| Err(io::Error::other("the thread ended before it began"));
        outcome.recv().unwrap_or_else(died).map_err(start)?;
        info!(path = %path.display(), "Monitor listens");
        Ok(Self { shared, acceptor: Some(acceptor), _socket: socket })
    }

    /// Takes no more clients, sends what is queued to those that are there, waiting at most a second for any that does not
    /// read, and removes the socket's file. Must not be called from within a [`Handler`]: it waits for its threads.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.acceptor.wake();
        // A thread that panicked has said so already.
        let _ = self.acceptor.take().map(JoinHandle::join);
        let clients = std::mem::take(&mut *self.shared.clients.lock());
        for client in &clients {
            client.outbox.end();
        }
        for client in clients {
            let _ = client.thread.join();
        }
    }
}

impl Shared {
    fn accept_clients(self: &Arc<Self>, listener: &UnixListener) {
        while !self.stopping.load(Ordering::Acquire) {
            let mut ready =
                [PollFd::new(listener, PollFlags::IN), PollFd::new(&self.acceptor, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(error) if error != rustix::io::Errno::INTR => {
                    warn!(%error, "Monitor takes no more clients: poll failed");
                    return;
                }
                Err(_) => continue,
                Ok(_) => {}
            }
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // Most likely the process is out of descriptors. The client stays in the queue, so that poll would
                    // return at once: wait a little, or until shutdown.
                    warn!(%error, "Monitor could not take a client");
                    let mut ready = [PollFd::new(&self.acceptor, PollFlags::IN)];
                    let _ = poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) {
        let mut clients = self.clients.lock();
        let deadline = Instant::now() + ADMISSION;
        loop {
            clients.retain(|client| !client.outbox.is_closed());
            if clients.len() < MAX_CLIENTS {
                break;
            }
            if self.left.wait_until(&mut clients, deadline).timed_out() {
                warn!(clients = MAX_CLIENTS, "Monitor refused a client: too many");
                return refuse(
                    stream,
                    &format!("The monitor has {MAX_CLIENTS} clients, the most it takes: close one"),
                );
            }
        }
        match self.start_session(stream) {
            Ok(client) => clients.push(client),
            Err(error) => warn!(%error, "Monitor could not serve a client"),
        }
    }

    fn start_session(self: &Arc<Self>, stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        let outbox = Arc::new(Outbox::new()?);
        let session =
            Session::new(stream, Arc::clone(&outbox), Arc::clone(&self.handler), self.events.clone());
        let thread = thread::Builder::new().name("monitor-client".to_owned()).spawn({
            let (shared, leaving) = (Arc::clone(self), Leaving(Arc::clone(&outbox)));
            move || {
                match session.run() {
                    Ok(()) => debug!("Monitor client left"),
                    Err(error) if is_departure(&error) => debug!(%error, "Monitor client left"),
                    Err(error) => warn!(%error, "Monitor client dropped"),
                }
                drop(leaving);
                // Whoever waits for a place looks at the outboxes under this lock: taken once, it cannot miss this.
                drop(shared.clients.lock());
                shared.left.notify_all();
            }
        })?;
        Ok(Client { outbox, thread })
    }
}

/// Closes a client's outbox even if a handler panics.
struct Leaving(Arc<Outbox>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whether a client simply went away while something was sent to it.
fn is_departure(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Tells a client why it is not served. It may read that or not: the line fits a fresh socket's buffer, so this never waits.
fn refuse(mut stream: UnixStream, why: &str) {
    let line = Reply::err(None, CommandError::generic(why)).to_line();
    let _ = stream.set_nonblocking(true).and_then(|()| stream.write_all(&line));
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clients = self.clients.lock().len();
        f.debug_struct("Shared")
            .field("clients", &clients)
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}
