#![expect(unsafe_code, reason = "threads use guest memory by its address, as a machine does")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::*;
use crate::{Backing, BlockLayout, PAGE_SIZE, Segment, UserfaultError};

/// Blocks of sizes that are multiples of nothing but the page of the host.
fn sizes(backing: Backing) -> [u64; 3] {
    match backing {
        Backing::Hugetlb2M => [6 << 20, 2 << 20, 4 << 20],
        _ => [(5 << 20) + 4096, 4096, 9 << 20],
    }
}

/// Calls `test` for each kind of memory that can be had, with memory of three blocks.
fn for_each_backing(test: impl Fn(Backing, &Ram)) {
    for backing in [Backing::Anonymous, Backing::Memfd, Backing::Hugetlb2M] {
        let layout = sizes(backing).into_iter().enumerate().map(|(index, bytes)| BlockLayout {
            name: format!("ram.{index}"),
            guest_address: (index as u64) << 32,
            bytes,
        });
        match Ram::allocate(&layout.collect::<Vec<_>>(), backing) {
            Ok(ram) => test(backing, &ram),
            Err(error) if backing == Backing::Hugetlb2M => {
                eprintln!("SKIPPED: no huge pages on this host: {error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn userfault() -> Option<Userfaultfd> {
    match Userfaultfd::open() {
        Ok(userfault) => Some(userfault),
        Err(error @ (UserfaultError::Permission { .. } | UserfaultError::Unavailable { .. })) => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn sets(ram: &Ram, is_missing: impl Fn(u64) -> bool) -> Vec<PageSet> {
    let set = |block: &crate::Block| {
        let set = PageSet::new(block.pages());
        (0..block.pages()).filter(|page| is_missing(*page)).for_each(|page| set.insert(page));
        set
    };
    ram.blocks().iter().map(set).collect()
}

/// A thread that hears faults until it is dropped, and what it heard.
struct Hearing {
    memory: Arc<Incomplete>,
    faults: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Hearing {
    fn of(memory: &Arc<Incomplete>) -> Self {
        let faults = Arc::new(AtomicU64::new(0));
        let (own, count) = (memory.clone(), faults.clone());
        let hear = move || {
            let mut faults = Vec::new();
            while own.wait(&mut faults, None).unwrap() {
                count.fetch_add(faults.len() as u64, Ordering::SeqCst);
            }
        };
        Self { memory: memory.clone(), faults, thread: Some(thread::spawn(hear)) }
    }

    /// Until so many accesses were told of.
    fn until(&self, faults: u64) {
        while self.faults.load(Ordering::SeqCst) < faults {
            thread::yield_now();
        }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.memory.stop();
        let ended = self.thread.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok());
    }
}

/// A test that fails must not wait for threads that wait for pages.
struct LetGo<'a>(&'a Incomplete);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abandon();
        }
    }
}

/// What page `page` of a block holds when it has come.
fn content(block: usize, page: u64) -> u64 {
    (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block as u64
}

fn word(ram: &Ram, block: usize, page: u64, index: usize) -> *mut u64 {
    ram.blocks()[block].segment(page, 1).unwrap().address.as_ptr().cast::<u64>().wrapping_add(index)
}

fn read(ram: &Ram, block: usize, page: u64, index: usize) -> u64 {
    // SAFETY: a word of live guest memory.
    unsafe { word(ram, block, page, index).read_volatile() }
}

fn write(ram: &Ram, block: usize, page: u64, index: usize, value: u64) {
    // SAFETY: as above.
    unsafe { word(ram, block, page, index).write_volatile(value) }
}

/// Fills the pages of a segment: the first word and the last of each.
fn fill(segment: Segment, block: usize, first_page: u64) {
    for index in 0..segment.bytes / PAGE_SIZE {
        let value = content(block, first_page + index as u64);
        for word in [0, 511] {
            // SAFETY: the segment is memory that was claimed for this.
            unsafe {
                segment
                    .address
                    .add(index * PAGE_SIZE + word * 8)
                    .cast::<u64>()
                    .as_ptr()
                    .write_volatile(value);
            }
        }
    }
}

fn fill_all(ram: &Ram) {
    for (index, block) in ram.blocks().iter().enumerate() {
        fill(block.segment(0, block.pages()).unwrap(), index, 0);
    }
}

/// Has a run of pages come: with contents, or as zeros.
fn bring(memory: &Arc<Incomplete>, block: usize, first: u64, pages: u32) {
    let mut landing = memory.landing();
    fill(landing.claim(block as u16, first, pages).unwrap(), block, first);
    assert_eq!(landing.settle().unwrap(), u64::from(pages));
}

/// Gives a page back to the host, as a balloon does.
fn discard(ram: &Ram, block: usize, page: u64, pages: u64) {
    let (at, len) = (page * PAGE_SIZE as u64, pages * PAGE_SIZE as u64);
    match ram.memory().iter().nth(block).unwrap().file_offset() {
        Some(file) => {
            fallocate(file.file(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len).unwrap();
        }
        None => {
            let Segment { address, bytes } = ram.blocks()[block].segment(page, pages).unwrap();
            // SAFETY: pages of live guest memory, which are to lose their contents.
            unsafe {
                rustix::mm::madvise(address.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxDontNeed)
                    .unwrap();
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Takes runs from what nobody has taken yet, from a random place on, and has them come: those whose page
/// number is a multiple of seven as zeros.
fn bring_all(memory: &Arc<Incomplete>, to_send: &[PageSet], seed: u64) {
    let (mut landing, mut random) = (memory.landing(), Random(seed));
    for (block, set) in to_send.iter().enumerate() {
        let mut runs = 0;
        while let Some(first) = set.next(random.below(set.capacity())).or_else(|| set.next(0)) {
            let most = if first % 7 == 0 { 1 } else { (7 - first % 7).min(1 + random.below(9)) };
            let pages = set.take_run(first, most) as u32;
            if pages == 0 {
                continue;
            }
            if first % 7 == 0 {
                landing.claim_zeros(block as u16, first, pages).unwrap();
            } else {
                fill(landing.claim(block as u16, first, pages).unwrap(), block, first);
            }
            runs += 1;
            if runs % 5 == 0 {
                landing.settle().unwrap();
            }
        }
    }
    landing.settle().unwrap();
}

#[test]
fn every_page_is_right_while_threads_bring_them_in_any_order_and_others_use_them() {
    for_each_backing(|backing, ram| {
        let Some(userfault) = userfault() else { return };
        fill_all(ram);
        // Two thirds are missing, the rest is here; and of the second block nothing is missing.
        let is_missing = |page: u64| page > 0 && !page.is_multiple_of(3);
        let missing = sets(ram, is_missing);
        let (to_send, all) = (sets(ram, is_missing), missing.iter().map(PageSet::count).sum::<u64>());
        let memory = Incomplete::arm(ram, userfault, missing).unwrap();
        assert_eq!(memory.remaining(), all);
        let hearing = Hearing::of(&memory);
        let expected = |block: usize, page: u64| match page % 7 {
            0 if is_missing(page) => 0,
            _ => content(block, page),
        };
        let use_all = |seed: u64, index: usize| {
            let mut random = Random(seed);
            for (block, pages) in ram.blocks().iter().map(crate::Block::pages).enumerate() {
                let start = random.below(pages);
                for page in (start..pages).chain(0..start) {
                    assert_eq!(read(ram, block, page, 0), expected(block, page), "{backing} {block} {page}");
                    write(ram, block, page, index, page);
                }
            }
        };
        thread::scope(|scope| {
            let _failed = LetGo(&memory);
            let users = [scope.spawn(|| use_all(5, 100)), scope.spawn(|| use_all(77, 101))];
            (1..4).for_each(|seed| {
                drop(scope.spawn({
                    let (memory, to_send) = (&memory, &to_send);
                    move || bring_all(memory, to_send, seed)
                }));
            });
            users.into_iter().for_each(|user| user.join().unwrap());
        });
        assert_eq!(memory.remaining(), 0);
        memory.release().unwrap();
        drop(hearing);
        for (block, pages) in ram.blocks().iter().map(crate::Block::pages).enumerate() {
            for page in 0..pages {
                let words = [0, 511, 100, 101].map(|index| read(ram, block, page, index));
                let content = expected(block, page);
                assert_eq!(words, [content, content, page, page], "{backing} {block} {page}");
            }
            assert_eq!(memory.awaited(block).unwrap().count(), 0);
        }
    });
}

#[test]
fn an_access_waits_for_its_page_and_is_told_of_with_its_host_page_and_thread() {
    for_each_backing(|backing, ram| {
        let Some(userfault) = userfault() else { return };
        let memory = Incomplete::arm(ram, userfault, sets(ram, |page| page == 700)).unwrap();
        thread::scope(|scope| {
            let _failed = LetGo(&memory);
            let user =
                scope.spawn(|| (rustix::thread::gettid().as_raw_nonzero().get(), read(ram, 2, 700, 0)));
            let mut faults = Vec::new();
            assert!(memory.wait(&mut faults, None).unwrap());
            assert!(!user.is_finished());
            let awaited = memory.awaited(2).unwrap();
            assert!(awaited.contains(700));
            bring(&memory, 2, 700, 1);
            let (thread, word) = user.join().unwrap();
            let (first_page, pages) = if backing == Backing::Hugetlb2M { (512, 512) } else { (700, 1) };
            assert_eq!(faults, [Fault { block: 2, first_page, pages, thread: thread as u32 }]);
            assert_eq!(word, content(2, 700));
        });
    });
}

#[test]
fn a_huge_page_is_had_when_all_of_it_has_come_and_keeps_what_was_there() {
    for_each_backing(|backing, ram| {
        let Some(userfault) = userfault() else { return };
        if backing != Backing::Hugetlb2M {
            return;
        }
        fill_all(ram);
        let memory = Incomplete::arm(ram, userfault, sets(ram, |page| page == 3 || page == 9)).unwrap();
        let hearing = Hearing::of(&memory);
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _failed = LetGo(&memory);
            scope.spawn(|| {
                assert_eq!(read(ram, 1, 5, 0), content(1, 5));
                is_done.store(true, Ordering::SeqCst);
            });
            hearing.until(1);
            bring(&memory, 1, 3, 1);
            assert!(!is_done.load(Ordering::SeqCst));
            let mut landing = memory.landing();
            landing.claim_zeros(1, 9, 1).unwrap();
            assert_eq!(landing.settle().unwrap(), 1);
        });
        assert_eq!([3, 9, 10].map(|page| read(ram, 1, page, 511)), [content(1, 3), 0, content(1, 10)]);
    });
}

#[test]
fn a_page_that_is_not_missing_or_comes_already_cannot_be_claimed_and_does_not_change() {
    for_each_backing(|backing, ram| {
        let Some(userfault) = userfault() else { return };
        fill_all(ram);
        let memory = Incomplete::arm(ram, userfault, sets(ram, |page| (600..610).contains(&page))).unwrap();
        let _hearing = Hearing::of(&memory);
        let (mut one, mut other) = (memory.landing(), memory.landing());
        let not_missing =
            |claimed: Result<Segment, ClaimError>| matches!(claimed, Err(ClaimError::NotMissing { .. }));
        assert!(not_missing(one.claim(0, 599, 2)) && not_missing(one.claim(0, 609, 2)));
        let segment = one.claim(0, 603, 3).unwrap();
        assert!(not_missing(other.claim(0, 600, 10)) && not_missing(one.claim(0, 605, 1)));
        assert!(matches!(other.claim_zeros(0, 605, 2), Err(ClaimError::NotMissing { .. })));
        for (block, first, pages) in
            [(3, 0, 1), (0, u64::MAX, 2), (0, 603, u32::MAX), (0, 603, 0), (1, 2560, 1)]
        {
            let refused = other.claim_zeros(block, first, pages).unwrap_err();
            assert!(matches!(refused, ClaimError::Outside { .. }), "{refused}");
        }
        assert!(matches!(other.claim(0, 600, 2049), Err(ClaimError::TooMuch)));
        fill(segment, 0, 603);
        assert_eq!(
            (one.settle().unwrap(), memory.remaining()),
            (3, memory.missing(0).count() + rest(&memory))
        );
        assert!(not_missing(one.claim(0, 604, 1)));
        assert!(matches!(other.claim_zeros(0, 604, 1), Err(ClaimError::NotMissing { .. })));
        assert_eq!(other.settle().unwrap(), 0);
        let mut landing = memory.landing();
        landing.claim(0, 600, 3).unwrap();
        landing.claim_zeros(0, 606, 4).unwrap();
        landing.settle().unwrap();
        assert_eq!(
            [599, 603, 610].map(|page| read(ram, 0, page, 0)),
            [599, 603, 610].map(|page| content(0, page))
        );
        assert_eq!(read(ram, 0, 609, 0), 0, "{backing}");
    });
}

/// Missing pages of all blocks but the first.
fn rest(memory: &Incomplete) -> u64 {
    (1..3).map(|block| memory.missing(block).count()).sum()
}

#[test]
fn what_is_given_back_is_seen_by_nobody_and_can_come_again() {
    for_each_backing(|_, ram| {
        let Some(userfault) = userfault() else { return };
        let memory = Incomplete::arm(ram, userfault, sets(ram, |page| page < 2)).unwrap();
        let hearing = Hearing::of(&memory);
        thread::scope(|scope| {
            let _failed = LetGo(&memory);
            let user = scope.spawn(|| read(ram, 0, 0, 0));
            hearing.until(1);
            let mut landing = memory.landing();
            fill(landing.claim(0, 0, 2).unwrap(), 0, 77);
            landing.give_back();
            assert_eq!((landing.settle().unwrap(), memory.missing(0).count()), (0, 2));
            fill(landing.claim(0, 0, 2).unwrap(), 0, 78);
            drop(landing);
            bring(&memory, 0, 0, 2);
            assert_eq!(user.join().unwrap(), content(0, 0));
        });
        assert_eq!(memory.missing(0).count(), 0);
    });
}

#[test]
fn pages_that_are_discarded_after_they_came_read_as_zero() {
    for_each_backing(|backing, ram| {
        let Some(userfault) = userfault() else { return };
        fill_all(ram);
        let memory = Incomplete::arm(ram, userfault, sets(ram, |page| page % 2 == 0)).unwrap();
        let _hearing = Hearing::of(&memory);
        let to_send = sets(ram, |page| page % 2 == 0 && page < 1024);
        let mut landing = memory.landing();
        while let Some(page) = to_send[2].next(0) {
            assert!(to_send[2].take(page));
            fill(landing.claim(2, page, 1).unwrap(), 2, page);
            landing.settle().unwrap();
        }
        // The first of the two was used before.
        assert_eq!(read(ram, 2, 3, 0), content(2, 3));
        discard(ram, 2, 0, 512);
        assert_eq!([0, 1, 2, 511].map(|page| read(ram, 2, page, 0)), [0; 4], "{backing}");
        write(ram, 2, 6, 0, 6);
        discard(ram, 2, 512, 512);
        write(ram, 2, 514, 0, 5);
        assert_eq!([6, 512, 513, 514].map(|page| read(ram, 2, page, 0)), [6, 0, 0, 5], "{backing}");
        assert!(memory.remaining() > 0);
        let failure = memory.release().unwrap_err().to_string();
        assert!(failure.contains("still missing"), "{failure}");
    });
}

#[test]
fn zero_pages_replace_what_was_there_whether_somebody_waits_or_not() {
    for_each_backing(|backing, ram| {
        let Some(userfault) = userfault() else { return };
        fill_all(ram);
        let memory = Incomplete::arm(ram, userfault, sets(ram, |_| true)).unwrap();
        let hearing = Hearing::of(&memory);
        thread::scope(|scope| {
            let _failed = LetGo(&memory);
            let user = scope.spawn(|| read(ram, 0, 7, 511));
            hearing.until(1);
            let mut landing = memory.landing();
            for (block, pages) in ram.blocks().iter().map(crate::Block::pages).enumerate() {
                landing.claim_zeros(block as u16, 0, pages as u32).unwrap();
            }
            assert_eq!(landing.settle().unwrap(), ram.bytes() / PAGE_SIZE as u64);
            assert_eq!(user.join().unwrap(), 0);
        });
        for (block, pages) in ram.blocks().iter().map(crate::Block::pages).enumerate() {
            assert!((0..pages).all(|page| read(ram, block, page, 0) == 0), "{backing}");
        }
        memory.release().unwrap();
    });
}

#[test]
fn giving_the_memory_up_lets_everybody_go_on_and_nothing_be_claimed() {
    for_each_backing(|_, ram| {
        let Some(userfault) = userfault() else { return };
        let memory = Incomplete::arm(ram, userfault, sets(ram, |_| true)).unwrap();
        let hearing = Hearing::of(&memory);
        let mut landing = memory.landing();
        landing.claim(0, 8, 1).unwrap();
        thread::scope(|scope| {
            let _failed = LetGo(&memory);
            let users = [0, 1, 2].map(|block| scope.spawn(move || read(ram, block, 0, 0)));
            hearing.until(3);
            memory.abandon();
            assert_eq!(users.map(|user| user.join().unwrap()), [0; 3]);
        });
        assert!(matches!(landing.claim(0, 9, 1), Err(ClaimError::Over)));
        // Whether it can still be put there depends on what the memory is made of; nobody hangs or dies.
        let _ = landing.settle();
    });
}

#[test]
fn hearing_ends_when_it_is_stopped_and_stays_ended() {
    for_each_backing(|_, ram| {
        let Some(userfault) = userfault() else { return };
        let memory = Incomplete::arm(ram, userfault, sets(ram, |page| page == 0)).unwrap();
        thread::scope(|scope| {
            let _failed = LetGo(&memory);
            let waiting = scope.spawn(|| memory.wait(&mut vec![], None));
            memory.stop();
            assert!(!waiting.join().unwrap().unwrap());
        });
        assert!(!memory.wait(&mut vec![], None).unwrap());
    });
}

#[test]
fn memory_that_cannot_be_completed_page_by_page_and_sets_that_do_not_fit_are_refused() {
    let Some(uffd) = userfault() else { return };
    let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: 1 << 20 };
    let ram = Ram::allocate(&[layout], Backing::Memfd).unwrap();
    for sets in [vec![], vec![PageSet::new(255)], vec![PageSet::new(256), PageSet::new(256)]] {
        let Some(userfault) = userfault() else { return };
        assert!(matches!(Incomplete::arm(&ram, userfault, sets), Err(ArmError::Sets { blocks: 1 })));
    }
    let region = vm_memory::mmap::MmapRegionBuilder::new_with_bitmap(
        4096,
        vm_memory::bitmap::NewBitmap::with_len(4096),
    );
    let region = region
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_ANONYMOUS)
        .build()
        .unwrap();
    let region = vm_memory::GuestRegionMmap::new(region, vm_memory::GuestAddress(0)).unwrap();
    let ram = Ram::of(crate::GuestMemory::from_regions(vec![region]).unwrap(), &["low"]).unwrap();
    let refused = Incomplete::arm(&ram, uffd, vec![PageSet::new(1)]).unwrap_err();
    assert!(refused.to_string().contains("'low'"), "{refused}");
}
