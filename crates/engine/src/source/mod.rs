//! Moves a machine away.
//!
//! [`start`] returns at once with a [`Handle`]; the attempt goes on in the background, on a migration thread ([`Attempt`]).

mod abandoned;
mod attempt;
mod carry_out;
mod channels;
mod choice;
mod encoder;
mod handle;
mod look;
mod looks;
mod needed;
mod outlet;
mod packed_share;
mod postcopy;
mod probe;
mod pulse;
mod pusher;
mod readers;
mod sender;
mod slowing;
mod stalls;
mod stride;
mod work;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender as Queue, bounded, unbounded};
use migration::{FixedCosts, Params, Source, Status, source::Event};
use parking_lot::Mutex;
use transport::{Connection, Dial, Pacer, Security};
use wire::{Greeted, Hello, Message, Offer, SessionId};

use self::{
    abandoned::Abandoned, attempt::Attempt, encoder::EncodedCounters, outlet::ZeroCopyCounters,
    stalls::Stalls, work::RoundProgress,
};
use crate::{
    MachineError, Observer, PlainThreads, SourceMachine, ThreadRole, Threads, cpu_time::CpuTime, machine,
    main_thread::MainThread, threads,
};

pub use self::{
    encoder::EncodedFigures,
    handle::{Handle, Snapshot},
    outlet::ZeroCopyFigures,
    packed_share::packed_share,
    probe::{Measured, ProbeError, probe, probe_on},
    slowing::VcpuSlowed,
    stalls::RoundStalls,
};

/// How long dialling may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);

/// Where to migrate to, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Target {
    /// Makes the connections to the destination.
    pub dial: Arc<dyn Dial>,
    /// Identifies the attempt; random.
    pub session: SessionId,
    /// What this side can do, and its release.
    pub offer: Offer,
    /// What switchovers have cost so far, if that is known.
    pub fixed_costs: FixedCosts,
}

impl Target {
    /// To where `dial` leads, in an attempt that `session` identifies, from a side that can do what `offer` says. What switchovers
    /// have cost is not known.
    pub fn new(dial: impl Dial + 'static, session: SessionId, offer: Offer) -> Self {
        Self { dial: Arc::new(dial), session, offer, fixed_costs: FixedCosts::default() }
    }
}

/// What the migration thread and those who ask about it share.
#[derive(Debug)]
struct Shared {
    source: Mutex<Source>,
    /// The last status that was told.
    status: Mutex<Status>,
    began: Instant,
    progress: Arc<RoundProgress>,
    encoded: Arc<EncodedCounters>,
    zero_copy: Arc<ZeroCopyCounters>,
    pacer: Arc<Pacer>,
    /// Of pages that follow the machine.
    push_pacer: Mutex<Arc<Pacer>>,
    /// What the destination lacks whose machine runs.
    needed: pusher::Slot,
    /// Pages that the machine asked for there, before the last recovery.
    requests: AtomicU64,
    cpu: Arc<CpuTime>,
    channels: AtomicU16,
    /// Of the control connection.
    security: Mutex<Option<Security>>,
    /// How often page channels have renewed their keys, up to the last round that is over.
    rekeys: AtomicU64,
    stalls: Mutex<Stalls>,
    /// What was taken from vCPUs.
    slowed: Arc<Mutex<Vec<VcpuSlowed>>>,
}

impl Shared {
    /// Tells a status, once: to the observer, and from then on to whoever asks.
    fn tell(&self, status: Status, observer: &dyn Observer) {
        let mut publish = || *self.status.lock() = status;
        observer.status(status, &mut publish);
        publish();
    }
}

/// What reaches the migration thread.
#[derive(Debug)]
enum Input {
    Event(Event),
    /// The destination is to be found again by this.
    Found(Arc<dyn Dial>),
    /// A dial is over, greetings included; the number tells it apart from an older one.
    Dialled(u32, Result<(Arc<Connection>, Greeted), String>),
    /// The reader of control connection number so-and-so heard something or ended.
    Heard(u32, Result<Message, String>),
}

/// Starts moving `machine` to `target`.
///
/// # Errors
/// The machine cannot describe itself, or no thread can be started. Nothing has happened then.
pub fn start(
    machine: Arc<dyn SourceMachine>,
    params: Params,
    target: Target,
    observer: Arc<dyn Observer>,
) -> Result<Handle, MachineError> {
    let threads: Arc<dyn Threads> = Arc::new(PlainThreads);
    start_on(&threads, machine, params, target, observer)
}

/// Like [`start`], with threads of the caller's making.
///
/// # Errors
/// As [`start`].
pub fn start_on(
    threads: &Arc<dyn Threads>,
    machine: Arc<dyn SourceMachine>,
    params: Params,
    target: Target,
    observer: Arc<dyn Observer>,
) -> Result<Handle, MachineError> {
    let _about = threads::about(target.session).entered();
    let hello = describe(machine.as_ref(), &params, &target)?;
    let progress = Arc::new(RoundProgress::default());
    let pacer = Arc::new(Pacer::new(params.max_bandwidth));
    let (source, actions) = Source::start(params, hello, target.fixed_costs);
    let shared = Arc::new(Shared {
        source: Mutex::new(source),
        status: Mutex::new(Status::Setup),
        began: Instant::now(),
        progress,
        encoded: Arc::default(),
        zero_copy: Arc::default(),
        pacer,
        push_pacer: Mutex::new(Arc::new(Pacer::new(0))),
        needed: Arc::default(),
        requests: 0.into(),
        cpu: Arc::default(),
        channels: 0.into(),
        security: Mutex::default(),
        rekeys: 0.into(),
        stalls: Mutex::default(),
        slowed: Arc::default(),
    });
    let (events, inputs) = unbounded();
    let (living, alive) = bounded(0);
    let abandoned =
        Abandoned { machine: machine.clone(), observer: observer.clone(), shared: shared.clone() };
    let attempt = Attempt::new(threads.clone(), machine, target, observer, shared.clone(), events.clone());
    let run = move || {
        let _living: Queue<()> = living;
        attempt.run(actions, &inputs);
    };
    let failed = move |reason| abandoned.take_back(reason);
    let thread = threads::spawn(threads, ThreadRole::Migration, "migration", run, failed)?;
    Ok(Handle { shared, events, thread: MainThread::new(alive, thread) })
}

fn describe(machine: &dyn SourceMachine, params: &Params, target: &Target) -> Result<Hello, MachineError> {
    let ram = machine.ram();
    Ok(Hello {
        session: target.session,
        channels: params.channels,
        page_bytes: wire::PAGE_BYTES as u32,
        digest: params.digest,
        blocks: machine::blocks(&ram),
        devices: machine.devices(),
        machine: machine.description()?,
        postcopy: params.postcopy.is_possible(),
    })
}
