use proptest::prelude::*;
use ram::{Backing, BlockLayout, Ram};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{Balloon, BalloonV1, Discard, PAGE, STAT_NAMES};
use crate::{
    GuestMemory, IoDevice, fixtures,
    virtio::{
        feature,
        hostile::{endure, hostilities},
        testing::{DATA, Guest, memory, readable, take_dirty, writable},
    },
};

const STATS_VQ: u64 = feature(1);
const POISON: u64 = feature(4);
const REPORTING: u64 = feature(5);

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;
const REPORT: usize = 3;

const CONFIG_CHANGED: u32 = 2;
const MEMORY_BYTES: u64 = 16 << 20;

/// A machine with this memory whose driver accepted `features`.
fn started(memory: GuestMemory, features: u64) -> Guest<Balloon> {
    let balloon = Balloon::new(Discard::new(memory.clone()).unwrap());
    let mut guest = Guest::with_memory(balloon, memory);
    guest.start(features);
    guest
}

fn anonymous() -> Guest<Balloon> {
    started(memory(Backing::Anonymous), STATS_VQ | REPORTING)
}

impl Guest<Balloon> {
    /// Puts pages into the balloon, or takes them out.
    fn tell(&mut self, queue: usize, pages: &[u32]) {
        let numbers: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.put(DATA, &numbers);
        let head = self.submit(queue, &[readable(DATA, numbers.len() as u32)]);
        assert_eq!(self.used(queue), Some((head, 0)));
    }

    fn fill_page(&self, page: u64) {
        self.put(page * PAGE, &[0xee; PAGE as usize]);
    }

    fn is_zero(&self, page: u64) -> bool {
        self.get::<{ PAGE as usize }>(page * PAGE) == [0; PAGE as usize]
    }
}

#[test]
fn a_new_target_is_announced_to_the_guest() {
    let mut guest = anonymous();
    let generation = guest.read(0xfc);
    guest.device.set_target(MEMORY_BYTES - 10 * PAGE);
    assert_eq!(guest.interrupt(), Some(CONFIG_CHANGED));
    assert_eq!(guest.config::<4>(0), 10_u32.to_le_bytes());
    assert_ne!(guest.read(0xfc), generation);
    guest.device.set_target(MEMORY_BYTES - 10 * PAGE);
    assert_eq!(guest.interrupt(), None, "the same target again");
    guest.device.set_target(u64::MAX);
    assert_eq!(guest.config::<4>(0), [0; 4], "more than there is");
}

#[test]
fn a_target_before_the_driver_is_there_interrupts_nobody() {
    let memory = memory(Backing::Anonymous);
    let balloon = Balloon::new(Discard::new(memory.clone()).unwrap());
    let mut guest = Guest::with_memory(balloon, memory);
    guest.device.set_target(0);
    assert_eq!(guest.interrupt(), None);
    assert_eq!(guest.config::<4>(0), ((MEMORY_BYTES / PAGE) as u32).to_le_bytes());
}

#[test]
fn the_guest_says_how_much_memory_it_has() {
    let mut guest = anonymous();
    assert_eq!(guest.device.actual(), MEMORY_BYTES);
    guest.set_config(4, &100_u32.to_le_bytes());
    assert_eq!(guest.device.actual(), MEMORY_BYTES - 100 * PAGE);
    guest.set_config(4, &u32::MAX.to_le_bytes());
    assert_eq!(guest.device.actual(), 0);
}

#[test]
fn pages_in_the_balloon_are_given_back_and_sent_as_zeroes() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let mut guest = started(memory(backing), 0);
        for page in 999..1006 {
            guest.fill_page(page);
        }
        take_dirty(&guest.memory, 0);
        // In no order, one of them twice.
        guest.tell(INFLATE, &[1003, 1000, 1001, 1005, 1003]);
        let zero: Vec<u64> = (999..1006).filter(|page| guest.is_zero(*page)).collect();
        assert_eq!(zero, [1000, 1001, 1003, 1005], "{backing}");
        assert!(take_dirty(&guest.memory, 1001 * PAGE), "{backing}");
        guest.tell(DEFLATE, &[1000, 1001, 1003, 1005]);
        guest.fill_page(1000);
        assert!(!guest.is_zero(1000));
    }
}

#[test]
fn the_host_gets_the_memory() {
    let memory = memory(Backing::Memfd);
    let mut guest = started(memory.clone(), 0);
    let blocks = || {
        let region = memory.iter().next().unwrap();
        let file = region.file_offset().unwrap().file();
        std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap())
    };
    let pages: Vec<u32> = (1024..2048).collect();
    for page in &pages {
        guest.fill_page(u64::from(*page));
    }
    guest.put(DATA, &[1]);
    let before = blocks();
    guest.tell(INFLATE, &pages);
    assert_eq!(before - blocks(), 1024 * PAGE / 512);
}

#[test]
fn a_page_that_is_not_memory_is_passed_over() {
    let mut guest = anonymous();
    guest.fill_page(1000);
    guest.tell(INFLATE, &[u32::MAX, (MEMORY_BYTES / PAGE) as u32, 1000]);
    assert!(guest.is_zero(1000));
}

#[test]
fn reported_pages_are_given_back() {
    let mut guest = anonymous();
    for page in 1000..1010 {
        guest.fill_page(page);
    }
    take_dirty(&guest.memory, 0);
    let head = guest.submit(
        REPORT,
        &[writable(1001 * PAGE, 2 * PAGE as u32), writable(1006 * PAGE + 1, 2 * PAGE as u32)],
    );
    assert_eq!(guest.used(REPORT), Some((head, 0)));
    let zero: Vec<u64> = (1000..1010).filter(|page| guest.is_zero(*page)).collect();
    assert_eq!(zero, [1001, 1002, 1007], "only whole pages");
    assert!(take_dirty(&guest.memory, 1007 * PAGE));
}

#[test]
fn reported_pages_that_the_guest_poisons_stay() {
    let mut guest = started(memory(Backing::Anonymous), STATS_VQ | REPORTING | POISON);
    guest.fill_page(1000);
    guest.set_config(12, &0xeeee_eeee_u32.to_le_bytes());
    guest.submit(REPORT, &[writable(1000 * PAGE, PAGE as u32)]);
    assert!(!guest.is_zero(1000));
    guest.set_config(12, &[0; 4]);
    guest.submit(REPORT, &[writable(1000 * PAGE, PAGE as u32)]);
    assert!(guest.is_zero(1000));
}

#[test]
fn without_statistics_the_report_queue_moves_up() {
    let mut guest = started(memory(Backing::Anonymous), REPORTING);
    guest.fill_page(1000);
    let head = guest.submit(STATS, &[writable(1000 * PAGE, PAGE as u32)]);
    assert_eq!(guest.used(STATS), Some((head, 0)));
    assert!(guest.is_zero(1000));
}

#[test]
fn huge_pages_are_emptied_whole_or_not_at_all_and_stay_this_machines() {
    let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: 4 << 20 };
    let ram = match Ram::allocate(&[layout], Backing::Hugetlb2M) {
        Ok(ram) => ram,
        Err(error) => return eprintln!("SKIPPED: no huge pages on this host: {error}"),
    };
    let memory = ram.memory();
    let discard = Discard::new(memory.clone()).unwrap();
    let huge = 2 << 20;
    memory.write_slice(&[0xee; 1], GuestAddress(huge)).unwrap();
    assert_eq!(discard.discard(GuestAddress(huge), huge - PAGE).unwrap(), 0);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(huge)).unwrap(), 0xee);
    let present = || {
        use std::os::unix::fs::FileExt as _;
        let address = memory.get_host_address(GuestAddress(huge)).unwrap().addr() as u64;
        let (mut entry, pages) = ([0; 8], std::fs::File::open("/proc/self/pagemap").unwrap());
        pages.read_exact_at(&mut entry, address / PAGE * 8).unwrap();
        u64::from_le_bytes(entry) >> 63 == 1
    };
    assert_eq!(discard.discard(GuestAddress(PAGE), 2 * huge).unwrap(), 0);
    assert!(present(), "no other process can have it");
    assert_eq!(memory.read_obj::<u8>(GuestAddress(huge)).unwrap(), 0);
}

#[test]
fn a_discard_across_regions_reaches_both() {
    let block = |name: &str, guest_address| BlockLayout { name: name.into(), guest_address, bytes: 1 << 20 };
    let ram =
        Ram::allocate(&[block("low", 0), block("high", 1 << 20), block("far", 8 << 20)], Backing::Anonymous)
            .unwrap();
    let discard = Discard::new(ram.memory().clone()).unwrap();
    assert_eq!(discard.memory_bytes(), 3 << 20);
    assert_eq!(discard.discard(GuestAddress((1 << 20) - PAGE), 2 * PAGE).unwrap(), 2 * PAGE);
    assert_eq!(discard.discard(GuestAddress(0), u64::MAX).unwrap(), 3 << 20);
    assert_eq!(discard.discard(GuestAddress(u64::MAX - 5), u64::MAX).unwrap(), 0);
}

/// One statistic as the guest writes it.
fn stat(tag: u16, value: u64) -> Vec<u8> {
    [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat()
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let mut guest = anonymous();
    let (first, second) =
        (stat(4, 1 << 20), [stat(4, 2 << 20), stat(5, 8 << 20), stat(6, u64::MAX)].concat());
    guest.put(DATA, &first);
    let head = guest.submit(STATS, &[readable(DATA, first.len() as u32)]);
    assert_eq!(guest.used(STATS), None, "the device keeps the buffer");
    assert_eq!(guest.device.stats().last_update, None);
    guest.device.request_stats();
    guest.run();
    assert_eq!(guest.used(STATS), Some((head, 0)));
    assert!(guest.interrupt().is_some());
    guest.put(DATA, &second);
    guest.submit(STATS, &[readable(DATA, second.len() as u32)]);
    let stats = guest.device.stats();
    let values: Vec<_> = stats.iter().collect();
    assert_eq!(values, [("stat-free-memory", 2 << 20), ("stat-total-memory", 8 << 20)]);
    assert!(stats.last_update.is_some());
}

#[test]
fn unknown_and_repeated_statistics_do_no_harm() {
    let mut guest = anonymous();
    let mut bytes: Vec<u8> = (0..1000).flat_map(|tag| stat(tag, u64::from(tag))).collect();
    bytes.extend([1, 2, 3]);
    guest.put(DATA, &bytes);
    guest.submit(STATS, &[readable(DATA, bytes.len() as u32)]);
    assert_eq!(guest.device.stats().iter().count(), STAT_NAMES.len());
}

/// The destination: its own memory mapping is the same in tests.
fn restore(guest: &Guest<Balloon>, state: &BalloonV1) -> Balloon {
    Balloon::restore(Discard::new(guest.memory.clone()).unwrap(), state)
}

#[test]
fn a_balloon_half_inflated_moves_with_the_machine() {
    let mut guest = started(memory(Backing::Anonymous), STATS_VQ | REPORTING | POISON);
    guest.set_config(12, &7_u32.to_le_bytes());
    guest.device.set_target(MEMORY_BYTES - 600 * PAGE);
    guest.tell(INFLATE, &(1000..1256).collect::<Vec<_>>());
    guest.set_config(4, &256_u32.to_le_bytes());
    // The next pages are in the queue, their notification is not taken; the statistics buffer waits.
    guest.fill_page(1256);
    guest.put(DATA, &1256_u32.to_le_bytes());
    let head = guest.offer(INFLATE, &[readable(DATA, 4)]);
    let stats = guest.offer(STATS, &[readable(DATA + 8, 10)]);
    let released = fixtures::released("virtio-balloon-v1", &guest.save());
    let mut moved = guest.restored(&released, |state| Ok(restore(&guest, state))).unwrap();
    moved.used(INFLATE);
    moved.device.kick();
    assert_eq!(moved.config::<16>(0)[..8], [600_u32.to_le_bytes(), 256_u32.to_le_bytes()].concat());
    assert_eq!(moved.config::<4>(12), 7_u32.to_le_bytes());
    assert_eq!(moved.device.actual(), MEMORY_BYTES - 256 * PAGE);
    assert!(moved.is_zero(1256), "request {head} was not served");
    moved.device.request_stats();
    moved.run();
    assert_eq!(moved.used(STATS), Some((stats, 0)));
}

#[test]
fn a_reset_empties_the_balloon_and_keeps_the_target() {
    let mut guest = anonymous();
    guest.device.set_target(0);
    guest.set_config(4, &9_u32.to_le_bytes());
    guest.write(0x70, 0);
    assert_eq!(guest.device.actual(), MEMORY_BYTES);
    assert_eq!(guest.config::<4>(0), ((MEMORY_BYTES / PAGE) as u32).to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_guest_breaks_it(hostilities in hostilities()) {
        let memory = memory(Backing::Anonymous);
        let discard = || Discard::new(memory.clone()).unwrap();
        endure(Balloon::new(discard()), hostilities, |state| Some(Balloon::restore(discard(), &state)));
    }
}
