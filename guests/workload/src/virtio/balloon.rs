//! The balloon: lends owned pages to the host and takes them back, answers for statistics, and reports spare
//! memory as free.
//!
//! Pages go from the end of what is owned. Every CPU must have seen the new limit before a page behind it is
//! given away, or it would find the page gone while it checks it. A page that comes back is filled anew.

use core::{fmt, sync::atomic::Ordering};

use workload::page::BYTES;

use crate::{
    console::{Text, say},
    memory::{Ram, Regions},
    report::field,
    shared::{self, ORDERS, Setup},
    virtio::{
        queue::{Buffer, Part, Queue},
        transport::{Kind, Transport},
    },
    worker::{fill_page, owned_page},
};

const FEATURE_STATS: u32 = 1;
const FEATURE_FREE_PAGE_HINT: u32 = 3;
const FEATURE_REPORTING: u32 = 5;
const INFLATE: u32 = 0;
const DEFLATE: u32 = 1;
const CONFIG_TARGET: u64 = 0;
const CONFIG_ACTUAL: u64 = 4;
/// Pages in one request.
const BATCH: u64 = 256;
/// How often the host's wish is looked at: an exit each time.
const LOOK_EVERY_MS: u64 = 100;
/// What is never lent.
const KEEP_PAGES: u64 = 1024;
/// Pages that are filled in one turn.
const FILL_A_TURN: u64 = 16;

const STAT_FREE: u16 = 4;
const STAT_TOTAL: u16 = 5;
const STAT_AVAILABLE: u16 = 6;
const STAT_BYTES: usize = 10;

/// The balloon device.
#[derive(Debug)]
pub(crate) struct Balloon {
    device: Transport,
    inflate: Queue,
    deflate: Queue,
    stats: Option<(Queue, Buffer)>,
    reporting: Option<Reporting>,
    list: Buffer,
    phase: Phase,
    /// Pages that the host has.
    lent: u64,
    /// What the host was told that it has.
    told: u64,
    target: u64,
    due: u64,
    look_every: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle,
    /// Waiting for the other CPUs to leave so many more pages alone.
    Clearing(u64),
    Inflating(u64),
    Deflating(u64),
    /// Filling what came back: so many pages are left.
    Filling(u64),
}

impl Balloon {
    pub(crate) fn new(device: &Transport, ram: &mut Ram, tsc_khz: u64) -> Option<Self> {
        let features = device.begin(Kind::Balloon, 1 << FEATURE_STATS | 1 << FEATURE_REPORTING)?;
        let inflate = device.queue(INFLATE, 1, 1, ram)?;
        let deflate = device.queue(DEFLATE, 1, 1, ram)?;
        let mut stats = None;
        if features.has(FEATURE_STATS) {
            stats = device.queue(2, 1, 1, ram).map(|queue| (queue, Buffer::new(3 * STAT_BYTES, ram)));
        }
        let mut reporting = None;
        if features.has(FEATURE_REPORTING) {
            // Queues are numbered without those of features that are not there (virtio 1.2, 5.5.2).
            let before = [FEATURE_STATS, FEATURE_FREE_PAGE_HINT];
            let index = 2 + before.iter().filter(|bit| features.offered & (1 << **bit) != 0).count() as u32;
            reporting = device.queue(index, 1, 1, ram).map(|queue| Reporting::new(queue, tsc_khz));
        }
        device.ready();
        Some(Self {
            device: *device,
            inflate,
            deflate,
            stats,
            reporting,
            list: Buffer::new(4 * BATCH as usize, ram),
            phase: Phase::Idle,
            lent: 0,
            told: 0,
            target: 0,
            due: 0,
            look_every: tsc_khz * LOOK_EVERY_MS,
        })
    }

    /// Memory that nobody owns, to be reported as free.
    pub(crate) fn report_free(&mut self, spare: &Regions) {
        if let Some(reporting) = &mut self.reporting {
            reporting.spare = *spare;
        }
    }

    pub(crate) fn turn(&mut self, now: u64, setup: &Setup) {
        self.answer_for_statistics(setup);
        if let Some(reporting) = &mut self.reporting {
            reporting.turn(now);
        }
        let total = setup.generations.len() as u64;
        match self.phase {
            Phase::Idle => {
                if now.wrapping_sub(self.due) < 1 << 63 {
                    self.look(now, total, setup);
                }
            }
            Phase::Clearing(pages) => {
                let limit = total - self.lent - pages;
                let seen = |(cpu, counts): (usize, &'static shared::Counts)| {
                    cpu == 0 || counts.seen_limit.load(Ordering::Acquire) <= limit
                };
                if shared::working(setup).all(seen) {
                    let part = self.write_list(limit, pages, setup);
                    self.inflate.post(0, &[part]);
                    self.inflate.kick();
                    self.phase = Phase::Inflating(pages);
                }
            }
            Phase::Inflating(pages) => {
                if self.inflate.take().is_some() {
                    self.lent += pages;
                    self.phase = Phase::Idle;
                    self.due = now;
                }
            }
            Phase::Deflating(pages) => {
                if self.deflate.take().is_some() {
                    self.phase = Phase::Filling(pages);
                }
            }
            Phase::Filling(left) => {
                let first = total - self.lent;
                let now_filled = left.min(FILL_A_TURN);
                (first..first + now_filled).for_each(|index| fill_page(setup, index));
                self.lent -= now_filled;
                ORDERS.limit.store(total - self.lent, Ordering::Release);
                self.phase = Phase::Filling(left - now_filled);
                if left == now_filled {
                    self.phase = Phase::Idle;
                    self.due = now;
                }
            }
        }
    }

    pub(crate) fn report(&self, text: &mut Text) -> fmt::Result {
        field(text, "balloon_pages", self.lent)?;
        field(text, "balloon_target", self.target)?;
        self.reporting.as_ref().map_or(Ok(()), |reporting| field(text, "reported", reporting.bytes))
    }

    /// Looks at what the host wishes, and goes a step towards it.
    fn look(&mut self, now: u64, total: u64, setup: &Setup) {
        self.target = u64::from(self.device.config(CONFIG_TARGET));
        let goal = self.target.min(total.saturating_sub(KEEP_PAGES));
        self.due = now.wrapping_add(self.look_every);
        if self.lent < goal {
            let pages = (goal - self.lent).min(BATCH);
            ORDERS.limit.store(total - self.lent - pages, Ordering::Release);
            self.phase = Phase::Clearing(pages);
        } else if self.lent > goal {
            let pages = (self.lent - goal).min(BATCH);
            let part = self.write_list(total - self.lent, pages, setup);
            self.deflate.post(0, &[part]);
            self.deflate.kick();
            self.phase = Phase::Deflating(pages);
        } else if self.told != self.lent {
            self.told = self.lent;
            self.device.set_config(CONFIG_ACTUAL, self.lent as u32);
            say!("whimbrel balloon pages={} target={}", self.lent, self.target);
        }
    }

    /// Lists the owned pages from `first` on by their page frame numbers.
    fn write_list(&mut self, first: u64, pages: u64, setup: &Setup) -> Part {
        let bytes = self.list.bytes(4 * BATCH as usize);
        for (entry, index) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(first..first + pages) {
            let (_, number) = owned_page(setup, index);
            *entry = (number as u32).to_le_bytes();
        }
        self.list.to_read(4 * pages as usize)
    }

    /// The device keeps the buffer until it wants to know more.
    fn answer_for_statistics(&mut self, setup: &Setup) {
        let Some((queue, buffer)) = &mut self.stats else { return };
        // The first time the buffer is free although the device never gave it back.
        queue.take();
        if queue.free_slot().is_none() {
            return;
        }
        let owned = setup.generations.len() as u64 * BYTES;
        let usable = ORDERS.limit.load(Ordering::Relaxed) * BYTES;
        let work = ORDERS.work_pages.load(Ordering::Relaxed) * BYTES;
        let idle = usable.saturating_sub(work);
        let values = [(STAT_FREE, idle), (STAT_TOTAL, owned), (STAT_AVAILABLE, idle)];
        let bytes = buffer.bytes(values.len() * STAT_BYTES);
        for (stat, (tag, value)) in bytes.as_chunks_mut::<STAT_BYTES>().0.iter_mut().zip(values) {
            stat[..2].copy_from_slice(&tag.to_le_bytes());
            stat[2..].copy_from_slice(&value.to_le_bytes());
        }
        queue.post(0, &[buffer.to_read(values.len() * STAT_BYTES)]);
        queue.kick();
    }
}

/// Uses and frees spare memory, as the programs of a busy guest do: 2 MiB are written, reported as free, and
/// some time later it is the next 2 MiB's turn.
#[derive(Debug)]
struct Reporting {
    queue: Queue,
    spare: Regions,
    /// Bytes into the spare memory.
    next: u64,
    written: u64,
    due: u64,
    every: u64,
    bytes: u64,
}

const FREE_CHUNK: u64 = 2 << 20;
const FREE_EVERY_MS: u64 = 100;

impl Reporting {
    fn new(queue: Queue, tsc_khz: u64) -> Self {
        let every = tsc_khz * FREE_EVERY_MS;
        Self { queue, spare: Regions::default(), next: 0, written: 0, due: 0, every, bytes: 0 }
    }

    fn turn(&mut self, now: u64) {
        if self.queue.take().is_some() {
            self.bytes += FREE_CHUNK;
            self.written = 0;
            self.next += FREE_CHUNK;
            self.due = now.wrapping_add(self.every);
        }
        let waiting = self.queue.free_slot().is_none() || now.wrapping_sub(self.due) >= 1 << 63;
        let Some(start) = self.chunk().filter(|_| !waiting) else { return };
        if self.written < FREE_CHUNK {
            for _ in 0..FILL_A_TURN {
                // SAFETY: spare memory is mapped and nobody's; any page of it may be written.
                let page = unsafe { crate::memory::page(start + self.written) };
                page[0] = now | 1;
                self.written += BYTES;
            }
        } else {
            let part = Part { address: start, length: FREE_CHUNK as u32, for_device_to_write: true };
            self.queue.post(0, &[part]);
            self.queue.kick();
        }
    }

    /// Where the next chunk is; after the last comes the first again. `None` if there is not one.
    fn chunk(&mut self) -> Option<u64> {
        for _ in 0..2 {
            let mut offset = self.next;
            for region in self.spare.iter() {
                let start = region.start.next_multiple_of(FREE_CHUNK);
                let whole = region.end.saturating_sub(start) / FREE_CHUNK * FREE_CHUNK;
                if offset < whole {
                    return Some(start + offset);
                }
                offset -= whole;
            }
            self.next = 0;
        }
        None
    }
}
