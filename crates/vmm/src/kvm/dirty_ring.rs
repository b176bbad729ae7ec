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

use super::{
    MemorySlots,
    bits::{all_pages, check_range, invalid},
    ioctl::{self, io_error},
    kick::uninterrupted,
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

/// Who needs it.
#[derive(Debug, Default)]
struct Logging {
    /// Whoever reads and clears bits.
    for_bits: bool,
    /// Whoever only wants to know how many pages each vCPU writes.
    for_counts: bool,
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
        while logging.is_on() && logging.number == number {
            self.changed.wait_for(&mut logging, LOOK);
            parking_lot::MutexGuard::unlocked(&mut logging, || {
                let mut collector = self.collector.lock();
                if collector.rings.iter().any(|ring| ring.is_dirty(ring.capacity() / MUCH)) {
                    self.collect_with(&mut collector);
                }
            });
        }
    }

    /// Starts logging for those who want to know [`Self::counts`], beside whoever reads bits.
    pub(crate) fn start_counting(&self) -> io::Result<()> {
        let mut logging = self.logging.lock();
        if !logging.is_on() {
            self.slots.set_logging(true).map_err(io_error)?;
            logging.number += 1;
        }
        logging.for_counts = true;
        Ok(())
    }

    /// Nobody wants to know [`Self::counts`] any more.
    pub(crate) fn stop_counting(&self) -> io::Result<()> {
        let mut logging = self.logging.lock();
        logging.for_counts = false;
        self.stop_if_unused(&logging)
    }

    fn stop_if_unused(&self, logging: &Logging) -> io::Result<()> {
        if !logging.is_on() {
            self.slots.set_logging(false).map_err(io_error)?;
            self.changed.notify_all();
            self.collect();
        }
        Ok(())
    }

    fn collect_with(&self, collector: &mut Collector) {
        let mut pages = 0;
        for index in 0..collector.rings.len() {
            pages += self.empty(collector, index);
        }
        collector.last = Instant::now();
        collector.pause =
            (PAUSE_PER_PAGE * u32::try_from(pages).unwrap_or(u32::MAX)).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }

    /// Empties one ring. Returns how many pages were in it.
    fn empty(&self, collector: &mut Collector, index: usize) -> u64 {
        let capacity = collector.rings[index].capacity();
        // Entries that KVM has back besides those that are taken out.
        let mut skipped = 0;
        if collector.astray[index]
            && let Some(places) = collector.rings[index].catch_up()
        {
            (collector.astray[index], skipped) = (false, places);
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
            let all = taken.len() as u32 + std::mem::take(&mut skipped);
            let is_full = all >= capacity || ring.is_dirty(capacity - 1 - all);
            let had_back = uninterrupted(|| ring.settle(|| ioctl::reset_dirty_rings(&self.slots.vm)));
            if is_full || matches!(had_back, Ok(false)) {
                astray[index] = true;
                broken.get_or_insert_with(|| overrun(index, capacity));
            }
            if let Err(error) = had_back {
                broken.get_or_insert_with(|| {
                    format!("KVM does not take the entries of its dirty rings back: {error}")
                });
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
        let mut logging = self.logging.lock();
        let mut collector = self.collector.lock();
        self.collect_with(&mut collector);
        let all = |block: &Block| all_pages(block.pages()).into_iter().map(AtomicU64::new).collect();
        *self.bits.write() = self.slots.ram.blocks().iter().map(all).collect();
        collector.broken = None;
        drop(collector);
        if logging.is_on() {
            // Starting it again protects pages also that were lost out of a ring.
            self.slots.set_logging(false).map_err(io_error)?;
        }
        logging.for_bits = true;
        logging.number += 1;
        self.slots.set_logging(true).map_err(io_error)
    }

    fn stop(&self) -> io::Result<()> {
        let mut logging = self.logging.lock();
        logging.for_bits = false;
        *self.bits.write() = Vec::new();
        self.stop_if_unused(&logging)
    }

    fn fetch(&self, block: usize, bits: &mut [u64]) -> io::Result<()> {
        let mut collector = self.collector.lock();
        self.collect_with(&mut collector);
        self.broken(&collector)?;
        drop(collector);
        let all = self.bits.read();
        let found = all.get(block).ok_or_else(|| invalid("no such memory block, or it is not logged"))?;
        let bits =
            bits.get_mut(..found.len()).ok_or_else(|| invalid("fewer bits than the block has pages"))?;
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

impl Logging {
    fn is_on(&self) -> bool {
        self.for_bits || self.for_counts
    }
}

fn overrun(vcpu: usize, entries: u32) -> String {
    format!(
        "vCPU {vcpu} has written more pages than the {entries} that its dirty ring has room for before KVM made it stop, or KVM was interrupted while it had them back: start the machine \
         with a larger ring (--dirty-log ring), or with a bitmap (--dirty-log bitmap)"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kvm_ioctls::{Kvm, VcpuExit};
    use ram::{Backing, BlockLayout, Ram};
    use vm_memory::{Bytes as _, GuestAddress};

    use super::{
        super::writer_guest::{PAGES, fetch, run, writer},
        *,
    };
    use crate::testing;

    fn machine() -> (DirtyRings, VcpuFd) {
        let (slots, vcpu) = writer(|vm| super::super::enable_rings(vm, 1024).unwrap());
        let vcpus = [vcpu];
        let rings = DirtyRings::map(slots, &vcpus, 1024).unwrap();
        let [vcpu] = vcpus;
        (rings, vcpu)
    }

    /// The contract is that of a log of bits.
    #[test]
    fn a_page_is_reported_until_it_is_cleared_and_then_when_it_is_written() {
        if !testing::kvm_is_usable("a_page_is_reported_until_it_is_cleared_and_then_when_it_is_written") {
            return;
        }
        let (log, mut vcpu) = machine();
        let all: Vec<_> = (0..PAGES).collect();
        assert!(log.fetch(0, &mut [0; 2]).is_err(), "logging is off");
        log.start().unwrap();
        assert_eq!(fetch(&log), all);
        log.clear(0, 0, PAGES, &[u64::MAX, u64::MAX]).unwrap();
        assert!(fetch(&log).is_empty());
        run(&mut vcpu);
        assert_eq!((fetch(&log), fetch(&log)), (vec![5, 9], vec![5, 9]));
        log.clear(0, 0, 64, &[1 << 5]).unwrap();
        assert_eq!(fetch(&log), [9]);
        run(&mut vcpu);
        assert_eq!(fetch(&log), [5, 9]);
        assert_eq!(log.counts(), [4]);
        log.stop().unwrap();
        log.stop().unwrap();
        run(&mut vcpu);
        log.start().unwrap();
        assert_eq!(fetch(&log), all);
    }

    #[test]
    fn who_counts_and_who_reads_bits_do_not_disturb_each_other() {
        if !testing::kvm_is_usable("who_counts_and_who_reads_bits_do_not_disturb_each_other") {
            return;
        }
        let (log, mut vcpu) = machine();
        log.start_counting().unwrap();
        run(&mut vcpu);
        log.collect();
        assert_eq!(log.counts(), [2]);
        run(&mut vcpu);
        log.start().unwrap();
        log.clear(0, 0, PAGES, &[u64::MAX, u64::MAX]).unwrap();
        run(&mut vcpu);
        assert_eq!(fetch(&log), [5, 9]);
        log.stop().unwrap();
        run(&mut vcpu);
        log.collect();
        assert_eq!(log.counts(), [8]);
        log.stop_counting().unwrap();
        run(&mut vcpu);
        log.collect();
        assert_eq!(log.counts(), [8]);
    }

    #[test]
    fn a_range_that_is_not_of_the_block_is_refused() {
        if !testing::kvm_is_usable("a_range_that_is_not_of_the_block_is_refused") {
            return;
        }
        let (log, _vcpu) = machine();
        log.start().unwrap();
        let bits = [u64::MAX; 4];
        for (block, first, pages) in [(1, 0, 64), (0, 1, 64), (0, 0, 63), (0, 64, 64), (0, u64::MAX, 64)] {
            assert!(log.clear(block, first, pages, &bits).is_err(), "{block} {first} {pages}");
        }
        assert!(log.clear(0, 0, PAGES, &bits[..1]).is_err());
        assert!(log.fetch(0, &mut [0; 1]).is_err());
        assert!(log.fetch(7, &mut [0; 2]).is_err());
    }

    /// Writes each of 4000 pages once, without an exit.
    #[test]
    fn a_vcpu_that_fills_its_ring_leaves_the_guest_and_no_page_is_lost_unnoticed() {
        if !testing::kvm_is_usable(
            "a_vcpu_that_fills_its_ring_leaves_the_guest_and_no_page_is_lost_unnoticed",
        ) {
            return;
        }
        let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
        super::super::enable_rings(&vm, 1024).unwrap();
        let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: 16 << 20 };
        let ram = Ram::allocate(&[layout], Backing::Anonymous).unwrap();
        // mov [esi],eax; add esi,4096; cmp esi,edi; jb to the start; hlt. Protected mode.
        let code = [0x89, 0x06, 0x81, 0xc6, 0, 0x10, 0, 0, 0x39, 0xfe, 0x72, 0xf4, 0xf4];
        ram.memory().write_slice(&code, GuestAddress(0x1000)).unwrap();
        let mut vcpus = [vm.create_vcpu(0).unwrap()];
        let mut sregs = vcpus[0].get_sregs().unwrap();
        sregs.cr0 |= 1;
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            (segment.base, segment.limit, segment.selector) = (0, u32::MAX, 16);
            (segment.type_, segment.present, segment.db, segment.s, segment.g) = (3, 1, 1, 1, 1);
        }
        (sregs.cs.selector, sregs.cs.type_) = (8, 11);
        vcpus[0].set_sregs(&sregs).unwrap();
        let log = DirtyRings::map(MemorySlots::plug(vm, ram).unwrap(), &vcpus, 1024).unwrap();
        // An attempt that comes to nothing does not spoil the next one.
        for _ in 0..3 {
            log.start().unwrap();
            let mut bits = [0; 64];
            log.clear(0, 0, 4096, &[u64::MAX; 64]).unwrap();
            let mut regs = vcpus[0].get_regs().unwrap();
            (regs.rip, regs.rflags, regs.rsi, regs.rdi) = (0x1000, 2, 96 * 4096, 4096 * 4096);
            vcpus[0].set_regs(&regs).unwrap();
            let mut fulls = 0;
            loop {
                match vcpus[0].run().unwrap() {
                    VcpuExit::Hlt => break,
                    VcpuExit::Unsupported(kvm_bindings::KVM_EXIT_DIRTY_RING_FULL) => {
                        fulls += 1;
                        assert!(fulls < 100, "it comes out of the ring again");
                        log.collect();
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(fulls > 0);
            match log.fetch(0, &mut bits) {
                Ok(()) => {
                    let written = bits.iter().map(|word| word.count_ones()).sum::<u32>();
                    assert!(written >= 4000, "{written}");
                }
                Err(error) => assert!(error.to_string().contains("larger ring"), "{error}"),
            }
            log.stop().unwrap();
        }
        log.start().unwrap();
        log.clear(0, 0, 4096, &[u64::MAX; 64]).unwrap();
        let mut regs = vcpus[0].get_regs().unwrap();
        (regs.rip, regs.rsi, regs.rdi) = (0x1000, 96 * 4096, 596 * 4096);
        vcpus[0].set_regs(&regs).unwrap();
        run(&mut vcpus[0]);
        let mut bits = [0; 64];
        log.fetch(0, &mut bits).expect("it has room for these");
        assert!(bits.iter().map(|word| word.count_ones()).sum::<u32>() >= 500);
    }
}
