//! What becomes of page data before a channel sends it, where pages are not sent straight from guest memory.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use encodings::{Kept, Packer, Page, Sent};
use migration::Encodings;
use ram::{Block, PAGE_SIZE, Ram};
use wire::{Batch, Encoding, MAX_HELD_BYTES};

/// How pages are encoded in an attempt; for all channels.
#[derive(Debug)]
pub(crate) struct Ways {
    encodings: Encodings,
    /// What was sent of pages, where they go as differences.
    kept: Option<Kept>,
    figures: Arc<EncodedCounters>,
}

/// Counts what encodings do, over all channels of an attempt.
#[derive(Debug, Default)]
pub(crate) struct EncodedCounters {
    deltas: AtomicU64,
    delta_bytes: AtomicU64,
    missing: AtomicU64,
    overflow: AtomicU64,
    packed_pages: AtomicU64,
    plain_bytes: AtomicU64,
    packed_bytes: AtomicU64,
}

/// What encodings have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodedFigures {
    /// What both sides agreed on.
    pub encodings: Encodings,
    /// Pages that went as differences.
    pub deltas: u64,
    /// Bytes of those differences, before packing.
    pub delta_bytes: u64,
    /// Pages that went whole, as no copy was kept of what was sent before.
    pub missing: u64,
    /// Pages that went whole, as too much of them had changed.
    pub overflow: u64,
    /// Pages of batches that went packed.
    pub packed_pages: u64,
    /// Bytes of those batches before packing.
    pub plain_bytes: u64,
    /// Bytes of them after it.
    pub packed_bytes: u64,
}

/// Of one channel: holds the data of a batch.
#[derive(Debug)]
pub(crate) struct Encoder {
    ways: Arc<Ways>,
    packer: Packer,
    page: Box<Page>,
    data: Vec<u8>,
}

/// Most page data in a batch that is held: with one more page it is at its limit.
pub(crate) const HELD_BYTES: u64 = MAX_HELD_BYTES - PAGE_SIZE as u64;

impl Ways {
    /// For an attempt in which both sides agreed on these. `rounds` says whether there are any, in which pages may go as differences.
    pub(crate) fn new(encodings: Encodings, ram: &Ram, rounds: bool, figures: Arc<EncodedCounters>) -> Self {
        let pages = || ram.blocks().iter().map(Block::pages);
        let kept = (encodings.deltas && rounds).then(|| Kept::new(pages(), encodings.cache_bytes));
        Self { encodings, kept, figures }
    }

    /// The same, without rounds and what was kept for them.
    pub(crate) fn without_rounds(&self) -> Arc<Self> {
        Arc::new(Self { encodings: self.encodings, kept: None, figures: self.figures.clone() })
    }

    /// Whether page data is held in this round. Differences begin with the second: what is sent in the first is mostly never sent
    /// again, and would take the room.
    pub(crate) fn holds(&self, round: u32) -> bool {
        self.encodings.packing.is_some() || (self.kept.is_some() && round > 0)
    }
}

impl EncodedCounters {
    pub(crate) fn figures(&self, encodings: Encodings) -> EncodedFigures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        EncodedFigures {
            encodings,
            deltas: read(&self.deltas),
            delta_bytes: read(&self.delta_bytes),
            missing: read(&self.missing),
            overflow: read(&self.overflow),
            packed_pages: read(&self.packed_pages),
            plain_bytes: read(&self.plain_bytes),
            packed_bytes: read(&self.packed_bytes),
        }
    }
}

impl Encoder {
    pub(crate) fn new(ways: Arc<Ways>) -> Self {
        Self { ways, packer: Packer::default(), page: Box::new([0; PAGE_SIZE]), data: Vec::new() }
    }

    pub(crate) fn holds(&self, round: u32) -> bool {
        self.ways.holds(round)
    }

    /// Whether the data of batches is packed.
    pub(crate) fn packs(&self) -> bool {
        self.ways.encodings.packing.is_some()
    }

    /// A stretch of memory is passed in a round.
    pub(crate) fn pass(&self, block: usize, first_page: u64, pages: u64, round: u32) {
        if let Some(kept) = &self.ways.kept {
            kept.pass(block, first_page, pages, round);
        }
    }

    /// A page goes as one of zeros.
    pub(crate) fn zero(&self, block: usize, page: u64) {
        if let Some(kept) = &self.ways.kept {
            kept.is_zero(block, page);
        }
    }

    /// Takes in a page that is not zero, as the next of the batch; `round` is `None` in the last. Everything that is said of the page
    /// from here on is said of one copy of it: the guest may be writing it.
    pub(crate) fn add(&mut self, memory: &Block, block: usize, page: u64, round: Option<u32>) -> Encoding {
        // The page is one of the dirty set, so it is there.
        let _ = memory.copy_page(page, &mut self.page);
        let figures = &self.ways.figures;
        if let Some(kept) = self.ways.kept.as_ref().filter(|_| round != Some(0)) {
            match kept.send(block, page, round, &self.page, &mut self.data) {
                Sent::Delta(bytes) => {
                    figures.deltas.fetch_add(1, Ordering::Relaxed);
                    figures.delta_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                    return Encoding::Delta { bytes: bytes as u32 };
                }
                Sent::Missing => figures.missing.fetch_add(1, Ordering::Relaxed),
                Sent::Overflow => figures.overflow.fetch_add(1, Ordering::Relaxed),
            };
        }
        self.data.extend_from_slice(&self.page[..]);
        Encoding::Raw
    }

    /// Takes in the raw pages of a batch that has nothing else in it.
    pub(crate) fn add_all(&mut self, memory: &Block, batch: &Batch) {
        let raw = batch.runs.iter().filter(|run| run.encoding == Encoding::Raw);
        for page in raw.flat_map(|run| run.first_page..run.first_page + u64::from(run.pages)) {
            let _ = memory.copy_page(page, &mut self.page);
            self.data.extend_from_slice(&self.page[..]);
        }
    }

    /// Packs what was taken in, if that makes it shorter, and notes in the batch that it did. Returns what follows its table.
    pub(crate) fn finish(&mut self, batch: &mut Batch) -> &[u8] {
        batch.packed = None;
        let encodings = &self.ways.encodings;
        let packed = match encodings.packing {
            Some(packing) if !self.data.is_empty() => {
                let packed = self.packer.pack(packing, encodings.zstd_level, &self.data);
                packed.map(|packed| (packing, packed))
            }
            _ => None,
        };
        let Some((packing, packed)) = packed else { return &self.data };
        batch.packed = Some((packing, packed.len() as u32));
        let (pages, figures) = (batch.pages(), &self.ways.figures);
        figures.packed_pages.fetch_add(pages.raw + pages.delta, Ordering::Relaxed);
        figures.plain_bytes.fetch_add(self.data.len() as u64, Ordering::Relaxed);
        figures.packed_bytes.fetch_add(packed.len() as u64, Ordering::Relaxed);
        packed
    }

    /// The batch was sent.
    pub(crate) fn clear(&mut self) {
        self.data.clear();
    }
}
