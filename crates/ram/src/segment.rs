#![expect(unsafe_code, reason = "an address goes to another thread")]

use std::ptr::NonNull;

/// A piece of this process's memory that bytes are sent from or received into.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where it begins.
    pub address: NonNull<u8>,
    /// How long it is, in bytes.
    pub bytes: usize,
}

// SAFETY: a segment is an address and a length; whoever reads or writes through it must know that it is mapped, on
// whichever thread that is.
unsafe impl Send for Segment {}
