//! What a running machine waits for: hears its faults, and asks the source for the pages.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ram::{Fault, Incomplete};
use transport::Connection;
use wire::{Batch, Request};

use super::{
    block_time::{BlockTime, Blocked},
    latency::Latencies,
    stages::{Came, Stages},
    timeline::{Notes, Timeline},
};

/// How a machine that runs here waited for pages that followed it.
#[derive(Clone, Debug)]
pub struct Waits {
    /// How long each access to a missing page took, whichever thread's.
    pub latencies: Latencies,
    /// Where that time went, of those that pages ended that came on a connection.
    pub stages: Stages,
    /// How long vCPUs stood still.
    pub block_time: BlockTime,
    /// How the pages came.
    pub timeline: Timeline,
}

/// How long a machine that is being loaded may wait for one page.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request may take to go out: it is a few bytes, for which there is room unless the source does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the kernel could not map a page.
const RETRY: Duration = Duration::from_millis(100);

/// Pages that are waited for, and the connection to ask for them on.
#[derive(Debug)]
pub(super) struct Faults {
    waiting: Mutex<Waiting>,
    /// Entries of it: who receives pages that nobody waits for takes no lock.
    count: AtomicUsize,
    /// Whether the machine is loaded: from then on its memory is not given up here.
    runs: AtomicBool,
    memory: Mutex<Option<Arc<Incomplete>>>,
}

#[derive(Debug)]
struct Waiting {
    /// By block and first page.
    pages: HashMap<(u16, u64), Awaited>,
    link: Option<Asking>,
    /// How long it took from when the fault was heard.
    latencies: Latencies,
    stages: Stages,
    blocked: Blocked,
    notes: Notes,
}

/// Pages that were asked for.
#[derive(Debug)]
struct Awaited {
    pages: u32,
    since: Instant,
    /// Who waits for them.
    threads: Vec<u32>,
}

#[derive(Debug)]
struct Asking {
    connection: Arc<Connection>,
    sequence: u32,
}

impl Default for Faults {
    fn default() -> Self {
        let waiting = Waiting {
            pages: HashMap::new(),
            link: None,
            latencies: Latencies::default(),
            stages: Stages::default(),
            blocked: Blocked::default(),
            notes: Notes::from(Instant::now()),
        };
        Self {
            waiting: Mutex::new(waiting),
            count: AtomicUsize::new(0),
            runs: AtomicBool::new(false),
            memory: Mutex::new(None),
        }
    }
}

impl Faults {
    /// Hears faults in `memory` until it is told to stop.
    pub(super) fn hear(&self, memory: &Incomplete) {
        let mut faults = Vec::new();
        loop {
            match memory.wait(&mut faults, self.patience()) {
                Ok(true) => {}
                Ok(false) => return,
                // For lack of memory, as a rule: what waits is tried again.
                Err(error) => {
                    tracing::error!("A page of the machine that is here cannot be mapped: {error}");
                    std::thread::sleep(RETRY);
                }
            }
            let mut waiting = self.waiting.lock();
            let now = Instant::now();
            waiting.notes.note(now, memory.remaining(), faults.len() as u64);
            faults.drain(..).for_each(|fault| waiting.hear(fault, now));
            self.count.store(waiting.pages.len(), Ordering::SeqCst);
            // What came between the fault and here is not announced again.
            waiting.forget(None, |block, first, pages| is_here(memory, block, first, pages));
            self.count.store(waiting.pages.len(), Ordering::SeqCst);
        }
    }

    /// How long to wait for a fault: until there is something to note. While the machine is being loaded, no page is waited for without
    /// an end: the source may have fallen silent, and what it was to bring does not come.
    fn patience(&self) -> Option<Duration> {
        let waiting = self.waiting.lock();
        if self.runs.load(Ordering::SeqCst) {
            return Some(waiting.notes.step());
        }
        let oldest = waiting.pages.values().map(|awaited| awaited.since.elapsed()).max();
        drop(waiting);
        if oldest.is_some_and(|waited| waited >= LOAD_PATIENCE) {
            self.give_up_loading();
        }
        Some(LOAD_PATIENCE / 10)
    }

    /// From here on pages are asked for on `connection`, those first that are waited for already.
    pub(super) fn ask_on(&self, connection: Arc<Connection>) {
        let mut waiting = self.waiting.lock();
        waiting.link = Some(Asking { connection, sequence: 0 });
        let requests: Vec<_> = waiting
            .pages
            .iter()
            .map(|(&(block, first_page), awaited)| Request { block, first_page, pages: awaited.pages })
            .collect();
        requests.into_iter().for_each(|request| waiting.ask(request));
    }

    /// There is no connection to ask on any more. Who waits while the machine is being loaded waits in vain.
    pub(super) fn hang_up(&self) {
        self.waiting.lock().link = None;
        self.give_up_loading();
    }

    /// Lets go who waits while the machine is being loaded.
    fn give_up_loading(&self) {
        // One lock for the look and what follows from it: a machine that runs from a moment later on must not lose its memory.
        let mut memory = self.memory.lock();
        if !self.runs.load(Ordering::SeqCst)
            && let Some(memory) = memory.take()
        {
            memory.abandon();
        }
    }

    /// The machine of this memory, and with these threads of vCPUs, is being loaded.
    pub(super) fn loads(&self, memory: Arc<Incomplete>, vcpus: &[u32]) {
        let mut waiting = self.waiting.lock();
        waiting.blocked = Blocked::of(vcpus);
        waiting.notes = Notes::from(Instant::now());
        *self.memory.lock() = Some(memory);
    }

    /// Nothing waits any more. What is known of it stays, and the memory is let go of.
    pub(super) fn end(&self) {
        self.memory.lock().take();
    }

    /// The machine is loaded. Returns whether its memory was not given up before.
    pub(super) fn runs(&self) -> bool {
        let memory = self.memory.lock();
        self.runs.store(memory.is_some(), Ordering::SeqCst);
        memory.is_some()
    }

    /// Pages have come, and are before the machine.
    pub(super) fn came(&self, batch: &Batch, came: Came) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        let Some(memory) = self.memory.lock().clone() else { return };
        waiting.forget(Some(came), |block, first, pages| {
            block == batch.block && is_here(&memory, block, first, pages)
        });
        self.count.store(waiting.pages.len(), Ordering::SeqCst);
    }

    /// How the machine waited up to now.
    pub(super) fn waits(&self) -> Waits {
        let waiting = self.waiting.lock();
        Waits {
            latencies: waiting.latencies.clone(),
            stages: waiting.stages,
            block_time: waiting.blocked.read(Instant::now()),
            timeline: waiting.notes.timeline().clone(),
        }
    }
}

/// Whether all of these pages are here.
fn is_here(memory: &Incomplete, block: u16, first: u64, pages: u32) -> bool {
    let missing = memory.missing(usize::from(block)).next(first);
    missing.is_none_or(|page| page >= first + u64::from(pages))
}

impl Waiting {
    /// Somebody waits: asks for the pages, unless that was done.
    fn hear(&mut self, fault: Fault, now: Instant) {
        let Fault { block, first_page, pages, thread } = fault;
        self.blocked.waits(thread, (block, first_page), now);
        match self.pages.entry((block, first_page)) {
            // It has been waited for since then.
            Entry::Occupied(mut entry) => {
                // Once: a vCPU that is called away comes back to it as often as it is called.
                let threads = &mut entry.get_mut().threads;
                if !threads.contains(&thread) {
                    threads.push(thread);
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(Awaited { pages, since: now, threads: vec![thread] });
                self.ask(Request { block, first_page, pages });
            }
        }
    }

    fn ask(&mut self, request: Request) {
        let Some(asking) = &mut self.link else { return };
        let frame = request.encode(asking.sequence);
        asking.sequence = asking.sequence.wrapping_add(1);
        // Whoever reads the connection notices its end. What was asked for is asked for again on the next.
        let _ = asking.connection.send_within(&frame, SEND_TIMEOUT);
    }

    /// Forgets what is there. `came` says how, where that is known.
    fn forget(&mut self, came: Option<Came>, is_here: impl Fn(u16, u64, u32) -> bool) {
        let Self { pages, latencies, stages, blocked, .. } = self;
        let now = Instant::now();
        pages.retain(|&(block, first_page), awaited| {
            let here = is_here(block, first_page, awaited.pages);
            if here {
                latencies.add(now.saturating_duration_since(awaited.since));
                came.into_iter().for_each(|came| stages.add(awaited.since, came, now));
                awaited.threads.iter().for_each(|thread| blocked.goes_on(*thread, (block, first_page), now));
            }
            !here
        });
    }
}
