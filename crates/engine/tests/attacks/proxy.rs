//! A proxy that breaks, stalls or damages what goes through it.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use transport::Address;
use wire::{FrameHeader, FrameKind, GREETING_BYTES, HEADER_BYTES, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToDestination,
    ToSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The connection ends in both directions.
    Cut,
    /// Nothing goes through in either direction for so long.
    Stall(Duration),
    /// One bit is changed; not together with [`Moment::After`].
    Flip,
}

/// When the harm is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After so many bytes of connection number so-and-so; 0 is the control connection.
    Byte(usize, u64),
    /// When this message comes along; before it goes on, or after.
    Before(&'static str),
    After(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) moment: Moment,
    pub(crate) way: Way,
    pub(crate) harm: Harm,
}

/// Listens for a source and connects it to a destination, and does one harm once.
pub(crate) struct Proxy {
    pub(crate) address: Address,
    shared: Arc<Shared>,
}

struct Shared {
    plan: Plan,
    destination: Address,
    done: AtomicBool,
    connections: AtomicUsize,
    stalled_until: Mutex<Option<Instant>>,
    closed: AtomicBool,
}

impl Proxy {
    pub(crate) fn new(destination: &Address, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            plan,
            destination: destination.clone(),
            done: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            stalled_until: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        std::thread::spawn(move || {
            while let Ok((source, _)) = listener.accept() {
                if theirs.closed.load(Ordering::SeqCst) {
                    return;
                }
                theirs.clone().connect(&source);
            }
        });
        Self { address: Address::Tcp { host: "127.0.0.1".into(), port }, shared }
    }

    /// Whether the harm was done.
    pub(crate) fn has_struck(&self) -> bool {
        self.shared.done.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let Address::Tcp { host, port } = &self.address else { return };
        // Wakes the listener up.
        let _ = TcpStream::connect((host.as_str(), *port));
    }
}

impl Shared {
    fn connect(self: Arc<Self>, source: &TcpStream) {
        let Address::Tcp { host, port } = &self.destination else { panic!("not TCP") };
        let Ok(destination) = TcpStream::connect((host.as_str(), *port)) else { return };
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        source.set_nodelay(true).unwrap();
        destination.set_nodelay(true).unwrap();
        let ways = [(Way::ToDestination, source, &destination), (Way::ToSource, &destination, source)];
        for (way, from, to) in ways {
            let (shared, from, to) = (self.clone(), from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || {
                shared.carry(number, way, &from, &to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    /// Carries bytes one way until an end closes or the connection is cut.
    fn carry(&self, number: usize, way: Way, mut from: &TcpStream, mut to: &TcpStream) {
        let by_message = number == 0 && way == self.plan.way && !matches!(self.plan.moment, Moment::Byte(..));
        let (mut carried, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            let bytes = if by_message && carried == 0 {
                let mut greeting = vec![0; GREETING_BYTES];
                if from.read_exact(&mut greeting).is_err() {
                    return;
                }
                greeting
            } else if by_message {
                let Some(frame) = read_frame(from) else { return };
                frame
            } else {
                let Ok(read @ 1..) = from.read(&mut buffer) else { return };
                buffer[..read].to_vec()
            };
            self.wait();
            let at = self.strikes_at(number, way, carried, &bytes);
            carried += bytes.len() as u64;
            let Some(at) = at else {
                if to.write_all(&bytes).is_err() {
                    return;
                }
                continue;
            };
            let (before, after) = bytes.split_at(at);
            let mut after = after.to_vec();
            if to.write_all(before).is_err() {
                return;
            }
            match self.plan.harm {
                Harm::Cut => return,
                Harm::Flip => after[0] ^= 1 << (at % 8),
                Harm::Stall(time) => *self.stalled_until.lock().unwrap() = Some(Instant::now() + time),
            }
            self.wait();
            if to.write_all(&after).is_err() {
                return;
            }
        }
    }

    /// Before which of these bytes the harm is due, if it is; their number for after all of them.
    fn strikes_at(&self, number: usize, way: Way, carried: u64, bytes: &[u8]) -> Option<usize> {
        if way != self.plan.way {
            return None;
        }
        let at = match self.plan.moment {
            Moment::Byte(of, at) => {
                let is_here = of == number && (carried..carried + bytes.len() as u64).contains(&at);
                is_here.then(|| (at - carried) as usize)?
            }
            Moment::Before(name) => (number == 0 && name_of(bytes) == Some(name)).then_some(0)?,
            Moment::After(name) => (number == 0 && name_of(bytes) == Some(name)).then_some(bytes.len())?,
        };
        (!self.done.swap(true, Ordering::SeqCst)).then_some(at)
    }

    /// Waits until a stall is over.
    fn wait(&self) {
        loop {
            let until = *self.stalled_until.lock().unwrap();
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left);
        }
    }
}

/// A whole control frame; `None` at the end of the stream.
fn read_frame(mut from: &TcpStream) -> Option<Vec<u8>> {
    let mut raw = [0; HEADER_BYTES];
    from.read_exact(&mut raw).ok()?;
    let header = FrameHeader::decode(&raw).unwrap();
    assert_eq!(header.kind, FrameKind::Control);
    let mut frame = raw.to_vec();
    frame.resize(HEADER_BYTES + header.length as usize, 0);
    from.read_exact(&mut frame[HEADER_BYTES..]).ok()?;
    Some(frame)
}

fn name_of(frame: &[u8]) -> Option<&'static str> {
    Some(Message::decode(frame.get(HEADER_BYTES..)?).ok()?.name())
}
