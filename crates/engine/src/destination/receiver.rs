//! A page channel at the destination: from the wire straight into guest memory.

use std::sync::{Arc, atomic::Ordering};

use ram::{Incomplete, Intake, PageSums};
use transport::{Connection, Piece};
use wire::{Batch, Encoding, Features, FrameKind, GREETING_BYTES, PageCounts, RoundEnd, WireError};

use super::{
    arrived::Arrived,
    barrier::Barrier,
    encoded::{self, Encoded},
    figures::{ChannelCounts, Counts},
    follow::Postcopy,
    pushed::{Pushed, PushedError},
    scan::Scan,
};
use crate::{
    frames::{FrameError, FrameReader},
    lane::Lane,
};

/// Why a channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("Page channel {channel}")]
    Frame { channel: u16, source: FrameError },
    #[error("Page channel {channel}: {found} arrived in round {round}, {sent} were sent")]
    Count { channel: u16, round: u32, found: PageCounts, sent: PageCounts },
    #[error("Page channel {channel}: round {found} came while round {expected} was due")]
    Round { channel: u16, found: u32, expected: u32 },
    #[error("Page channel {channel}: this host has no memory for pages that came")]
    Place { channel: u16, source: std::io::Error },
    #[error("Memory is not as it was placed: {0}")]
    Changed(String),
    #[error("Stopped")]
    Stopped,
}

/// One page channel.
pub(super) struct Receiver {
    pub(super) index: u16,
    pub(super) connection: Arc<Connection>,
    pub(super) reader: FrameReader,
    /// What both sides can do.
    pub(super) features: Features,
    pub(super) encoded: Encoded,
    pub(super) intake: Intake,
    pub(super) barrier: Arc<Barrier>,
    pub(super) arrived: Arc<Arrived>,
    pub(super) counts: Arc<ChannelCounts>,
    /// Of the attempt that the channel belongs to.
    pub(super) all: Arc<Counts>,
    pub(super) sums: Option<Arc<PageSums>>,
    pub(super) scan: Option<Arc<Scan>>,
}

/// Pages of the round under way on this channel.
#[derive(Default)]
struct Round {
    number: u32,
    pages: PageCounts,
}

impl Receiver {
    /// Receives until the end of the last round, when all other channels have come to it too.
    pub(super) fn receive_all(&mut self) -> Result<(), ReceiveError> {
        let mut batch = Batch::default();
        let mut pieces = Vec::with_capacity(wire::MAX_RUNS);
        let mut round = Round::default();
        // What the reader does not count.
        let mut other_bytes = GREETING_BYTES as u64;
        loop {
            let (kind, body) =
                self.reader.read(&self.connection).map_err(|source| failed(self.index, source))?;
            match kind {
                FrameKind::Pages => {
                    let decoded = batch.decode_from(body, |block| self.intake.placer().block_pages(block));
                    decoded.map_err(|error| failed(self.index, error.into()))?;
                    self.place(&batch, &mut pieces, &mut round)?;
                    other_bytes += batch.sent_bytes();
                }
                FrameKind::RoundEnd => {
                    let end = RoundEnd::decode(body).map_err(|error| failed(self.index, error.into()))?;
                    self.check(&end, &round)?;
                    self.counts.frame(kind, self.reader.offset() + other_bytes);
                    self.counts.rounds.fetch_add(1, Ordering::Relaxed);
                    if !self.barrier.wait() {
                        return Err(ReceiveError::Stopped);
                    }
                    if end.last {
                        // All channels are here: nothing is placed any more.
                        let released = self.intake.placer().release();
                        released.map_err(|source| ReceiveError::Place { channel: self.index, source })?;
                        return self.verify();
                    }
                    round = Round { number: round.number.wrapping_add(1), ..Round::default() };
                    continue;
                }
                other => return Err(failed(self.index, WireError::Kind { found: other as u8 }.into())),
            }
            self.counts.frame(kind, self.reader.offset() + other_bytes);
        }
    }

    /// Goes on with pages that follow the machine, to the end of the connection.
    pub(super) fn receive_pushed(
        &mut self,
        incomplete: &Arc<Incomplete>,
        postcopy: &Postcopy,
    ) -> Result<(), PushedError> {
        let reader = std::mem::replace(&mut self.reader, FrameReader::new());
        let (lane, arrived) = (Lane::Channel(self.index), self.arrived.clone());
        Pushed::new(lane, self.connection.clone(), reader, arrived, self.features)
            .receive(incomplete, postcopy)
    }

    fn place(
        &mut self,
        batch: &Batch,
        pieces: &mut Vec<Piece>,
        round: &mut Round,
    ) -> Result<(), ReceiveError> {
        if batch.round != round.number {
            return Err(ReceiveError::Round {
                channel: self.index,
                found: batch.round,
                expected: round.number,
            });
        }
        encoded::is_agreed(batch, self.features).map_err(|error| failed(self.index, error.into()))?;
        if batch.is_encoded() {
            self.place_encoded(batch)?;
        } else {
            self.place_as_it_is(batch, pieces)?;
        }
        self.sum_up(batch);
        let pages = batch.pages();
        round.pages += pages;
        self.counts.pages.add(pages);
        self.arrived.pages.add(pages);
        self.arrived.bytes.fetch_add(batch.sent_bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Receives pages into guest memory.
    fn place_as_it_is(&mut self, batch: &Batch, pieces: &mut Vec<Piece>) -> Result<(), ReceiveError> {
        let channel = self.index;
        let outside = || failed(channel, WireError::Malformed("run outside of memory".into()).into());
        pieces.clear();
        for run in &batch.runs {
            match run.encoding {
                Encoding::Raw => {
                    let (mut page, mut rest) = (run.first_page, run.pages);
                    while rest > 0 {
                        let placed = self.intake.place(batch.block, page, rest);
                        let placed = placed.map_err(|source| ReceiveError::Place { channel, source })?;
                        let (segment, pages) = placed.ok_or_else(outside)?;
                        if pages == 0 {
                            self.receive(pieces)?;
                            continue;
                        }
                        pieces.push(Piece::new(segment.address, segment.bytes));
                        (page, rest) = (page + u64::from(pages), rest - pages);
                    }
                }
                Encoding::Zero => {
                    let placed = self.intake.placer().place_zeros(batch.block, run.first_page, run.pages);
                    placed.ok_or_else(outside)?;
                }
                Encoding::Delta { .. } => return Err(outside()),
            }
        }
        self.receive(pieces)
    }

    /// Receives into the pieces, and has what came in its place.
    fn receive(&mut self, pieces: &mut Vec<Piece>) -> Result<(), ReceiveError> {
        let channel = self.index;
        // SAFETY: the pieces are segments of guest memory, which lives as long as its placer, and of what the intake holds. The machine does not
        // run yet and nothing else relies on pages that have not arrived.
        unsafe { self.connection.receive_pieces(pieces) }.map_err(|error| failed(channel, error.into()))?;
        pieces.clear();
        self.intake.settle().map_err(|source| ReceiveError::Place { channel, source })
    }

    /// Receives what is packed, or has differences: nothing of it reaches guest memory before all of it was found sound.
    fn place_encoded(&mut self, batch: &Batch) -> Result<(), ReceiveError> {
        let (placer, block, channel) = (self.intake.placer(), batch.block, self.index);
        let received = self.encoded.receive(&self.connection, batch);
        let data = received.map_err(|error| failed(channel, error))?;
        let malformed = |error: WireError| failed(channel, error.into());
        encoded::check(batch, data, |page| placer.has(block, page)).map_err(malformed)?;
        let outside = || malformed(WireError::Malformed("run outside of memory".into()));
        for (run, data) in encoded::runs(batch, data) {
            match run.encoding {
                Encoding::Raw => {
                    let put = placer.put(block, run.first_page, data);
                    put.map_err(|source| ReceiveError::Place { channel, source })?.ok_or_else(outside)?;
                }
                Encoding::Zero => {
                    placer.place_zeros(block, run.first_page, run.pages).ok_or_else(outside)?;
                }
                Encoding::Delta { .. } => {
                    for delta in encoded::deltas(run, data) {
                        let (page, delta) = delta.map_err(malformed)?;
                        for (offset, bytes) in delta.changes() {
                            placer.patch(block, page, offset, bytes).ok_or_else(outside)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// While the pages are still in this processor's cache.
    fn sum_up(&self, batch: &Batch) {
        let Some(sums) = &self.sums else { return };
        for run in &batch.runs {
            let (block, pages) = (usize::from(batch.block), u64::from(run.pages));
            match run.encoding {
                Encoding::Raw | Encoding::Delta { .. } => sums.take(block, run.first_page, pages),
                Encoding::Zero => sums.take_zeros(block, run.first_page, pages),
            }
        }
    }

    fn verify(&self) -> Result<(), ReceiveError> {
        match (&self.scan, &self.sums) {
            (Some(scan), Some(sums)) => scan.run(sums).map_err(|places| {
                self.all.compared(Err(places.clone()));
                ReceiveError::Changed(places)
            }),
            _ => Ok(()),
        }
    }

    fn check(&self, end: &RoundEnd, round: &Round) -> Result<(), ReceiveError> {
        if end.round != round.number {
            return Err(ReceiveError::Round {
                channel: self.index,
                found: end.round,
                expected: round.number,
            });
        }
        if end.pages != round.pages {
            let (channel, round, found, sent) = (self.index, round.number, round.pages, end.pages);
            return Err(ReceiveError::Count { channel, round, found, sent });
        }
        Ok(())
    }
}

fn failed(channel: u16, source: FrameError) -> ReceiveError {
    match source {
        FrameError::Transport(transport::TransportError::Stopped) => ReceiveError::Stopped,
        source => ReceiveError::Frame { channel, source },
    }
}
