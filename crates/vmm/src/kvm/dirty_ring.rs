//! KVM's dirty rings in the form that migration wants ([`ram::DirtyLog`]).
//!
//! What KVM writes down is collected here, in bits that stay set until they are cleared, as with a log of bits. Collecting is three
//! steps that no other thread comes between: the entries are taken out of the rings; KVM has them back, and protects their pages
//! again; and only then their bits are set. So a page whose bit is set and is cleared is protected, or is in a ring: what is read of it
//! afterwards is what was written before, or its bit is set again.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use kvm_ioctls::VcpuFd;
use parking_lot::{Condvar, Mutex, RwLock};
use ram::{Block, DirtyLog};
use vmm_sys_util::errno;

use super::{
    MemorySlots,
    bits::{all_pages, check_range, invalid},
    ioctl,
    ring::{DirtyPage, Ring},
};

/// The dirty rings of one VM.
#[derive(Debug)]
pub(crate) struct DirtyRings {
    slots: MemorySlots,
    collector: Mutex<Collector>,
    /// For each block a bit for each page; empty while logging is off.
    bits: RwLock<Vec<Vec<AtomicU64>>>,
    /// Pages that each vCPU has written down.
    counts: Vec<AtomicU64>,
    logging: Mutex<Logging>,
    changed: Condvar,
}

/// What one thread at a time has.
#[derive(Debug)]
struct Collector {
    rings: Vec<Ring>,
    /// Rings of which entries may be lost: KVM may go on elsewhere in them.
    astray: Vec<bool>,
    /// Taken out, and not in bits yet.
    taken: Vec<DirtyPage>,
    /// When that was last done, and how long it is left alone.
    last: Instant,
    pause: Duration,
    /// Why bits cannot be relied on, since logging was started.
    broken: Option<String>,
}

/// Whether it is on.
#[derive(Debug, Default)]
struct Logging {
    is_on: bool,
    /// How often it was started.
    number: u64,
}

/// Entries that are taken out before KVM has them back.
const AT_ONCE: usize = 4096;
/// A page that is collected costs its vCPU another page fault when it writes it again: of its time no more than about a twentieth is
/// spent on that for the sake of seeing all up to now.
const PAUSE_PER_PAGE: Duration = Duration::from_micros(50);
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A ring of which this part is filled is emptied without waiting for the vCPU.
const MUCH: u32 = 8;
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(5);

impl DirtyRings {
    /// Maps the rings of all `vcpus`, which have `entries` each, of the VM with these slots.
    pub(crate) fn map(slots: MemorySlots, vcpus: &[VcpuFd], entries: u32) -> io::Result<Self> {
        let rings = vcpus.iter().map(|vcpu| Ring::map(vcpu, entries)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            slots,
            counts: rings.iter().map(|_| AtomicU64::new(0)).collect(),
            collector: Mutex::new(Collector {
                astray: vec![false; rings.len()],
                rings,
                taken: Vec::with_capacity(AT_ONCE),
                last: Instant::now(),
                pause: Duration::ZERO,
                broken: None,
            }),
            bits: RwLock::default(),
            logging: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Empties all rings: on a vCPU's thread when its ring is full, and by whoever wants to know what is in them.
    pub(crate) fn collect(&self) {
        self.collect_with(&mut self.collector.lock());
    }

    /// Pages that each vCPU has written, as far as they were collected; one that was written again after that counts again.
    pub(crate) fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Empties rings before they are full, as long as logging is on: a vCPU does not leave the guest for that, and some KVMs let it
    /// write more than fits before they have it leave. On a thread of its own, which is started after logging was.
    pub(crate) fn attend(&self) {
        let mut logging = self.logging.lock();
        let number = logging.number;
        while logging.is_on && logging.number == number {
            self.changed.wait_for(&mut logging, LOOK);
            parking_lot::MutexGuard::unlocked(&mut logging, || {
                let mut collector = self.collector.lock();
                if collector.rings.iter().any(|ring| ring.is_dirty(ring.capacity() / MUCH)) {
                    self.collect_with(&mut collector);
                }
            });
        }
    }

    fn collect_with(&self, collector: &mut Collector) {
        let mut pages = 0;
        for index in 0..collector.rings.len() {
            pages += self.empty(collector, index);
        }
        collector.last = Instant::now();
        collector.pause = (PAUSE_PER_PAGE * u32::try_from(pages).unwrap_or(u32::MAX)).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }

    /// Empties one ring. Returns how many pages were in it.
    fn empty(&self, collector: &mut Collector, index: usize) -> u64 {
        let capacity = collector.rings[index].capacity();
        if collector.astray[index] && collector.rings[index].catch_up() {
            collector.astray[index] = false;
        }
        let mut pages = 0;
        // No more than once around, however fast the vCPU is.
        while pages < u64::from(capacity) {
            let Collector { rings, taken, astray, broken, .. } = &mut *collector;
            let ring = &mut rings[index];
            taken.extend(std::iter::from_fn(|| ring.take()).take(AT_ONCE.min(capacity as usize)));
            if taken.is_empty() {
                break;
            }
            // Not one entry is left that KVM has not filled in since it had one back: it may have filled in some twice.
            let is_full = taken.len() as u32 == capacity || ring.is_dirty(capacity - 1 - taken.len() as u32);
            let had_back = ioctl::reset_dirty_rings(&self.slots.vm, taken.len());
            if is_full || matches!(had_back, Ok(false)) {
                astray[index] = true;
                broken.get_or_insert_with(|| overrun(index, capacity));
            }
            if let Err(error) = had_back {
                broken.get_or_insert_with(|| format!("KVM does not take the entries of its dirty rings back: {error}"));
            }
            pages += taken.len() as u64;
            self.note(taken);
        }
        self.counts[index].fetch_add(pages, Ordering::Relaxed);
        pages
    }

    /// Sets the bits of pages that are protected again.
    fn note(&self, taken: &mut Vec<DirtyPage>) {
        let bits = self.bits.read();
        for DirtyPage { slot, page } in taken.drain(..) {
            let block = bits.get(slot as usize);
            if let Some(word) = block.and_then(|block| block.get(usize::try_from(page / 64).ok()?)) {
                word.fetch_or(1 << (page % 64), Ordering::Relaxed);
            }
        }
    }

    fn broken(&self, collector: &Collector) -> io::Result<()> {
        collector.broken.clone().map_or(Ok(()), |why| Err(io::Error::other(why)))
    }
}

impl DirtyLog for DirtyRings {
    fn start(&self) -> io::Result<()> {
        let mut collector = self.collector.lock();
        self.collect_with(&mut collector);
        collector.broken = None;
        *self.bits.write() = self.slots.ram.blocks().iter().map(|block| all_pages(block.pages()).into_iter().map(AtomicU64::new).collect()).collect();
        let mut logging = self.logging.lock();
        (logging.is_on, logging.number) = (true, logging.number + 1);
        drop((logging, collector));
        // Protects all pages.
        self.slots.set_logging(true).map_err(io_error)
    }

    fn stop(&self) -> io::Result<()> {
        self.slots.set_logging(false).map_err(io_error)?;
        self.logging.lock().is_on = false;
        self.changed.notify_all();
        self.collect();
        *self.bits.write() = Vec::new();
        Ok(())
    }

    fn fetch(&self, block: usize, bits: &mut [u64]) -> io::Result<()> {
        let mut collector = self.collector.lock();
        self.collect_with(&mut collector);
        self.broken(&collector)?;
        drop(collector);
        let all = self.bits.read();
        let found = all.get(block).ok_or_else(|| invalid("no such memory block, or it is not logged"))?;
        let bits = bits.get_mut(..found.len()).ok_or_else(|| invalid("fewer bits than the block has pages"))?;
        bits.iter_mut().zip(found).for_each(|(bits, found)| *bits = found.load(Ordering::Relaxed));
        Ok(())
    }

    fn clear(&self, block: usize, first_page: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
        let all = self.slots.ram.blocks().get(block).map(Block::pages);
        let all = all.ok_or_else(|| invalid("no such memory block"))?;
        check_range(all, first_page, pages, bits)?;
        // What was written until now is dealt with, and need not be sent twice. One thread sees to that for all.
        if let Some(mut collector) = self.collector.try_lock()
            && collector.last.elapsed() >= collector.pause
        {
            self.collect_with(&mut collector);
            self.broken(&collector)?;
        }
        let all = self.bits.read();
        let words = all.get(block).ok_or_else(|| invalid("the block is not logged"))?;
        let (first, count) = ((first_page / 64) as usize, pages.div_ceil(64) as usize);
        // Before a page is read that was cleared.
        for (word, bits) in words.iter().skip(first).zip(bits).take(count) {
            word.fetch_and(!bits, Ordering::SeqCst);
        }
        Ok(())
    }
}

fn overrun(vcpu: usize, entries: u32) -> String {
    format!(
        "vCPU {vcpu} has written more pages than the {entries} that its dirty ring has room for before KVM made it stop: start the machine \
         with a larger ring (--dirty-log ring), or with a bitmap (--dirty-log bitmap)"
    )
}

fn io_error(error: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
