//! A link for who may not make one: what goes through it is paced, together over all connections.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Passes on what is sent to its port, to the port that it was told, no faster than it was told.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: AtomicU16,
    bytes: AtomicU64,
    rate: AtomicU64,
    /// When the wire is free again.
    free: Mutex<Instant>,
    ends: AtomicBool,
}

/// As much as passes at once.
const PIECE: usize = 64 << 10;
/// How long nothing may come before it is looked whether all of it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What may pass at once where nothing did before.
const BURST: Duration = Duration::from_millis(1);

impl Proxy {
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            to: AtomicU16::new(0),
            bytes: AtomicU64::new(0),
            rate: AtomicU64::new(u64::MAX),
            free: Mutex::new(Instant::now()),
            ends: AtomicBool::new(false),
        });
        let ours = shared.clone();
        thread::Builder::new().name("proxy".into()).spawn(move || ours.accept(&listener))?;
        Ok(Self { port, shared })
    }

    /// From here on it carries so many bytes each second.
    pub(super) fn carry(&self, bytes: u64) {
        self.shared.rate.store(bytes.max(1), Ordering::Relaxed);
    }

    /// Who connects from here on comes to that port. Returns where to connect.
    pub(super) fn lead_to(&self, port: &str) -> u16 {
        self.shared.to.store(port.parse().unwrap_or(0), Ordering::Relaxed);
        self.port
    }

    /// Bytes that have gone to the destination, ever.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.ends.load(Ordering::Relaxed) {
            let Ok((source, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(2));
                continue;
            };
            // A destination that is not there is one that closes the connection.
            let Ok(destination) = TcpStream::connect(("127.0.0.1", self.to.load(Ordering::Relaxed))) else {
                continue;
            };
            let passed = self.pass(source, destination);
            if let Err(error) = passed {
                output::complain!("whimbrel compare: a connection could not be passed on: {error}");
            }
        }
    }

    fn pass(self: &Arc<Self>, source: TcpStream, destination: TcpStream) -> io::Result<()> {
        for one in [&source, &destination] {
            one.set_nonblocking(false)?;
            one.set_nodelay(true)?;
            one.set_read_timeout(Some(LOOK_EVERY))?;
        }
        let (back_from, back_to) = (destination.try_clone()?, source.try_clone()?);
        let (forth, back) = (self.clone(), self.clone());
        thread::Builder::new()
            .name("proxy-forth".into())
            .spawn(move || forth.copy(source, destination, true))?;
        thread::Builder::new()
            .name("proxy-back".into())
            .spawn(move || back.copy(back_from, back_to, false))?;
        Ok(())
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, paced: bool) {
        let mut piece = vec![0; PIECE];
        while !self.ends.load(Ordering::Relaxed) {
            let count = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            if paced {
                self.wait_for_the_wire(count as u64);
                self.bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            if to.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        // Either may have gone before.
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }

    fn wait_for_the_wire(&self, bytes: u64) {
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate.load(Ordering::Relaxed) as f64);
        let now = Instant::now();
        let until = {
            let mut free = self.free.lock();
            *free = (*free).max(now.checked_sub(BURST).unwrap_or(now)) + takes;
            *free
        };
        thread::sleep(until.saturating_duration_since(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_whole_and_paced() {
        let destination = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start().unwrap();
        proxy.carry(10_000_000);
        let port = proxy.lead_to(&destination.local_addr().unwrap().port().to_string());
        let begun = Instant::now();
        let mut source = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut there, _) = destination.accept().unwrap();
        let sender = thread::spawn(move || {
            source.write_all(&vec![7; 3_000_000]).unwrap();
            source.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            source.read_to_end(&mut answer).unwrap();
            answer
        });
        let mut all = Vec::new();
        there.read_to_end(&mut all).unwrap();
        assert_eq!((all.len(), proxy.bytes()), (3_000_000, 3_000_000));
        assert!(begun.elapsed() > Duration::from_millis(280), "{:?}", begun.elapsed());
        there.write_all(b"ok").unwrap();
        drop(there);
        assert_eq!(sender.join().unwrap(), b"ok");
    }
}
