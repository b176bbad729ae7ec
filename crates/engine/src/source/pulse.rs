//! While pages follow the machine, something is sent on each of their connections now and then. Otherwise a destination could not tell one
//! that has nothing to bring from one on which nothing comes through any more, and the machine would wait for ever for what was lost on it.

use std::time::Duration;

use transport::{Connection, TransportError};
use wire::{Batch, PUSHED};

/// Longest pause between two frames on such a connection.
pub(super) const PULSE: Duration = Duration::from_secs(1);

/// Sends a batch without pages as frame number `sequence`, which goes up by one.
pub(super) fn pulse(connection: &Connection, sequence: &mut u32) -> Result<(), TransportError> {
    let mut frame = Vec::new();
    Batch { round: PUSHED, ..Batch::default() }.encode_into(*sequence, &mut frame);
    *sequence = sequence.wrapping_add(1);
    connection.send(&frame)
}
