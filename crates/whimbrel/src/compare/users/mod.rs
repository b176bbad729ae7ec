//! Who uses a machine while it moves, and asks no hypervisor: somebody who pings it, two who watch a film that it
//! sends, and one who sends it a stream over TCP. Each is a thread in the network of the users.

mod film;
mod ping;
mod stream;

use std::{
    fs, io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use comparison::Trace;

use crate::rig::Namespace;

/// All of them. They stop when this is dropped.
#[derive(Debug)]
pub(super) struct Users {
    watch: Watch,
    /// Says that all of it ends when it is dropped.
    end: End,
    process: u32,
    retransmitted_before: u64,
    pings: [Task<Answers>; 2],
    films: [Task<Vec<[f64; 2]>>; 2],
    stream: Task<Vec<[f64; 2]>>,
}

type Task<T> = JoinHandle<io::Result<T>>;
/// When each ping was sent, and how many milliseconds later it was answered.
type Answers = Vec<(f64, Option<f64>)>;

/// What all of them have in common.
#[derive(Clone, Debug)]
struct Watch {
    guest: Ipv4Addr,
    /// What their times count from.
    epoch: Instant,
    ends: Arc<AtomicBool>,
}

const PING_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(10)];
/// Frames each second.
const FILMS: [u16; 2] = [25, 60];
/// As far before others as root may be: who watches must not wait for a CPU behind who is watched.
const PRIORITY: i32 = -15;

impl Users {
    /// Has all of them begin, in the network of `namespace`.
    pub(super) fn start(namespace: &Namespace, guest: Ipv4Addr) -> io::Result<Self> {
        let watch = Watch { guest, epoch: Instant::now(), ends: Arc::new(AtomicBool::new(false)) };
        let end = End(watch.ends.clone());
        let process = namespace.process_id();
        let ping = |every: Duration, id: u16| {
            let watch = watch.clone();
            namespace.spawn("ping", move || watch.at_once(|watch| ping::ping(watch, id, every)))
        };
        let film = |rate: u16| {
            let watch = watch.clone();
            namespace.spawn("film", move || watch.at_once(|watch| film::watch(watch, rate)))
        };
        let pings = [ping(PING_EVERY[0], 1)?, ping(PING_EVERY[1], 2)?];
        let films = [film(FILMS[0])?, film(FILMS[1])?];
        let theirs = watch.clone();
        let stream = namespace.spawn("stream", move || theirs.at_once(stream::send))?;
        let retransmitted_before = retransmitted(process).unwrap_or(0);
        Ok(Self { watch, end, process, retransmitted_before, pings, films, stream })
    }

    /// Has them stop, and puts what they saw into `trace`, in milliseconds from `begun` on.
    pub(super) fn finish(self, begun: Instant, trace: &mut Trace) -> io::Result<()> {
        let Self { watch, end, process, retransmitted_before, pings, films, stream } = self;
        drop(end);
        let shift = begun.saturating_duration_since(watch.epoch).as_secs_f64() * 1e3;
        let rounded = |ms: f64| (ms * 100.0).round() / 100.0;
        let pairs = |pairs: Vec<[f64; 2]>| -> Vec<_> {
            pairs.into_iter().map(|[ms, value]| [rounded(ms - shift), value]).collect()
        };
        let answers = |pings: Answers| -> Vec<_> {
            pings.into_iter().map(|(ms, answer)| (rounded(ms - shift), answer.map(rounded))).collect()
        };
        let later = retransmitted(process);
        trace.retransmissions = later.map(|later| later.saturating_sub(retransmitted_before));
        let [slow, fast] = pings;
        (trace.pings_1s, trace.pings_10ms) = (answers(joined(slow)?), answers(joined(fast)?));
        let [slow, fast] = films;
        (trace.frames_25, trace.frames_60) = (pairs(joined(slow)?), pairs(joined(fast)?));
        trace.stream = pairs(joined(stream)?);
        Ok(())
    }
}

/// Tells all of them to end when it is dropped.
#[derive(Debug)]
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Watch {
    /// Does it ahead of others.
    fn at_once<T>(&self, work: impl FnOnce(&Self) -> io::Result<T>) -> io::Result<T> {
        // Without it the figures have more noise, and are right all the same.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
        work(self)
    }

    fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Milliseconds since the epoch.
    fn ms(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64() * 1e3
    }
}

fn joined<T>(task: Task<T>) -> io::Result<T> {
    task.join().unwrap_or_else(|_| Err(io::Error::other("a thread that watches has panicked")))
}

/// Segments that were ever sent again in the network of that process: `RetransSegs` (RFC 4022) in its
/// `/proc/PID/net/snmp`.
fn retransmitted(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/net/snmp")).ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut both = names.split(' ').zip(values.split(' '));
    both.find(|(name, _)| *name == "RetransSegs")?.1.parse().ok()
}
