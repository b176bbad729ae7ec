//! What pages become to take less on the wire.
//!
//! * [`delta`]: a page as its difference from what the destination has there already.
//! * [`Kept`]: what was sent of pages, which a source needs to know what that is.
//! * [`Packer`] and [`Unpacker`]: the data of a whole batch, packed by lz4 or zstd.
//!
//! Bytes go in, bytes come out: this crate knows no sockets, no clock and no guest memory, which is copied before it gets here. What
//! comes from a peer is bounded before anything is allocated for it, and nothing of it can panic.

pub mod delta;
mod kept;
mod packing;

pub use delta::{Delta, DeltaError, MAX_DELTA_BYTES};
pub use kept::{Kept, Sent};
pub use packing::{Packer, UnpackError, Unpacker, packing_room};

/// The contents of a page.
pub type Page = [u8; wire::PAGE_BYTES];
