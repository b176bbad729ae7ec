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

use super::latency::Latencies;

/// How long a machine that is being loaded may wait for one page.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request may take to go out: it is a few bytes, for which there is room unless the source does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the kernel could not map a page.
const RETRY: Duration = Duration::from_millis(100);

/// Pages that are waited for, and the connection to ask for them on.
#[derive(Debug, Default)]
pub(super) struct Faults {
    waiting: Mutex<Waiting>,
    /// Entries of it: who receives pages that nobody waits for takes no lock.
    count: AtomicUsize,
    /// Whether the machine is loaded: from then on its memory is not given up here.
    runs: AtomicBool,
    memory: Mutex<Option<Arc<Incomplete>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By block and first page: what was asked for and since when somebody waits for it.
    pages: HashMap<(u16, u64), (u32, Instant)>,
    link: Option<Asking>,
    /// How long it took from when the fault was heard.
    latencies: Latencies,
}

#[derive(Debug)]
struct Asking {
    connection: Arc<Connection>,
    sequence: u32,
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
            for fault in faults.drain(..) {
                let Fault { block, first_page, pages, .. } = fault;
                // Where it was asked for already, it has been waited for since then.
                if let Entry::Vacant(entry) = waiting.pages.entry((block, first_page)) {
                    entry.insert((pages, Instant::now()));
                    waiting.ask(Request { block, first_page, pages });
                }
            }
            self.count.store(waiting.pages.len(), Ordering::SeqCst);
            // What came between the fault and here is not announced again.
            waiting.forget(|block, first, pages| is_here(memory, block, first, pages));
            self.count.store(waiting.pages.len(), Ordering::SeqCst);
        }
    }

    /// How long to wait for a fault: as long as it takes, but for a machine that is being loaded. The source may have fallen silent,
    /// and what it was to bring does not come.
    fn patience(&self) -> Option<Duration> {
        if self.runs.load(Ordering::SeqCst) {
            return None;
        }
        let oldest = self.waiting.lock().pages.values().map(|(_, since)| since.elapsed()).max();
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
            .map(|(&(block, first_page), &(pages, _))| Request { block, first_page, pages })
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
        if !self.runs.load(Ordering::SeqCst)
            && let Some(memory) = self.memory.lock().take()
        {
            memory.abandon();
        }
    }

    /// The machine of this memory is being loaded.
    pub(super) fn loads(&self, memory: Arc<Incomplete>) {
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

    /// Pages have come.
    pub(super) fn came(&self, batch: &Batch) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        let Some(memory) = self.memory.lock().clone() else { return };
        waiting.forget(|block, first, pages| block == batch.block && is_here(&memory, block, first, pages));
        self.count.store(waiting.pages.len(), Ordering::SeqCst);
    }

    /// How long the machine waited for pages that have come.
    pub(super) fn latencies(&self) -> Latencies {
        self.waiting.lock().latencies.clone()
    }
}

/// Whether all of these pages are here.
fn is_here(memory: &Incomplete, block: u16, first: u64, pages: u32) -> bool {
    let missing = memory.missing(usize::from(block)).next(first);
    missing.is_none_or(|page| page >= first + u64::from(pages))
}

impl Waiting {
    fn ask(&mut self, request: Request) {
        let Some(asking) = &mut self.link else { return };
        let frame = request.encode(asking.sequence);
        asking.sequence = asking.sequence.wrapping_add(1);
        // Whoever reads the connection notices its end. What was asked for is asked for again on the next.
        let _ = asking.connection.send_within(&frame, SEND_TIMEOUT);
    }

    /// Forgets what is there.
    fn forget(&mut self, is_here: impl Fn(u16, u64, u32) -> bool) {
        let latencies = &mut self.latencies;
        self.pages.retain(|&(block, first_page), &mut (pages, since)| {
            let here = is_here(block, first_page, pages);
            if here {
                latencies.add(since.elapsed());
            }
            !here
        });
    }
}
