//! The bytes of the migration protocol.
//!
//! A migration uses one *control* connection and, beside it, 1 to [`MAX_CHANNELS`] page *channels* that are all alike. Every
//! connection begins with a [`Greeting`], whose layout is frozen and by which both sides come to a version. Behind it bytes
//! travel as frames:
//!
//! ```text
//! FrameHeader (16 bytes) | structured part (header.length bytes, covered by header.crc) | page data (Pages frames only)
//! ```
//!
//! * [`greeting`]: who speaks which versions, and what a connection is for.
//! * [`header`]: the fixed header; nothing behind it is read before it was found sound.
//! * [`control`]: what the two sides say to each other, one [`Message`] a frame, CBOR (so a recorded stream can be printed).
//! * [`forward`]: what came for the machine at the host that it has left.
//! * [`missing`]: which pages the destination lacks, and asking for some of them.
//! * [`probe`]: how fast the way to a destination is.
//! * [`pages`]: page batches on the channels: a table of runs, then the raw pages, ready to be placed without a copy.
//!
//! All integers of the fixed parts are little-endian. Every length is capped before anything is allocated for it; nothing
//! that a peer sends can panic. This crate knows no sockets and no clock: it turns bytes into values and back.

pub mod control;
pub mod forward;
pub mod greeting;
pub mod header;
pub mod hello;
pub mod missing;
pub mod pages;
pub mod probe;

pub use control::{Ack, Complete, MAX_CONTROL_BYTES, Message};
pub use forward::{Forward, MAX_FORWARD_BYTES};
pub use greeting::{Agreed, Features, GREETING_BYTES, Greeted, Greeting, Incompatible, Offer, Role};
pub use header::{FrameHeader, FrameKind, HEADER_BYTES};
pub use hello::{Accept, BlockInfo, DeviceInfo, Digest, Hello, Refuse, SessionId, StateVersions, reads};
pub use missing::{MAX_REQUESTED_PAGES, PageBits, Request};
pub use pages::{
    Batch, Encoding, MAX_BATCH_BYTES, MAX_DELTA_BYTES, MAX_HELD_BYTES, MAX_RUNS, PUSHED, Packing, PageCounts,
    RoundEnd, Run,
};
pub use probe::{Came, MAX_PROBE_BYTES, MAX_PROBE_TIME, Probe, Probed};

/// Version of the protocol that this build speaks. Peers settle on the highest version that both speak.
pub const PROTOCOL_VERSION: u16 = 1;

/// Oldest version that this build still speaks.
pub const OLDEST_PROTOCOL_VERSION: u16 = 1;

/// Most page channels of one migration.
pub const MAX_CHANNELS: u16 = 64;

/// Bytes of a page on the wire.
pub const PAGE_BYTES: usize = 4096;

/// What is wrong with bytes that came from a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The connection does not carry this protocol at all: a port scanner, a TLS client, another program.
    #[error(
        "The bytes are not a Whimbrel migration stream (they begin with {found:#06x}): check what connects to this port"
    )]
    NotWhimbrel {
        /// The first two bytes.
        found: u16,
    },
    /// The header's checksum does not fit.
    #[error("Checksum of a frame {what} is wrong: the stream was damaged on the way or is out of step")]
    Checksum {
        /// Which part of the frame.
        what: &'static str,
    },
    /// A role of a connection that this release does not know.
    #[error(
        "Release {release} opens a connection of role {found}, which this release does not know: upgrade the older side"
    )]
    Role {
        /// The role's number.
        found: u8,
        /// Release of the peer.
        release: String,
    },
    /// A frame kind that this version does not have, or that does not belong here.
    #[error("Frame kind {found} does not belong on this connection")]
    Kind {
        /// The kind's number.
        found: u8,
    },
    /// A length over its cap.
    #[error("Frame of kind {kind:?} claims {length} bytes, over the limit of {limit}")]
    TooLong {
        /// Kind of the frame.
        kind: FrameKind,
        /// Claimed length.
        length: u32,
        /// What is allowed.
        limit: u32,
    },
    /// Frames were lost, repeated or reordered.
    #[error("Frame {found} came where frame {expected} was due: frames were lost, repeated or reordered")]
    Sequence {
        /// Number in the header.
        found: u32,
        /// Number that was due.
        expected: u32,
    },
    /// The structured part cannot be read.
    #[error("Frame is malformed: {0}")]
    Malformed(String),
}
