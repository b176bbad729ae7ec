//! One round, shared out to the channel threads.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use ram::{DirtySet, PAGE_SIZE, Ram};

use crate::page_counters::PageCounters;

/// What the channel threads take their pages from in one round. Each takes the next chunk when it is done with its last: a
/// slow channel takes fewer.
#[derive(Debug)]
pub(crate) struct RoundWork {
    pub(crate) round: u32,
    /// The machine is stopped: nothing is re-armed, no bandwidth limit holds, no round follows.
    pub(crate) last: bool,
    pub(crate) set: Arc<DirtySet>,
    chunks: Arc<[Chunk]>,
    next: AtomicUsize,
    next_to_verify: AtomicUsize,
    cut: AtomicBool,
}

/// A stretch of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) block: usize,
    /// A multiple of 64, as `KVM_CLEAR_DIRTY_LOG` wants it.
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

/// All memory in chunks: large ones where there is much to send, small ones where there is little, so that every channel gets some of
/// it. A working set is often one stretch of memory.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    large: Arc<[Chunk]>,
    small: Arc<[Chunk]>,
    /// Fewer dirty pages than this are little.
    little: u64,
}

/// Figures of the round under way, for whoever asks meanwhile.
#[derive(Debug, Default)]
pub(crate) struct RoundProgress {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) pages: PageCounters,
}

/// Smallest of the large chunks: 2 MiB.
const MIN_CHUNK_PAGES: u64 = (2 << 20) / PAGE_SIZE as u64;
/// Largest chunk: 32 MiB. How much of one is cleared at once is [another matter](super::stride::Stride).
const MAX_CHUNK_PAGES: u64 = (32 << 20) / PAGE_SIZE as u64;
/// Chunks for each channel to aim at, so that channels end together.
const CHUNKS_PER_CHANNEL: u64 = 32;
/// Smallest chunk that the log can be cleared by (Linux, Documentation/virt/kvm/api.rst, KVM_CLEAR_DIRTY_LOG).
const MIN_SMALL_CHUNK_PAGES: u64 = 64;
/// Most small chunks: taking one costs some nanoseconds, dirty or not, and the machine may be stopped meanwhile.
const MAX_SMALL_CHUNKS: u64 = 1 << 14;
/// With fewer than these large chunks for each channel to send, channels would end at different times.
const LARGE_CHUNKS_EACH: u64 = 4;

impl RoundWork {
    pub(crate) fn new(round: u32, last: bool, set: Arc<DirtySet>, chunks: Arc<[Chunk]>) -> Self {
        Self {
            round,
            last,
            set,
            chunks,
            next: AtomicUsize::new(0),
            next_to_verify: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
        }
    }

    /// The next chunk that nobody has taken.
    pub(crate) fn take(&self) -> Option<Chunk> {
        if self.cut.load(Ordering::Relaxed) {
            return None;
        }
        self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }

    /// Hands out no more chunks: what was not taken stays dirty.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether chunks may have been left.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The next chunk whose pages nobody has compared with what was sent of them.
    pub(crate) fn take_to_verify(&self) -> Option<Chunk> {
        self.chunks.get(self.next_to_verify.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

impl RoundProgress {
    /// Bytes and pages of the round, as far as it is.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        (self.sent_bytes.load(Ordering::Relaxed), self.pages.get().total())
    }

    /// A round begins.
    pub(crate) fn reset(&self) {
        self.sent_bytes.store(0, Ordering::Relaxed);
        self.pages.reset();
    }
}

impl Chunks {
    /// Cuts all memory for `channels` channels.
    pub(crate) fn new(ram: &Ram, channels: u16) -> Self {
        let total: u64 = ram.blocks().iter().map(ram::Block::pages).sum();
        let channels = u64::from(channels);
        let wanted = total / (channels * CHUNKS_PER_CHANNEL).max(1);
        let large = wanted.clamp(MIN_CHUNK_PAGES, MAX_CHUNK_PAGES).next_multiple_of(MIN_CHUNK_PAGES);
        let small = total.div_ceil(MAX_SMALL_CHUNKS).next_multiple_of(MIN_SMALL_CHUNK_PAGES).min(large);
        let little = if channels > 1 { channels * LARGE_CHUNKS_EACH * large } else { 0 };
        Self { large: cut(ram, large), small: cut(ram, small), little }
    }

    /// The chunks for a round of so many dirty pages.
    pub(crate) fn for_round(&self, dirty_pages: u64) -> Arc<[Chunk]> {
        if dirty_pages < self.little { self.small.clone() } else { self.large.clone() }
    }
}

/// Cuts all memory into chunks of so many pages.
fn cut(ram: &Ram, pages: u64) -> Arc<[Chunk]> {
    let blocks = ram.blocks().iter().enumerate();
    blocks
        .flat_map(|(block, info)| {
            (0..info.pages().div_ceil(pages)).map(move |index| Chunk {
                block,
                first_page: index * pages,
                pages: pages.min(info.pages() - index * pages),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ram::{Backing, BlockLayout};

    #[test]
    fn chunks_cover_every_page_once_and_begin_where_the_log_can_be_cleared() {
        let block =
            |name: &str, guest_address, bytes| BlockLayout { name: name.into(), guest_address, bytes };
        let layout = [block("ram.low", 0, 100 << 20), block("ram.high", 4 << 30, (37 << 20) + 4096)];
        let ram = Ram::allocate(&layout, Backing::Anonymous).unwrap();
        for channels in [1, 4, 64] {
            let chunks = Chunks::new(&ram, channels);
            for dirty_pages in [0, u64::MAX] {
                let mut expected = vec![0; 2];
                for chunk in chunks.for_round(dirty_pages).iter() {
                    assert_eq!((chunk.first_page, chunk.first_page % 64), (expected[chunk.block], 0));
                    expected[chunk.block] += chunk.pages;
                }
                assert_eq!(expected, [25_600, 9_473]);
            }
        }
    }
    #[test]
    fn a_small_working_set_is_shared_out_among_all_channels() {
        let layout = [BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: 1 << 30 }];
        let ram = Ram::allocate(&layout, Backing::Anonymous).unwrap();
        for channels in [2, 8, 32] {
            let dirty = 4096;
            let chunks = Chunks::new(&ram, channels).for_round(dirty);
            let taken = chunks.iter().filter(|chunk| chunk.first_page < dirty).count();
            assert!(taken >= usize::from(channels), "{taken} chunks for {channels} channels");
        }
        let alone = Chunks::new(&ram, 1);
        assert_eq!(alone.for_round(4096), alone.for_round(u64::MAX), "one channel takes everything");
    }
}
