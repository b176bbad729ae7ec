use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crossbeam_channel::Sender as Queue;
use migration::{
    ByWhen, FixedCosts, Params, Progress, Statistics, Status, Throttling,
    by_when::Plan,
    source::{Event, Verdict},
};
use transport::{Dial, Security};
use wire::PageCounts;

use super::{EncodedFigures, Input, RoundStalls, Shared, VcpuSlowed, ZeroCopyFigures};
use crate::main_thread::MainThread;

/// An attempt under way, or over.
#[derive(Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) events: Queue<Input>,
    pub(super) thread: MainThread,
}

/// The figures of an attempt at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it stands. The attempt counts as under way until everything is cleaned up and the observer was told of its end:
    /// who sees that it is over may start the next.
    pub status: Status,
    /// Figures of the rounds that are over.
    pub statistics: Statistics,
    /// How far it is.
    pub progress: Progress,
    /// Parameters in force.
    pub params: Params,
    /// Since the start; stops at the end.
    pub elapsed: Duration,
    /// Bytes sent, the round under way included.
    pub sent_bytes: u64,
    /// Pages sent, the round under way included.
    pub pages: PageCounts,
    /// What encodings of pages have done.
    pub encoded: EncodedFigures,
    /// What was sent without a copy.
    pub zero_copy: ZeroCopyFigures,
    /// Pages left to send.
    pub remaining_pages: u64,
    /// Pages that the machine asked for, running at the destination.
    pub requests: u64,
    /// Bytes sent since it ran there.
    pub postcopy_bytes: u64,
    /// CPU time of the engine's threads.
    pub cpu: Duration,
    /// Page channels that are open.
    pub channels: u16,
    /// How the control connection is encrypted, and who the destination is; `None` where it is not, or there is none yet. Page
    /// channels are encrypted in the same way.
    pub security: Option<Security>,
    /// What vCPUs spent besides the guest, in every round that is over and in which the machine ran.
    pub stalls: Vec<RoundStalls>,
    /// What was taken from each vCPU; empty if nothing ever was.
    pub slowed: Vec<VcpuSlowed>,
    /// The share of their time that is taken from vCPUs that write.
    pub throttle: f64,
    /// What is planned to be over in time, where there is a deadline.
    pub plan: Option<Plan>,
    /// Switchover costs as measured.
    pub fixed_costs: FixedCosts,
}

impl Handle {
    /// Asks for the attempt to be cancelled. Without effect once the destination was told to run the machine.
    pub fn cancel(&self) {
        self.post(Event::Cancel);
    }

    /// Cancels the attempt as there is no machine to move any more; the destination is told `why`. Without effect once that was told to
    /// run it.
    pub fn machine_ends(&self, why: &str) {
        self.shared.source.lock().machine_ends(why);
        self.post(Event::Cancel);
    }

    /// Lets a switchover that waits go on.
    pub fn proceed(&self) {
        self.post(Event::Continue);
    }

    /// Has the machine run at the destination now, its memory follow. Without effect where that was not made possible
    /// ([`Params::postcopy`]) or the machine is stopped already.
    pub fn start_postcopy(&self) {
        self.post(Event::StartPostcopy);
    }

    /// Breaks the link to a destination whose machine lacks pages, until [`Self::recover`].
    pub fn pause(&self) {
        self.post(Event::Pause);
    }

    /// Finds a destination again whose machine lacks pages, now.
    pub fn recover(&self) {
        self.post(Event::Recover);
    }

    /// The same, by connections that `dial` makes: the destination may be reached in another way now.
    pub fn recover_by(&self, dial: impl Dial + 'static) {
        // Fails only when the attempt is over.
        let _ = self.events.send(Input::Found(Arc::new(dial)));
    }

    /// Changes how many bytes per second follow a machine that runs, 0 for no limit.
    pub fn set_postcopy_bandwidth(&self, bytes: u64) {
        self.shared.source.lock().set_postcopy_bandwidth(bytes);
        self.shared.push_pacer.lock().set_rate(bytes);
    }

    /// Whether it is unknown who has the machine.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self.shared.status.lock() == Status::Unknown
    }

    /// Whether that will stay so: a defect ended the thread that waited for the answer to *go*, and for an operator's.
    #[must_use]
    pub fn is_unknown_for_ever(&self) -> bool {
        let status = self.shared.status.lock();
        *status == Status::Unknown && self.thread.has_ended()
    }

    /// Says who has the machine. Without effect unless that is unknown.
    pub fn decide(&self, verdict: Verdict) {
        self.post(Event::Decided(verdict));
    }

    /// Changes the parameters that are live.
    pub fn set_live(&self, max_bandwidth: u64, downtime_limit: Duration, switchover_bandwidth: u64) {
        self.shared.source.lock().set_live(max_bandwidth, downtime_limit, switchover_bandwidth);
        self.shared.pacer.set_rate(max_bandwidth);
    }

    /// Changes by when it is to be over, since its start, and how vCPUs may be slowed down.
    pub fn set_ending(&self, throttling: Throttling, by_when: Option<ByWhen>) {
        self.shared.source.lock().set_ending(throttling, by_when);
        // So that it holds at once.
        self.post(Event::Tick);
    }

    /// The figures now. Never waits for the network.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let mut source = shared.source.lock();
        let (round_bytes, round_pages) =
            (shared.progress.sent_bytes.load(Ordering::Relaxed), shared.progress.pages.get());
        let now = shared.began.elapsed();
        let progress = source.progress(now, round_bytes, round_pages.total());
        let statistics = source.statistics().clone();
        let mut pages = statistics.pages;
        let needed = shared.needed.lock().clone();
        let remaining = match &needed {
            Some(needed) if source.status().is_postcopy() => needed.left(),
            _ => statistics.remaining_pages.saturating_sub(round_pages.total()),
        };
        pages += round_pages;
        Snapshot {
            status: *shared.status.lock(),
            progress,
            params: source.params().clone(),
            elapsed: statistics.total.unwrap_or(now),
            sent_bytes: statistics.bytes + round_bytes,
            pages,
            encoded: shared.encoded.figures(source.params().encodings),
            zero_copy: shared.zero_copy.figures(),
            remaining_pages: remaining,
            requests: shared.requests.load(Ordering::Relaxed)
                + needed.as_ref().map_or(0, |needed| needed.requests()),
            postcopy_bytes: if needed.is_some() { round_bytes } else { 0 },
            cpu: shared.cpu.total(),
            channels: shared.channels.load(Ordering::Relaxed),
            security: shared.security.lock().clone().map(|mut security| {
                security.rekeys += shared.rekeys.load(Ordering::Relaxed);
                security
            }),
            slowed: shared.slowed.lock().clone(),
            throttle: source.throttle().share(),
            plan: source.plan().cloned(),
            fixed_costs: source.fixed_costs(),
            stalls: shared.stalls.lock().rounds(),
            statistics,
        }
    }

    /// Waits until the attempt is over and its threads have ended, but no longer than `timeout`.
    pub fn join_within(&self, timeout: Duration) {
        self.thread.join_within(timeout);
    }

    /// Waits until the attempt is over and its threads have ended.
    pub fn join(&self) {
        self.thread.join();
    }

    fn post(&self, event: Event) {
        // Fails only when the attempt is over.
        let _ = self.events.send(Input::Event(event));
    }
}
