use std::{sync::Arc, time::SystemTime};

use engine::{destination, source};
use monitor::types::SocketAddress;

/// A migration that leaves, or left.
#[derive(Clone, Debug)]
pub(super) struct Departure {
    pub(super) handle: Arc<source::Handle>,
    pub(super) session: String,
    /// Where it goes.
    pub(super) address: String,
    /// When it began.
    pub(super) began: SystemTime,
    pub(super) total_bytes: u64,
}

/// A migration that may come, comes, or came.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) handle: Arc<destination::Handle>,
    /// Where it listens: at one address, or at all that a name has.
    pub(super) addresses: Vec<SocketAddress>,
    /// The same, as it is written.
    pub(super) listens_at: Vec<String>,
    pub(super) total_bytes: u64,
}
