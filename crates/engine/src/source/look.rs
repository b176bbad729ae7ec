use ram::{Block, Ram};
use transport::Piece;
use wire::{Batch, Encoding};

/// Adds where the raw pages of a batch lie.
pub(super) fn collect_pieces(ram: &Ram, batch: &Batch, pieces: &mut Vec<Piece>) {
    let block = &ram.blocks()[usize::from(batch.block)];
    let raw = batch.runs.iter().filter(|run| run.encoding == Encoding::Raw);
    let segments = raw.filter_map(|run| block.segment(run.first_page, u64::from(run.pages)));
    pieces.extend(segments.map(|segment| Piece::new(segment.address, segment.bytes)));
}

/// Looks at a page of a block.
pub(super) fn look(block: &Block, page: u64) -> Encoding {
    // SAFETY: a segment is mapped as long as the `Ram` lives that the block was borrowed from.
    let zero = block.segment(page, 1).is_some_and(|segment| unsafe { ram::is_zero_page(segment.address) });
    if zero { Encoding::Zero } else { Encoding::Raw }
}
