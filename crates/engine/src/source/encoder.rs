//! What becomes of page data before a channel sends it, where pages are not sent straight from guest memory.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use encodings::{Kept, Packer, Page, Sent, packing_room};
use migration::Encodings;
use ram::{Block, PAGE_SIZE, Ram};
use transport::Buffer;
use wire::{Batch, Encoding, MAX_HELD_BYTES, Packing};

use super::choice::{Choice, Sample};
use crate::cpu_time::thread_time;

/// How pages are encoded in an attempt; for all channels.
#[derive(Debug)]
pub(crate) struct Ways {
    encodings: Encodings,
    channels: u16,
    /// Of each block; none where there are no rounds, in which pages may go as differences.
    block_pages: Vec<u64>,
    /// What was sent of pages, once any go as differences.
    kept: OnceLock<Kept>,
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
    /// A difference, before it is held.
    delta: Vec<u8>,
    /// What is held, at its front.
    data: Buffer,
    held: usize,
    /// Where that was when it was to be sent.
    lent: usize,
    /// The same packed, where that was worth it.
    packed: Buffer,
    packed_bytes: Option<usize>,
    /// Where it is to decide for itself.
    choice: Option<Choice>,
    /// Whether the data of the batch under way is held.
    holds: bool,
    /// Whether its pages go as differences.
    deltas: bool,
    /// When the batch before was sent.
    since: Instant,
}

/// How much of a batch is packed to see how it packs.
const SAMPLE_BYTES: usize = 64 << 10;

/// Both buffers may take each other's place when they are sent.
fn buffer_bytes() -> usize {
    packing_room(MAX_HELD_BYTES as usize)
}

/// Most page data in a batch that is held: with one more page it is at its limit.
pub(crate) const HELD_BYTES: u64 = MAX_HELD_BYTES - PAGE_SIZE as u64;

impl Ways {
    /// For an attempt over so many channels in which both sides agreed on these. `rounds` says whether there are any, in which pages may
    /// go as differences.
    pub(crate) fn new(
        encodings: Encodings,
        channels: u16,
        ram: &Ram,
        rounds: bool,
        figures: Arc<EncodedCounters>,
    ) -> Self {
        let pages = ram.blocks().iter().filter(|_| rounds).map(Block::pages);
        Self { encodings, channels, block_pages: pages.collect(), kept: OnceLock::new(), figures }
    }

    fn keep(&self) -> &Kept {
        self.kept.get_or_init(|| Kept::new(self.block_pages.iter().copied(), self.encodings.cache_bytes))
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
    /// Fails where there is no memory for its buffers.
    pub(crate) fn new(ways: Arc<Ways>) -> io::Result<Self> {
        let Encodings { auto_packing, auto_deltas, processors, .. } = ways.encodings;
        Ok(Self {
            choice: (auto_packing || auto_deltas).then(|| Choice::new(ways.channels, processors.into())),
            ways,
            packer: Packer::default(),
            page: Box::new([0; PAGE_SIZE]),
            delta: Vec::new(),
            data: Buffer::new(buffer_bytes())?,
            held: 0,
            lent: 0,
            packed: Buffer::new(buffer_bytes())?,
            packed_bytes: None,
            holds: false,
            deltas: false,
            since: Instant::now(),
        })
    }

    /// For pages that follow the machine: they are packed as those before, and there is nothing that they could be the differences of.
    pub(crate) fn without_rounds(mut self) -> Self {
        self.clear();
        let encodings = Encodings {
            packing: self.packing(),
            deltas: false,
            auto_packing: false,
            auto_deltas: false,
            ..self.ways.encodings
        };
        let ways = Ways {
            encodings,
            channels: self.ways.channels,
            block_pages: Vec::new(),
            kept: OnceLock::new(),
            figures: self.ways.figures.clone(),
        };
        Self { ways: Arc::new(ways), choice: None, deltas: false, holds: false, ..self }
    }

    /// How the data of batches is packed now.
    pub(crate) fn packing(&self) -> Option<Packing> {
        let chosen = || self.choice.as_ref().filter(|_| self.ways.encodings.auto_packing)?.packing();
        self.ways.encodings.packing.or_else(chosen)
    }

    /// A round begins.
    pub(crate) fn begin_round(&mut self) {
        self.since = Instant::now();
    }

    /// A batch begins. Returns whether its data is held. Differences begin with the second round: what is sent in the first is mostly never
    /// sent again, and would take the room.
    pub(crate) fn begin(&mut self, round: u32) -> bool {
        let Encodings { deltas, auto_deltas, .. } = self.ways.encodings;
        let chosen = auto_deltas && self.choice.as_ref().is_some_and(Choice::holds);
        self.deltas = (deltas || chosen) && round > 0 && !self.ways.block_pages.is_empty();
        self.holds = self.deltas || self.packing().is_some();
        self.holds
    }

    /// Whether the data of the batch under way is held.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    /// A stretch of memory is passed in a round.
    pub(crate) fn pass(&self, block: usize, first_page: u64, pages: u64, round: u32) {
        if let Some(kept) = self.ways.kept.get() {
            kept.pass(block, first_page, pages, round);
        }
    }

    /// A page goes as one of zeros.
    pub(crate) fn zero(&self, block: usize, page: u64) {
        if let Some(kept) = self.ways.kept.get() {
            kept.is_zero(block, page);
        }
    }

    /// A page goes in a way that leaves open what is sent of it.
    pub(crate) fn forget(&self, block: usize, page: u64) {
        if let Some(kept) = self.ways.kept.get() {
            kept.forget(block, page);
        }
    }

    /// Takes in a page that is not zero, as the next of the batch; `round` is `None` in the last. Everything that is said of the page
    /// from here on is said of one copy of it: the guest may be writing it.
    pub(crate) fn add(&mut self, memory: &Block, block: usize, page: u64, round: Option<u32>) -> Encoding {
        // The page is one of the dirty set, so it is there.
        let _ = memory.copy_page(page, &mut self.page);
        let figures = &self.ways.figures;
        if self.deltas {
            self.delta.clear();
            match self.ways.keep().send(block, page, round, &self.page, &mut self.delta) {
                Sent::Delta(bytes) => {
                    self.data[self.held..self.held + bytes].copy_from_slice(&self.delta);
                    self.held += bytes;
                    figures.deltas.fetch_add(1, Ordering::Relaxed);
                    figures.delta_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                    return Encoding::Delta { bytes: bytes as u32 };
                }
                Sent::Missing => figures.missing.fetch_add(1, Ordering::Relaxed),
                Sent::Overflow => figures.overflow.fetch_add(1, Ordering::Relaxed),
            };
        } else {
            self.forget(block, page);
        }
        self.hold_page();
        Encoding::Raw
    }

    /// A batch has no more than there is room for: it is full before.
    fn hold_page(&mut self) {
        self.data[self.held..self.held + PAGE_SIZE].copy_from_slice(&self.page[..]);
        self.held += PAGE_SIZE;
    }

    /// Takes in raw pages of a batch that has nothing else in it, as long as there are fewer than so many bytes.
    pub(crate) fn add_all(&mut self, memory: &Block, batch: &Batch, most: usize) {
        let raw = batch.runs.iter().filter(|run| run.encoding == Encoding::Raw);
        for page in raw.flat_map(|run| run.first_page..run.first_page + u64::from(run.pages)) {
            if self.held >= most.min(MAX_HELD_BYTES as usize) {
                break;
            }
            let _ = memory.copy_page(page, &mut self.page);
            self.hold_page();
        }
    }

    /// Packs what was taken in, if that makes it shorter, and notes in the batch that it did.
    pub(crate) fn finish(&mut self, batch: &mut Batch) {
        let plain = &self.data[..self.held];
        let level = self.ways.encodings.zstd_level;
        self.packed_bytes = self.packing().filter(|_| self.held > 0).and_then(|packing| {
            let bytes = self.packer.pack_into(packing, level, plain, &mut self.packed)?;
            batch.packed = Some((packing, bytes as u32));
            Some(bytes)
        });
        let Some(bytes) = self.packed_bytes else {
            batch.packed = None;
            return;
        };
        let (pages, figures) = (batch.pages(), &self.ways.figures);
        figures.packed_pages.fetch_add(pages.raw + pages.delta, Ordering::Relaxed);
        figures.plain_bytes.fetch_add(self.held as u64, Ordering::Relaxed);
        figures.packed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What follows the table of the batch that was finished: a buffer, and how much of it. Another one as long may be left in its place.
    pub(crate) fn finished(&mut self) -> (&mut Buffer, usize) {
        self.lent = self.data.as_ptr().addr();
        match self.packed_bytes {
            Some(bytes) => (&mut self.packed, bytes),
            None => (&mut self.data, self.held),
        }
    }

    /// The batch was sent, which takes so many bytes on the wire. Of the time since the one before, `waited` was for the wire to take it.
    pub(crate) fn sent(&mut self, memory: &Block, batch: &Batch, bytes: u64, waited: Duration) {
        let time = std::mem::replace(&mut self.since, Instant::now()).elapsed();
        if self.data.as_ptr().addr() != self.lent {
            // It is on its way, and this is another buffer.
            self.held = 0;
        }
        if let Some(mut choice) = self.choice.take() {
            if choice.sent(bytes, waited, time) {
                choice.decide(|packing| self.sample(memory, batch, packing));
                // What it took is not for the wire.
                self.since = Instant::now();
            }
            self.choice = Some(choice);
        }
        self.clear();
    }

    /// Packs a little of a batch that was sent; `None` where there is too little to tell.
    fn sample(&mut self, memory: &Block, batch: &Batch, packing: Packing) -> Option<Sample> {
        if self.held == 0 {
            self.add_all(memory, batch, SAMPLE_BYTES);
        }
        let plain = &self.data[..self.held.min(SAMPLE_BYTES)];
        if plain.len() < SAMPLE_BYTES / 4 {
            return None;
        }
        let began = thread_time();
        let packed = self.packer.pack(packing, self.ways.encodings.zstd_level, plain);
        let ratio = packed.map_or(1.0, |packed| plain.len() as f64 / packed.len() as f64);
        let took = thread_time().saturating_sub(began).max(Duration::from_micros(1));
        Some(Sample { ratio, bytes_per_second: plain.len() as f64 / took.as_secs_f64() })
    }

    /// Drops what was taken in.
    pub(crate) fn clear(&mut self) {
        (self.held, self.packed_bytes) = (0, None);
    }
}
