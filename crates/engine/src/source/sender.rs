//! A page channel at the source: everything that happens to a page between the dirty set and the wire.

use std::{sync::Arc, time::Instant};

use ram::{Block, DirtyLog, PAGE_SIZE, PageSums, Ram, Touched, for_each_run};
use transport::{Connection, Pacer, Piece, TransportError};
use wire::{Batch, Encoding, MAX_RUNS, PageCounts, RoundEnd};

use super::{
    encoder::{Encoder, HELD_BYTES, Ways},
    look::{collect_pieces, look},
    outlet::{Outlet, ZeroCopy},
    pulse::pulse,
    pusher::Pusher,
    stride::Stride,
    work::{Chunk, RoundProgress, RoundWork},
};
use crate::lane::Lane;

/// Page data in a batch: 1 MiB, which stays in a core's cache between the look for zeros and the copy into the socket.
const BATCH_BYTES: u64 = 1 << 20;
/// Pages in a batch, zero ones included (256 MiB): progress is counted when a batch is sent.
const BATCH_ANY_PAGES: u64 = 65_536;
/// How much of a second's bandwidth a batch may be, so that a slow limit is kept evenly.
const BATCHES_PER_SECOND: u64 = 50;

/// What a channel carried in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelRound {
    pub(crate) bytes: u64,
    pub(crate) pages: PageCounts,
}

/// Why a channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("Page channel {channel}")]
    Transport { channel: u16, source: TransportError },
    #[error("The dirty log cannot be cleared")]
    Clear(#[source] std::io::Error),
    #[error("The dirty log has missed a write, memory is not as it was sent: {0}")]
    Missed(String),
    #[error("Stopped")]
    Stopped,
}

/// Where pages come from and what is done with them besides sending; every channel has its own.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) ram: Ram,
    pub(crate) log: Arc<dyn DirtyLog>,
    pub(crate) touched: Touched,
    pub(crate) pacer: Arc<Pacer>,
    pub(crate) progress: Arc<RoundProgress>,
    /// How they are encoded.
    pub(crate) ways: Arc<Ways>,
    /// How they are sent without a copy, if they are.
    pub(crate) zero_copy: Option<ZeroCopy>,
    /// Kept where there is a digest.
    pub(crate) sums: Option<Arc<PageSums>>,
    /// Whether all memory is compared in the end.
    pub(crate) verifies: bool,
    /// Whether pages that follow the machine are summed up.
    pub(crate) sums_what_follows: bool,
}

/// One page channel.
pub(crate) struct Sender {
    index: u16,
    connection: Arc<Connection>,
    outlet: Outlet,
    pages: Pages,
    sequence: u32,
    batch: Batch,
    bytes_in_batch: u64,
    pages_in_batch: u64,
    encoder: Encoder,
    // Kept from batch to batch, so that nothing is allocated on a page's way.
    frame: Vec<u8>,
    pieces: Vec<Piece>,
    words: Vec<u64>,
    touched_words: Vec<u64>,
    stride: Stride,
    round: ChannelRound,
}

impl Sender {
    pub(crate) fn new(index: u16, connection: Arc<Connection>, pages: Pages, encoder: Encoder) -> Self {
        Self {
            index,
            outlet: Outlet::new(connection.clone(), pages.zero_copy.clone(), pages.progress.clone()),
            connection,
            encoder,
            pages,
            sequence: 0,
            batch: Batch::default(),
            bytes_in_batch: 0,
            pages_in_batch: 0,
            frame: Vec::with_capacity(16 << 10),
            pieces: Vec::with_capacity(MAX_RUNS),
            words: Vec::with_capacity(128),
            touched_words: Vec::with_capacity(128),
            stride: Stride::default(),
            round: ChannelRound::default(),
        }
    }

    /// Whether the destination has closed the channel.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.connection.is_hung_up()
    }

    /// Says that this side is there, when rounds are over.
    pub(crate) fn pulse(&mut self) -> Result<(), SendError> {
        pulse(&self.connection, &mut self.sequence).map_err(|source| self.broken(source))
    }

    /// Goes on with pages that follow the machine.
    pub(crate) fn into_pusher(self) -> Pusher {
        Pusher::new(
            Lane::Channel(self.index),
            self.outlet,
            self.sequence,
            self.pages.ram,
            self.pages.sums_what_follows,
            self.encoder.without_rounds(),
        )
    }

    /// Sends chunks until none is left, then the mark of the round's end.
    pub(crate) fn send_round(&mut self, work: &RoundWork) -> Result<ChannelRound, SendError> {
        self.round = ChannelRound::default();
        self.batch.round = work.round;
        self.encoder.begin_round();
        while let Some(chunk) = work.take() {
            self.send_chunk(work, chunk)?;
        }
        self.flush(work.last)?;
        let end = RoundEnd { round: work.round, last: work.last, pages: self.round.pages };
        let frame = end.encode(self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.round.bytes += frame.len() as u64;
        self.connection.send(&frame).map_err(|source| self.broken(source))?;
        if !work.last {
            // What is not known to have been sent is not said to be. Of the last pages the destination says that it has them, and the
            // machine does not wait for that twice.
            self.outlet.flush().map_err(|source| self.broken(source))?;
        }
        if work.last && self.pages.verifies {
            self.verify(work)?;
        }
        Ok(self.round)
    }

    /// Compares memory with what was sent of it, chunk by chunk as long as there are any. What the last round sends is not
    /// looked at: it is sent as it is.
    fn verify(&mut self, work: &RoundWork) -> Result<(), SendError> {
        let Some(sums) = self.pages.sums.clone() else { return Ok(()) };
        while let Some(Chunk { block, first_page, pages }) = work.take_to_verify() {
            self.pages.touched.look(block, first_page, pages, &mut self.touched_words);
            let touched = |page| is_set(&self.touched_words, page);
            let sent_before = |page| !work.set.block(block).contains(first_page + page);
            let changed = sums.changed(block, first_page, pages, sent_before, touched);
            if !changed.is_empty() {
                return Err(SendError::Missed(sums.names(changed.into_iter().map(|range| (block, range)))));
            }
        }
        Ok(())
    }

    fn send_chunk(&mut self, work: &RoundWork, chunk: Chunk) -> Result<(), SendError> {
        let mut words = std::mem::take(&mut self.words);
        work.set.block(chunk.block).copy_words(chunk.first_page, chunk.pages, &mut words);
        let sent = self.send_parts(work, chunk, &words);
        self.words = words;
        sent
    }

    /// Sends a chunk in parts, each as much as is cleared at once. In the last round nothing is.
    fn send_parts(&mut self, work: &RoundWork, mut rest: Chunk, mut words: &[u64]) -> Result<(), SendError> {
        while !words.is_empty() {
            let count = if work.last { words.len() } else { self.stride.words(words) };
            let (these, others) = words.split_at(count);
            let part = Chunk { pages: rest.pages.min(64 * count as u64), ..rest };
            let (began, sequence) = (Instant::now(), self.sequence);
            self.send_words(work, part, these)?;
            let dirty = these.iter().map(|word| u64::from(word.count_ones())).sum();
            self.stride.took(dirty, began.elapsed(), self.sequence != sequence);
            (rest.first_page, rest.pages) = (rest.first_page + part.pages, rest.pages - part.pages);
            words = others;
        }
        Ok(())
    }

    fn send_words(&mut self, work: &RoundWork, chunk: Chunk, words: &[u64]) -> Result<(), SendError> {
        self.encoder.pass(chunk.block, chunk.first_page, chunk.pages, work.round);
        if words.iter().all(|&word| word == 0) {
            return Ok(());
        }
        if !work.last {
            // Before the first page is looked at: what is written from here on is in the next round.
            self.pages
                .log
                .clear(chunk.block, chunk.first_page, chunk.pages, words)
                .map_err(SendError::Clear)?;
        }
        let untouched_matters = work.round == 0;
        if untouched_matters {
            self.pages.touched.look(chunk.block, chunk.first_page, chunk.pages, &mut self.touched_words);
        }
        let block_number = chunk.block as u16;
        if self.batch.block != block_number {
            self.flush(work.last)?;
            self.batch.block = block_number;
        }
        let ram = self.pages.ram.clone();
        let block = &ram.blocks()[chunk.block];
        let limit = self.batch_bytes(work.last);
        // In the last round nothing is kept for a next one.
        let round = (!work.last).then_some(work.round);
        let mut outcome = Ok(());
        for_each_run(words, chunk.first_page, |first, pages| {
            for page in first..first + pages {
                if outcome.is_ok() {
                    let untouched =
                        untouched_matters && !is_set(&self.touched_words, page - chunk.first_page);
                    let looked = if untouched { Encoding::Zero } else { look(block, page) };
                    let encoding = self.encode(block, chunk.block, page, looked, round);
                    outcome = self.add(page, encoding, limit, work.last);
                }
            }
        });
        outcome
    }

    /// Says how a page is sent, and takes it in where it is not sent straight from guest memory. `round` is `None` in the last.
    fn encode(
        &mut self,
        memory: &Block,
        block: usize,
        page: u64,
        looked: Encoding,
        round: Option<u32>,
    ) -> Encoding {
        let begins = self.batch.runs.is_empty();
        let holds = if begins { self.encoder.begin(self.batch.round) } else { self.encoder.holds() };
        match looked {
            Encoding::Raw if holds => return self.encoder.add(memory, block, page, round),
            Encoding::Raw => self.encoder.forget(block, page),
            _ => self.encoder.zero(block, page),
        }
        looked
    }

    /// Adds a page to the batch, and sends the batch when it is full.
    fn add(&mut self, page: u64, encoding: Encoding, limit: u64, last: bool) -> Result<(), SendError> {
        self.bytes_in_batch += encoding.data_bytes(1);
        self.pages_in_batch += 1;
        let full = self.batch.push(page, encoding) || self.pages_in_batch >= BATCH_ANY_PAGES;
        let limit = if self.encoder.holds() { limit.min(HELD_BYTES) } else { limit };
        if full || self.bytes_in_batch >= limit { self.flush(last) } else { Ok(()) }
    }

    /// Sends what is in the batch.
    fn flush(&mut self, last: bool) -> Result<(), SendError> {
        if self.batch.runs.is_empty() {
            return Ok(());
        }
        let held = self.encoder.holds();
        if held {
            self.encoder.finish(&mut self.batch);
        }
        self.batch.encode_into(self.sequence, &mut self.frame);
        self.sequence = self.sequence.wrapping_add(1);
        let pages = self.batch.pages();
        let bytes = self.frame.len() as u64 + self.batch.sent_bytes();
        let began = Instant::now();
        if !last && !self.pages.pacer.wait(bytes) {
            return Err(SendError::Stopped);
        }
        let paced = began.elapsed();
        // As late as can be: a page that is written between here and the wire is sent again, and taken in again then.
        self.sum_up();
        let began = Instant::now();
        if held {
            let (buffer, bytes) = self.encoder.finished();
            self.outlet.bulk().send_buffer(&self.frame, buffer, bytes)
        } else {
            self.pieces.clear();
            collect_pieces(&self.pages.ram, &self.batch, &mut self.pieces);
            // SAFETY: the pieces are segments of `self.pages.ram`, which lives as long as `self`, and whose pages are mappings of their
            // own.
            unsafe { self.outlet.bulk().send_pieces(&self.frame, &mut self.pieces) }
        }
        .map_err(|source| self.broken(source))?;
        self.outlet.sent(bytes, pages).map_err(|source| self.broken(source))?;
        let block = &self.pages.ram.blocks()[usize::from(self.batch.block)];
        self.encoder.sent(block, &self.batch, bytes, paced + began.elapsed());
        self.batch.packed = None;
        self.batch.runs.clear();
        (self.bytes_in_batch, self.pages_in_batch) = (0, 0);
        self.round.bytes += bytes;
        self.round.pages += pages;
        Ok(())
    }

    fn sum_up(&self) {
        let Some(sums) = &self.pages.sums else { return };
        for run in &self.batch.runs {
            let (block, pages) = (usize::from(self.batch.block), u64::from(run.pages));
            match run.encoding {
                Encoding::Raw | Encoding::Delta { .. } => sums.take(block, run.first_page, pages),
                Encoding::Zero => sums.take_zeros(block, run.first_page, pages),
            }
        }
    }

    /// Page data in a batch under the bandwidth limit in force, at least a page.
    fn batch_bytes(&self, last: bool) -> u64 {
        match self.pages.pacer.rate() {
            0 => BATCH_BYTES,
            _ if last => BATCH_BYTES,
            rate => (rate / BATCHES_PER_SECOND).clamp(PAGE_SIZE as u64, BATCH_BYTES),
        }
    }

    fn broken(&self, source: TransportError) -> SendError {
        match source {
            TransportError::Stopped => SendError::Stopped,
            source => SendError::Transport { channel: self.index, source },
        }
    }
}

fn is_set(words: &[u64], bit: u64) -> bool {
    words[(bit / 64) as usize] & (1 << (bit % 64)) != 0
}
