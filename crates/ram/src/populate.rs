use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::mm::{Advice, madvise};

use crate::{Backing, Ram, Segment};

/// Has the host back memory with pages before it is needed, in the background, from the first page of the first block on: in that
/// order pages arrive too.
///
/// The kernel zeroes a page when it is touched first. For huge pages, which are reserved anyway, this can be done before pages
/// arrive, so that receiving them does not wait for it. Other memory is better left alone: what is never touched costs the host
/// nothing, and need not be looked at when the machine moves on.
///
/// While a thread populates memory it holds the lock of the process's address space, which is shared with page faults, but keeps
/// out whoever starts a thread or maps memory; and those, while they wait, keep out everybody else. So memory is populated in
/// small steps, and the number of threads can be brought down to none while others have work to do that must not wait.
///
/// Dropping it ends the work: it waits for the step that each thread is in, no longer.
#[derive(Debug)]
pub struct Populate {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    ram: Ram,
    /// Number of the step that nobody has taken.
    next: AtomicU64,
    /// Bytes of the steps that are over.
    done: AtomicU64,
    /// Threads that may take steps.
    limit: AtomicUsize,
    stopped: AtomicBool,
}

/// Bytes of a step of huge pages: one of them. It takes 0.2 ms where memory is fast, and is not divided by the kernel.
const HUGE_STEP_BYTES: u64 = 2 << 20;
/// Bytes of a step of small pages, which take ten times as long.
const SMALL_STEP_BYTES: u64 = 256 << 10;

impl Populate {
    /// Starts with all of `ram`, on so many threads; on fewer if there are no more to be had. Contents stay as they are. `enter` is
    /// called on each new thread before anything else; a thread on which it fails does nothing.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        ram: Ram,
        threads: usize,
        enter: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (next, done, limit) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(threads));
        let shared = Arc::new(Shared { ram, next, done, limit, stopped: AtomicBool::new(false) });
        // From here on, whatever happens, the threads are ended when it is dropped.
        let mut populate = Self { shared, threads: Vec::new() };
        let enter = Arc::new(enter);
        for index in 0..threads {
            let (shared, enter) = (populate.shared.clone(), enter.clone());
            let work = move || {
                if enter().is_ok() {
                    shared.work(index);
                }
            };
            match thread::Builder::new().name(format!("populate-{index}")).spawn(work) {
                Ok(thread) => populate.threads.push(thread),
                Err(error) if index == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(populate)
    }

    /// From now on no more than so many threads work; with 0 it pauses. Does not wait: a thread that is in a step completes it.
    pub fn limit_to(&self, threads: usize) {
        self.shared.limit.store(threads, Ordering::Relaxed);
        self.wake();
    }

    /// Bytes that were populated, or found to be.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }
}

impl Drop for Populate {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.wake();
        for thread in self.threads.drain(..) {
            // It does not panic; and memory that is not populated is as good as any, only slower at first.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Takes steps until there are no more.
    fn work(&self, index: usize) {
        while self.may_go_on(index) {
            let Some(segment) = self.take() else { return };
            // SAFETY: the segment lies in a block of `self.ram`, which lives as long as `self`. Populating changes no contents, not
            // even those that others write meanwhile (madvise(2), MADV_POPULATE_WRITE).
            let populated = unsafe {
                madvise(segment.address.as_ptr().cast(), segment.bytes, Advice::LinuxPopulateWrite)
            };
            if populated.is_err() {
                // Kernels before 5.14 do not know it; others may be out of memory, which a touch will tell.
                self.stopped.store(true, Ordering::Relaxed);
                return;
            }
            self.done.fetch_add(segment.bytes as u64, Ordering::Relaxed);
        }
    }

    /// Waits while thread number `index` may not work. Returns whether it is to go on.
    fn may_go_on(&self, index: usize) -> bool {
        while !self.stopped.load(Ordering::Relaxed) {
            if index < self.limit.load(Ordering::Relaxed) {
                return true;
            }
            // Whoever changes one of the two wakes it afterwards; a wake that comes before this is not lost.
            thread::park();
        }
        false
    }

    /// The next step.
    fn take(&self) -> Option<Segment> {
        let bytes =
            if self.ram.backing() == Some(Backing::Hugetlb2M) { HUGE_STEP_BYTES } else { SMALL_STEP_BYTES };
        let pages = bytes / crate::PAGE_SIZE as u64;
        let mut step = self.next.fetch_add(1, Ordering::Relaxed);
        for block in self.ram.blocks() {
            let steps = block.pages().div_ceil(pages);
            if step < steps {
                let first = step * pages;
                return block.segment(first, pages.min(block.pages() - first));
            }
            step -= steps;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockLayout, Touched};
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

    const MIB: u64 = 1 << 20;

    fn ram(blocks: &[u64]) -> Ram {
        let layout = blocks.iter().enumerate().map(|(index, &bytes)| BlockLayout {
            name: format!("ram.{index}"),
            guest_address: (index as u64) << 32,
            bytes,
        });
        Ram::allocate(&layout.collect::<Vec<_>>(), Backing::Memfd).unwrap()
    }

    fn started(ram: &Ram, threads: usize) -> Populate {
        Populate::start(ram.clone(), threads, || Ok(())).unwrap()
    }

    /// Until all threads have ended by themselves.
    fn finish(mut populate: Populate) -> u64 {
        for thread in populate.threads.drain(..) {
            thread.join().unwrap();
        }
        populate.bytes()
    }

    fn touched_pages(ram: &Ram) -> u64 {
        let (mut touched, mut words) = (Touched::new(ram.clone()), Vec::new());
        let count = |(index, block): (usize, &crate::Block)| {
            touched.look(index, 0, block.pages(), &mut words);
            words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>()
        };
        ram.blocks().iter().enumerate().map(count).sum()
    }

    #[test]
    fn populating_keeps_what_is_written_and_leaves_the_rest_zero() {
        use vm_memory::{Bytes, GuestAddress};
        let ram = ram(&[80 * MIB]);
        ram.memory().write_obj(7_u64, GuestAddress(5 * MIB)).unwrap();
        finish(started(&ram, 1));
        assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(5 * MIB)).unwrap(), 7);
        assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(79 * MIB)).unwrap(), 0);
    }

    #[test]
    fn any_number_of_threads_populates_every_page_of_every_block() {
        for threads in [1, 3] {
            let ram = ram(&[9 * MIB + 4096, 4096, 8 * MIB]);
            assert_eq!(finish(started(&ram, threads)), ram.bytes());
            assert_eq!(touched_pages(&ram), ram.bytes() / 4096);
        }
    }

    #[test]
    fn a_pause_lets_each_thread_end_its_step_and_no_more_until_it_is_over() {
        let ram = ram(&[512 * MIB]);
        let populate = started(&ram, 2);
        while populate.bytes() < MIB {
            thread::yield_now();
        }
        populate.limit_to(0);
        let paused_at = populate.bytes();
        // Threads that are in no step any more hold on to nothing but this.
        let most = paused_at + 2 * SMALL_STEP_BYTES;
        for _ in 0..1000 {
            thread::yield_now();
            assert!(populate.bytes() <= most, "{} bytes, {paused_at} when it was paused", populate.bytes());
        }
        populate.limit_to(2);
        assert_eq!(finish(populate), ram.bytes());
    }

    #[test]
    fn ending_it_waits_for_no_more_than_the_steps_under_way_paused_or_not() {
        for limit in [0, 2] {
            let ram = ram(&[512 * MIB]);
            let populate = started(&ram, 2);
            populate.limit_to(limit);
            while limit > 0 && populate.bytes() < MIB {
                thread::yield_now();
            }
            let shared = populate.shared.clone();
            shared.stopped.store(true, Ordering::Relaxed);
            let at_most = shared.done.load(Ordering::Relaxed) + 2 * SMALL_STEP_BYTES;
            drop(populate);
            assert!(shared.done.load(Ordering::Relaxed) <= at_most);
        }
    }

    #[test]
    fn a_thread_that_may_not_work_and_memory_that_cannot_be_populated_do_no_harm() {
        let ram = ram(&[MIB]);
        let refused =
            Populate::start(ram.clone(), 2, || Err(io::ErrorKind::PermissionDenied.into())).unwrap();
        assert_eq!((finish(refused), touched_pages(&ram)), (0, 0));
        // Pages that lie beyond the end of their file cannot be had.
        let short = ram.memory().iter().next().unwrap().file_offset().unwrap().file().set_len(0);
        short.unwrap();
        assert_eq!(finish(started(&ram, 2)), 0);
    }

    #[test]
    fn no_memory_is_populated_at_once() {
        assert_eq!(finish(started(&Ram::none(), 2)), 0);
    }
}
