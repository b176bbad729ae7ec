//! Pages that follow a machine that runs here: from the wire to where they are missing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ram::{ClaimError, Incomplete, Landing};
use transport::{Connection, Piece, TransportError};
use wire::{Batch, Encoding, Features, FrameKind, PUSHED, PageCounts, RoundEnd, WireError};

use super::{
    arrived::Arrived,
    encoded::{self, Encoded},
    follow::Postcopy,
    stages::Came,
};
use crate::{
    frames::{FrameError, FrameReader},
    lane::Lane,
};

/// How long nothing at all may come on a connection on which something is sent every second. As long as the kernel gives what this side sends.
const SILENCE: Duration = Duration::from_secs(20);

/// Why no more pages can come on a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushedError {
    #[error("{lane}")]
    Frame { lane: Lane, source: FrameError },
    #[error("{lane} brings pages of round {round}, and there are no rounds any more")]
    Round { lane: Lane, round: u32 },
    #[error("{lane} brings pages that are not missing")]
    Claim { lane: Lane, source: ClaimError },
    #[error("{lane}: {found} arrived, {sent} were sent")]
    Count { lane: Lane, found: PageCounts, sent: PageCounts },
    #[error(
        "{lane}: pages are not what was sent. The network or the memory of a host damages what it carries: nothing of them was used, \
         and they are asked for again"
    )]
    Damaged { lane: Lane },
    #[error("{lane} brings pages without a sum, and a digest was agreed on")]
    NoSum { lane: Lane },
    #[error("{lane} brings a page as a difference, and what it would be the difference from was given up")]
    Delta { lane: Lane },
    #[error("Pages that have come cannot be given to the machine")]
    Place(#[source] std::io::Error),
    #[error("Stopped")]
    Stopped,
}

/// One connection.
pub(super) struct Pushed {
    lane: Lane,
    connection: Arc<Connection>,
    reader: FrameReader,
    arrived: Arc<Arrived>,
    /// What both sides can do.
    features: Features,
    encoded: Encoded,
    pages: PageCounts,
    pieces: Vec<Piece>,
}

impl Pushed {
    pub(super) fn new(
        lane: Lane,
        connection: Arc<Connection>,
        reader: FrameReader,
        arrived: Arc<Arrived>,
        features: Features,
    ) -> Self {
        Self {
            lane,
            connection,
            reader,
            arrived,
            features,
            encoded: Encoded::default(),
            pages: PageCounts::default(),
            pieces: Vec::with_capacity(wire::MAX_RUNS),
        }
    }

    /// Receives until the connection ends, or has no more to bring.
    pub(super) fn receive(
        &mut self,
        incomplete: &Arc<Incomplete>,
        postcopy: &Postcopy,
    ) -> Result<(), PushedError> {
        if postcopy.has_pulse {
            let patience = self.connection.set_receive_timeout(Some(SILENCE));
            patience.map_err(|error| failed(self.lane, error.into()))?;
        }
        let mut landing = incomplete.landing();
        let mut batch = Batch::default();
        loop {
            let (kind, body) =
                self.reader.read(&self.connection).map_err(|source| failed(self.lane, source))?;
            match kind {
                FrameKind::Pages => {
                    let begun = Instant::now();
                    let pages = |block| Some(incomplete.missing(usize::from(block)).capacity());
                    let decoded = batch.decode_from(body, pages);
                    decoded.map_err(|error| failed(self.lane, error.into()))?;
                    let received = self.place(&batch, &mut landing, postcopy.has_sums)?;
                    let is_pushed = self.lane != Lane::Urgent;
                    postcopy.faults.came(&batch, Came { begun, received, is_pushed });
                    if incomplete.remaining() == 0 {
                        (postcopy.whole)();
                    }
                }
                FrameKind::RoundEnd => {
                    let end = RoundEnd::decode(body).map_err(|error| failed(self.lane, error.into()))?;
                    if end.pages != self.pages {
                        let (lane, found) = (self.lane, self.pages);
                        return Err(PushedError::Count { lane, found, sent: end.pages });
                    }
                    return Ok(());
                }
                other => {
                    return Err(failed(self.lane, WireError::Kind { found: other as u8 }.into()));
                }
            }
        }
    }

    /// Puts pages before the machine. Returns when the last of their bytes was received.
    fn place(
        &mut self,
        batch: &Batch,
        landing: &mut Landing,
        has_sums: bool,
    ) -> Result<Instant, PushedError> {
        if has_sums && batch.sum.is_none() && batch.data_bytes() > 0 {
            return Err(PushedError::NoSum { lane: self.lane });
        }
        if batch.round != PUSHED {
            return Err(PushedError::Round { lane: self.lane, round: batch.round });
        }
        encoded::is_agreed(batch, self.features).map_err(|error| failed(self.lane, error.into()))?;
        self.pieces.clear();
        for run in &batch.runs {
            let claimed = match run.encoding {
                Encoding::Raw => landing.claim(batch.block, run.first_page, run.pages).map(|segment| {
                    self.pieces.push(Piece::new(segment.address, segment.bytes));
                }),
                Encoding::Zero => landing.claim_zeros(batch.block, run.first_page, run.pages),
                Encoding::Delta { .. } => return Err(PushedError::Delta { lane: self.lane }),
            };
            claimed.map_err(|source| PushedError::Claim { lane: self.lane, source })?;
        }
        // Receiving uses the pieces up.
        let summed = batch.sum.map(|sent| (sent, self.pieces.clone()));
        if batch.packed.is_some() {
            let data = self.encoded.receive(&self.connection, batch);
            let data = data.map_err(|error| failed(self.lane, error))?;
            // SAFETY: as below.
            unsafe { transport::fill(&mut self.pieces, data) };
        } else {
            // SAFETY: the segments are claimed: they lie in memory of `landing` that lives as long as it does, that nobody else
            // writes, and that the machine cannot reach before they are settled.
            unsafe { self.connection.receive_pieces(&mut self.pieces) }
                .map_err(|error| failed(self.lane, error.into()))?;
        }
        let received = Instant::now();
        if let Some((sent, pieces)) = summed {
            // SAFETY: as above; they are mapped for as long as they are claimed.
            let add = |sum, piece: &Piece| unsafe { ram::sum_of_pages(sum, piece.address(), piece.bytes()) };
            if pieces.iter().fold(0, add) != sent {
                return Err(PushedError::Damaged { lane: self.lane });
            }
        }
        landing.settle().map_err(PushedError::Place)?;
        let pages = batch.pages();
        self.pages += pages;
        self.arrived.pages.add(pages);
        self.arrived.bytes.fetch_add(batch.sent_bytes(), Ordering::Relaxed);
        Ok(received)
    }
}

fn failed(lane: Lane, source: FrameError) -> PushedError {
    match source {
        FrameError::Transport(TransportError::Stopped) => PushedError::Stopped,
        source => PushedError::Frame { lane, source },
    }
}
