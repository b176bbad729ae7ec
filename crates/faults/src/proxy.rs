//! Takes the connections of a source and makes those to the destination.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use address::Address;
use parking_lot::{Condvar, Mutex};

use crate::{
    Edge, Fault, FrameName, Moment, Passed, Phase, Processes, Struck, Way, Which,
    carrier::Carrier,
    link::Link,
    progress::Progress,
    stream::{Listener, Stream},
    trace::Trace,
};

/// A proxy at work. Dropping it closes everything, and lets frozen processes go on.
#[derive(Debug)]
pub struct Proxy {
    address: Address,
    shared: Arc<Shared>,
    door: Option<JoinHandle<()>>,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address cannot be listened on.
    #[error("Cannot listen on {address}: check that it is free and may be used")]
    Listen {
        /// The address.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// There are no more threads.
    #[error("Cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    began: Instant,
    destination: Address,
    faults: Mutex<Vec<Armed>>,
    links: Mutex<Vec<Weak<Link>>>,
    refuse_until: Mutex<Option<Instant>>,
    pub(crate) progress: Progress,
    closed: AtomicBool,
    /// Carriers at work.
    carriers: Mutex<usize>,
    idle: Condvar,
    pub(crate) processes: Processes,
    pub(crate) trace: Trace,
}

/// A fault that has not struck.
#[derive(Debug)]
struct Armed {
    fault: Fault,
    /// Frames of its name that passed where it watches.
    seen: u32,
}

/// A frame that is about to pass, a record, or bytes that are neither.
#[derive(Debug)]
pub(crate) struct Passing {
    pub(crate) which: Option<Which>,
    pub(crate) way: Way,
    pub(crate) name: Option<FrameName>,
    /// Frames that passed before on this way of the connection.
    pub(crate) number: u64,
    /// Bytes that passed before.
    pub(crate) position: u64,
    pub(crate) length: u64,
    /// The phase of the migration, and bytes that passed before in it.
    pub(crate) phase: Option<(Phase, u64)>,
}

impl Proxy {
    /// Listens at `listen`, and carries what comes to `destination`, until it is dropped. Each of `faults` strikes once.
    ///
    /// # Errors
    /// The address cannot be listened on. Whether the destination is there is seen when a source comes.
    pub fn start(
        listen: &Address,
        destination: Address,
        faults: &[Fault],
        processes: Processes,
    ) -> Result<Self, ProxyError> {
        let failed = |source| ProxyError::Listen { address: listen.clone(), source };
        let listener = Listener::bind(listen).map_err(failed)?;
        let address = listener.address(listen).map_err(failed)?;
        let shared = Arc::new(Shared {
            began: Instant::now(),
            destination,
            faults: Mutex::new(faults.iter().map(|&fault| Armed { fault, seen: 0 }).collect()),
            links: Mutex::default(),
            refuse_until: Mutex::default(),
            progress: Progress::default(),
            closed: AtomicBool::new(false),
            carriers: Mutex::default(),
            idle: Condvar::new(),
            processes,
            trace: Trace::default(),
        });
        let theirs = shared.clone();
        let keep = move || {
            while let Ok(source) = listener.accept() {
                if theirs.closed.load(Ordering::SeqCst) {
                    return;
                }
                theirs.connect(source);
            }
        };
        let door =
            std::thread::Builder::new().name("proxy".into()).spawn(keep).map_err(ProxyError::Thread)?;
        Ok(Self { address, shared, door: Some(door) })
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What has passed so far, oldest first. Long ago is forgotten.
    #[must_use]
    pub fn trace(&self) -> Vec<Passed> {
        self.shared.trace.passed()
    }

    /// Whether all of a frame of this name was passed on; `None` if none came.
    pub fn has_passed(&self, name: FrameName) -> Option<bool> {
        self.shared.trace.has_passed(name)
    }

    /// The faults that struck so far.
    #[must_use]
    pub fn struck(&self) -> Vec<Struck> {
        self.shared.trace.struck()
    }

    /// Closes all connections. When this returns nothing passes and nothing is done any more, and [`Self::trace`] and
    /// [`Self::struck`] are complete.
    pub fn close(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        if let Some(door) = self.door.take() {
            // Wakes the listener up. If it cannot be reached it has ended.
            if Stream::dial(&self.address).is_ok() {
                let _ = door.join();
            }
        }
        self.shared.for_all(Link::close);
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
        // A carrier may be about to kill a process: nothing is done any more when this returns.
        let deadline = Instant::now() + FAREWELL;
        let mut carriers = self.shared.carriers.lock();
        while *carriers > 0 && !self.shared.idle.wait_until(&mut carriers, deadline).timed_out() {}
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

/// How long carriers may take to notice that all is over: one of them may wait for a process to die.
const FAREWELL: Duration = Duration::from_secs(10);

impl Shared {
    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The faults that strike at what is about to pass, each with its place from the first byte on. They are not armed any more.
    pub(crate) fn due(&self, passing: &Passing) -> VecDeque<(u64, Fault)> {
        let &Passing { which, way, name, number, position, length, phase } = passing;
        let mut due = Vec::new();
        if self.closed.load(Ordering::SeqCst) {
            return due.into();
        }
        self.faults.lock().retain_mut(|armed| {
            let fault = armed.fault;
            if !fault.place.connections.include(which) {
                return true;
            }
            let place = match fault.place.moment {
                Moment::Number(of, nth) => (of == way && nth == number).then_some(0),
                Moment::Byte(of, byte) => {
                    (of == way && (position..position + length).contains(&byte)).then(|| byte - position)
                }
                Moment::Phase(of, wanted, byte) => phase
                    .filter(|(phase, from)| {
                        of == way && *phase == wanted && (*from..*from + length).contains(&byte)
                    })
                    .map(|(_, from)| byte - from),
                Moment::Frame { edge, name: wanted, nth } if name == Some(wanted) => {
                    armed.seen += 1;
                    (armed.seen == nth).then_some(match edge {
                        Edge::Before => 0,
                        Edge::After => length,
                        Edge::In(byte) => byte % length.max(1),
                    })
                }
                Moment::Frame { .. } => None,
            };
            due.extend(place.map(|place| (place, fault)));
            place.is_none()
        });
        due.sort_by_key(|(place, _)| *place);
        due.into()
    }

    /// Does something to every connection.
    pub(crate) fn for_all(&self, something: impl Fn(&Link)) {
        let links: Vec<_> = self.links.lock().iter().filter_map(Weak::upgrade).collect();
        links.iter().for_each(|link| something(link));
    }

    /// Resets all connections, and every one that comes within the time.
    pub(crate) fn refuse_for(&self, time: Duration) {
        *self.refuse_until.lock() = Some(Instant::now() + time);
        self.for_all(Link::reset);
    }

    /// A carrier is done.
    fn left(&self) {
        *self.carriers.lock() -= 1;
        self.idle.notify_all();
    }

    fn connect(self: &Arc<Self>, source: Stream) {
        let refused = self.refuse_until.lock().is_some_and(|until| Instant::now() < until);
        let destination = if refused { None } else { Stream::dial(&self.destination).ok() };
        let Some(destination) = destination else { return source.reset_on_close() };
        let link = Arc::new(Link::new(source, destination));
        link.expect(self.progress.expect(&link));
        let mut links = self.links.lock();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        drop(links);
        for way in [Way::ToDestination, Way::ToSource] {
            let carrier = Carrier::new(self.clone(), link.clone(), way);
            *self.carriers.lock() += 1;
            let shared = self.clone();
            let carry = move || {
                carrier.run();
                shared.left();
            };
            let spawned = std::thread::Builder::new().name(format!("proxy-{way}")).spawn(carry);
            if spawned.is_err() {
                self.left();
                // Without one of its ways it is no connection.
                return link.reset();
            }
        }
    }
}
