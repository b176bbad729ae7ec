//! Sends pages of a machine that runs at the destination: on the page channels those that nobody waits for, on the urgent
//! connection those that the machine waits for.

use std::sync::Arc;

use parking_lot::Mutex;
use ram::Ram;
use transport::{Connection, Pacer, Piece, TransportError, Turn};
use wire::{Batch, FrameKind, MAX_RUNS, PUSHED, PageCounts, Request, RoundEnd, WireError};

use super::{
    encoder::Encoder,
    look::{collect_pieces, look},
    needed::{BATCH_PAGES, Needed, Stretch},
    outlet::Outlet,
    pulse::{PULSE, pulse},
};
use crate::{
    frames::{FrameError, FrameReader},
    lane::Lane,
};

/// Bytes of page data that wait in the socket of a page channel for their turn on the network: what the machine waits for shares the network
/// with them, and comes the later the more there are.
const UNSENT_BYTES: u32 = 128 << 10;

/// Why pages cannot be sent any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error("{lane}")]
    Transport { lane: Lane, source: TransportError },
    #[error("The urgent connection")]
    Urgent(#[from] FrameError),
    #[error("The destination asks for pages before it was told that any are missing")]
    TooEarly,
    #[error("Stopped")]
    Stopped,
}

/// Where the pages are that a destination lacks, once that is known.
pub(super) type Slot = Arc<Mutex<Option<Arc<Needed>>>>;

/// Sends on one connection.
pub(super) struct Pusher {
    lane: Lane,
    connection: Arc<Connection>,
    outlet: Outlet,
    ram: Ram,
    sequence: u32,
    batch: Batch,
    pages: PageCounts,
    frame: Vec<u8>,
    pieces: Vec<Piece>,
    /// Whether batches have sums.
    sums: bool,
    /// How pages are packed.
    encoder: Encoder,
}

impl Pusher {
    /// On a connection on which so many frames were sent.
    pub(super) fn new(
        lane: Lane,
        outlet: Outlet,
        sequence: u32,
        ram: Ram,
        sums: bool,
        encoder: Encoder,
    ) -> Self {
        Self {
            lane,
            connection: outlet.connection().clone(),
            outlet,
            ram,
            sequence,
            batch: Batch { round: PUSHED, ..Batch::default() },
            pages: PageCounts::default(),
            frame: Vec::with_capacity(16 << 10),
            pieces: Vec::with_capacity(MAX_RUNS),
            sums,
            encoder,
        }
    }

    /// Sends pages until none is left that nobody has taken, then a mark with their number.
    pub(super) fn push(&mut self, needed: &Needed, pacer: &Pacer) -> Result<(), PushError> {
        if let Err(error) = self.connection.limit_unsent(UNSENT_BYTES) {
            tracing::debug!("Pages queue up in the socket of {}: {error}", self.lane);
        }
        while let Some(mut stretch) = needed.next_stretch() {
            loop {
                // Before pages are taken: the machine may come to wait for one of them, and nobody else can send it then.
                needed.give_way();
                self.wait_for_turn(pacer)?;
                if self.fill(needed, &mut stretch, BATCH_PAGES) == 0 {
                    break;
                }
                self.send()?;
            }
        }
        let end = RoundEnd { round: PUSHED, last: true, pages: self.pages };
        let frame = end.encode(self.next_sequence());
        self.connection.send(&frame).map_err(|source| self.broken(source))?;
        self.outlet.flush().map_err(|source| self.broken(source))
    }

    /// Waits until the next batch may go out. What is counted against the limit is the batch before.
    fn wait_for_turn(&mut self, pacer: &Pacer) -> Result<(), PushError> {
        loop {
            match pacer.wait_within(self.batch.sent_bytes(), PULSE) {
                Turn::Now => return Ok(()),
                Turn::Later => self.pulse()?,
                Turn::Stopped => return Err(PushError::Stopped),
            }
        }
    }

    /// Answers requests until the connection ends.
    pub(super) fn serve(&mut self, slot: &Slot) -> Result<(), PushError> {
        if let Err(error) = self.connection.set_interactive() {
            tracing::debug!("Pages that the machine waits for queue up behind others: {error}");
        }
        let mut reader = FrameReader::new();
        loop {
            while !self.connection.wait(PULSE).map_err(|source| self.broken(source))? {
                // Not before: nobody reads at the destination yet.
                if slot.lock().is_some() {
                    self.pulse()?;
                }
            }
            let (kind, body) = reader.read(&self.connection).map_err(|error| match error {
                FrameError::Transport(TransportError::Stopped) => PushError::Stopped,
                error => PushError::Urgent(error),
            })?;
            if kind != FrameKind::Request {
                return Err(FrameError::from(WireError::Kind { found: kind as u8 }).into());
            }
            let block_pages = |block| self.ram.blocks().get(usize::from(block)).map(ram::Block::pages);
            let request = Request::decode(body, block_pages).map_err(FrameError::from)?;
            let needed = slot.lock().clone().ok_or(PushError::TooEarly)?;
            self.answer(&needed, request)?;
        }
    }

    /// Sends the pages of a request that are not on their way already.
    fn answer(&mut self, needed: &Needed, request: Request) -> Result<(), PushError> {
        let block = usize::from(request.block);
        let pages = u64::from(request.pages);
        let urgency = needed.urgent(block, request.first_page, pages);
        let mut stretch = Stretch { block, first_page: request.first_page, pages };
        while self.fill(needed, &mut stretch, pages) > 0 {
            self.send()?;
        }
        drop(urgency);
        Ok(())
    }

    /// Takes pages into the batch. Returns how many.
    fn fill(&mut self, needed: &Needed, stretch: &mut Stretch, max: u64) -> u64 {
        self.batch.runs.clear();
        self.batch.block = stretch.block as u16;
        let mut taken = 0;
        let ram = self.ram.clone();
        let Some(block) = ram.blocks().get(stretch.block) else { return 0 };
        // Pages that are taken alternate at most: every page may be a run of its own.
        while taken < max.min(MAX_RUNS as u64) {
            let Some((first, pages)) = needed.take(stretch, max.min(MAX_RUNS as u64) - taken) else { break };
            for page in first..first + pages {
                self.batch.push(page, look(block, page));
            }
            taken += pages;
        }
        taken
    }

    fn send(&mut self) -> Result<(), PushError> {
        self.pieces.clear();
        collect_pieces(&self.ram, &self.batch, &mut self.pieces);
        self.batch.sum = self.sums.then(|| sum(&self.pieces));
        // What the machine waits for is not made to wait for packing.
        if self.lane != Lane::Urgent && self.encoder.packing().is_some() {
            self.pack();
        }
        let sequence = self.next_sequence();
        self.batch.encode_into(sequence, &mut self.frame);
        if self.batch.packed.is_some() {
            let (buffer, bytes) = self.encoder.finished();
            self.outlet.bulk().send_buffer(&self.frame, buffer, bytes)
        } else {
            // SAFETY: the pieces are segments of `self.ram`, which lives as long as `self`, and whose pages are mappings of their own; the
            // machine does not run here any more: nothing writes them.
            unsafe { self.outlet.bulk().send_pieces(&self.frame, &mut self.pieces) }
        }
        .map_err(|source| self.broken(source))?;
        let pages = self.batch.pages();
        self.pages += pages;
        self.encoder.clear();
        let bytes = self.frame.len() as u64 + self.batch.sent_bytes();
        self.outlet.sent(bytes, pages).map_err(|source| self.broken(source))
    }

    /// Sends the batch packed, where that makes it shorter.
    fn pack(&mut self) {
        let Some(block) = self.ram.blocks().get(usize::from(self.batch.block)) else { return };
        self.encoder.add_all(block, &self.batch, usize::MAX);
        self.encoder.finish(&mut self.batch);
    }

    fn pulse(&mut self) -> Result<(), PushError> {
        pulse(&self.connection, &mut self.sequence).map_err(|source| self.broken(source))
    }

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        sequence
    }

    fn broken(&self, source: TransportError) -> PushError {
        match source {
            TransportError::Stopped => PushError::Stopped,
            source => PushError::Transport { lane: self.lane, source },
        }
    }
}

fn sum(pieces: &[Piece]) -> u64 {
    // SAFETY: the pieces are segments of the memory of a `Pusher`, which keeps it.
    pieces.iter().fold(0, |sum, piece| unsafe { ram::sum_of_pages(sum, piece.address(), piece.bytes()) })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Write, os::unix::net::UnixStream, thread};

    use migration::Encodings;
    use ram::{Backing, BlockLayout, PageSet};

    use super::*;
    use crate::source::encoder::Ways;

    const PAGES: u64 = 64;

    /// A destination may ask as often as it likes, for what it likes: what it lacks comes once.
    #[test]
    fn a_million_requests_are_served_and_no_page_is_sent_twice() {
        let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: PAGES * 4096 };
        let ram = Ram::allocate(&[layout], Backing::Memfd).unwrap();
        let set = PageSet::new(PAGES);
        set.insert_range(0, PAGES);
        let needed = Arc::new(Needed::new(vec![set]));
        let slot: Slot = Arc::new(Mutex::new(Some(needed.clone())));
        let (here, mut there) = UnixStream::pair().unwrap();
        let connection = Arc::new(Connection::from_socket(here).unwrap());
        let ways = Ways::new(Encodings::default(), 1, &ram, false, Arc::default());
        let encoder = Encoder::new(Arc::new(ways)).unwrap().without_rounds();
        let outlet = Outlet::new(connection, None, Arc::default());
        let mut pusher = Pusher::new(Lane::Urgent, outlet, 0, ram, false, encoder);
        let serving = thread::spawn(move || pusher.serve(&slot));
        let answers = Arc::new(Connection::from_socket(there.try_clone().unwrap()).unwrap());
        let hearing = thread::spawn(move || {
            let (mut reader, mut batch, mut came) = (FrameReader::new(), Batch::default(), HashSet::new());
            while let Ok((kind, body)) = reader.read(&answers) {
                if kind == FrameKind::Pages {
                    batch.decode_from(body, |_| Some(PAGES)).unwrap();
                    for run in &batch.runs {
                        let pages = run.first_page..run.first_page + u64::from(run.pages);
                        pages.for_each(|page| assert!(came.insert(page), "page {page} came twice"));
                    }
                }
            }
            came.len() as u64
        });
        let mut frames = Vec::new();
        for sequence in 0..1_000_000_u32 {
            let request = Request { block: 0, first_page: u64::from(sequence) * 7 % PAGES, pages: 1 };
            frames.extend_from_slice(&request.encode(sequence));
            if frames.len() > 1 << 16 {
                there.write_all(&frames).unwrap();
                frames.clear();
            }
        }
        there.write_all(&frames).unwrap();
        there.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(serving.join().unwrap().is_err(), "the destination is gone");
        assert_eq!((hearing.join().unwrap(), needed.left(), needed.requests()), (PAGES, 0, 1_000_000));
    }
}
