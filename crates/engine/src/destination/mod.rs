//! Takes a machine in.
//!
//! [`listen`] returns at once with a [`Handle`]. A migration thread ([`Server`]) serves sources, one after the other: they come and
//! fail and come again; the thread ends when a machine runs here and its source knows that, or when it is stopped.

mod accept;
mod arrived;
mod backlog;
mod barrier;
mod block_time;
mod carry_out;
mod channels;
mod encoded;
mod faults;
mod figures;
mod follow;
mod gate;
mod handle;
mod lacking;
mod latency;
mod postcopy;
mod probed;
mod pushed;
mod receiver;
mod scan;
mod server;
mod stages;
mod timeline;
mod waiting;

use std::{sync::Arc, time::Instant};

use crossbeam_channel::{Sender as Queue, bounded, unbounded};
use migration::Status;
use parking_lot::Mutex;
use ram::Incomplete;
use transport::Accept;
use wire::{Message, Offer};

use self::{
    accept::{Desk, Incoming},
    arrived::Arrived,
    backlog::Slot,
    faults::Faults,
    figures::Counts,
    probed::Probes,
    server::Server,
};
use crate::{
    DestinationMachine, Observer, PlainThreads, ThreadRole, Threads, cpu_time::CpuTime,
    main_thread::MainThread, threads,
};

pub use self::{
    block_time::BlockTime,
    faults::Waits,
    figures::{AttemptFigures, ChannelFigures},
    handle::{Handle, Snapshot},
    latency::Latencies,
    stages::Stages,
    timeline::{Step, Timeline},
};

/// What the migration thread and those who ask about it share.
#[derive(Debug)]
struct Shared {
    began: Instant,
    cpu: Arc<CpuTime>,
    view: Mutex<View>,
    probes: Arc<Probes>,
}

#[derive(Debug, Default)]
struct View {
    status: Status,
    arrived: Arc<Arrived>,
    /// Of the last attempt, or of the one under way.
    counts: Option<Arc<Counts>>,
    /// What a machine waits for that runs here while pages come; of the last attempt, or of the one under way.
    faults: Option<Arc<Faults>>,
    /// Its memory, as long as pages are missing.
    memory: Option<Arc<Incomplete>>,
    /// Why the last attempt came to nothing; `None` once another has begun.
    last_failure: Option<String>,
}

/// What reaches the migration thread. Numbers tell attempts apart: what belongs to an older one is ignored.
#[derive(Debug)]
enum Input {
    /// A connection that has said what it is, and its slot.
    Incoming(Incoming, Slot),
    Heard(u32, Result<Message, String>),
    ChannelDone(u32, Result<(), String>),
    /// Every page of the machine that runs here is here.
    Whole,
    /// No page that is missing is needed any more. Says when that is done.
    Forget(Queue<()>),
    Cancel,
    Stop,
}

/// Waits for sources that come through `listener` (a [`transport::Listener`], or an [`Accept`] of the caller's), and takes the first machine in that arrives whole. `offer` is what this side can do.
///
/// # Errors
/// No threads can be started.
pub fn listen(
    machine: Box<dyn DestinationMachine>,
    listener: impl Accept + 'static,
    offer: Offer,
    observer: Arc<dyn Observer>,
) -> std::io::Result<Handle> {
    let threads: Arc<dyn Threads> = Arc::new(PlainThreads);
    listen_on(&threads, machine, listener, offer, observer)
}

/// Like [`listen`], with threads of the caller's making.
///
/// # Errors
/// As [`listen`].
pub fn listen_on(
    threads: &Arc<dyn Threads>,
    machine: Box<dyn DestinationMachine>,
    listener: impl Accept + 'static,
    offer: Offer,
    observer: Arc<dyn Observer>,
) -> std::io::Result<Handle> {
    let view = Mutex::new(View { status: Status::Setup, ..View::default() });
    let shared =
        Arc::new(Shared { began: Instant::now(), cpu: Arc::default(), view, probes: Arc::default() });
    let (queue, inbox) = unbounded();
    let stopper = listener.stopper();
    let incoming = queue.clone();
    let deliver: accept::Deliver = Arc::new(move |connection, slot| {
        // Nobody listens when the destination is done.
        let _ = incoming.send(Input::Incoming(connection, slot));
    });
    let greeters = threads.clone();
    let desk = Arc::new(Desk::new(offer, deliver, shared.probes.clone()));
    let accept = move || accept::accept_all(&listener, &greeters, &desk);
    let failed =
        |reason| tracing::error!("{reason}: no source can connect any more, start this process anew");
    let acceptor = threads::spawn(threads, ThreadRole::Accept, "mig-accept", accept, failed)?;
    let server =
        Server::new(threads.clone(), machine, observer, shared.clone(), queue.clone(), stopper.clone());
    let (living, alive) = bounded(0);
    let run = move || {
        let _living: Queue<()> = living;
        server.run(&inbox);
        // It was stopped, and ends by itself.
        let _ = acceptor.join();
    };
    let closing = stopper.clone();
    let failed = move |reason| {
        tracing::error!("{reason}: no machine can come here any more, start this process anew");
        closing.stop();
    };
    let thread = threads::spawn(threads, ThreadRole::Migration, "migration", run, failed);
    let thread = thread.inspect_err(|_| stopper.stop())?;
    Ok(Handle { shared, queue, stopper, thread: MainThread::new(alive, thread) })
}
