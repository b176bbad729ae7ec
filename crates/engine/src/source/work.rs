//! One round, shared out to the channel threads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use ram::{DirtySet, PAGE_SIZE, Ram};

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
}

/// A stretch of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) block: usize,
    /// A multiple of 64, as `KVM_CLEAR_DIRTY_LOG` wants it.
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

/// Figures of the round under way, for whoever asks meanwhile.
#[derive(Debug, Default)]
pub(crate) struct RoundProgress {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) done_pages: AtomicU64,
    pub(crate) raw_pages: AtomicU64,
    pub(crate) zero_pages: AtomicU64,
}

/// Smallest chunk: 2 MiB, so that the last pass over a small working set still keeps every channel busy.
const MIN_CHUNK_PAGES: u64 = (2 << 20) / PAGE_SIZE as u64;
/// Largest chunk: 32 MiB. Clearing is one system call a chunk; the time between clearing a page and sending it, in which
/// writes make it dirty again for nothing, grows with the chunk.
const MAX_CHUNK_PAGES: u64 = (32 << 20) / PAGE_SIZE as u64;
/// Chunks for each channel to aim at, so that channels end together.
const CHUNKS_PER_CHANNEL: u64 = 32;

impl RoundWork {
    pub(crate) fn new(round: u32, last: bool, set: Arc<DirtySet>, chunks: Arc<[Chunk]>) -> Self {
        Self { round, last, set, chunks, next: AtomicUsize::new(0), next_to_verify: AtomicUsize::new(0) }
    }

    /// The next chunk that nobody has taken.
    pub(crate) fn take(&self) -> Option<Chunk> {
        self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
    }

    /// The next chunk whose pages nobody has compared with what was sent of them.
    pub(crate) fn take_to_verify(&self) -> Option<Chunk> {
        self.chunks.get(self.next_to_verify.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

/// Cuts all memory into chunks for `channels` channels.
pub(crate) fn chunks(ram: &Ram, channels: u16) -> Arc<[Chunk]> {
    let total: u64 = ram.blocks().iter().map(ram::Block::pages).sum();
    let wanted = total / (u64::from(channels) * CHUNKS_PER_CHANNEL).max(1);
    let pages = wanted.clamp(MIN_CHUNK_PAGES, MAX_CHUNK_PAGES).next_multiple_of(MIN_CHUNK_PAGES);
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
            let mut expected = vec![0; 2];
            for chunk in chunks(&ram, channels).iter() {
                assert_eq!((chunk.first_page, chunk.first_page % 64), (expected[chunk.block], 0));
                expected[chunk.block] += chunk.pages;
            }
            assert_eq!(expected, [25_600, 9_473]);
        }
    }
}
