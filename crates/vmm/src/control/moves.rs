use std::{sync::Arc, time::SystemTime};

use engine::{destination, source};
use migration::Params;
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

impl Departure {
    /// Goes on as the user wants it now, in what may change while it runs.
    pub(super) fn follow(&self, params: Params) {
        self.handle.set_live(params.max_bandwidth, params.downtime_limit, params.switchover_bandwidth);
        self.handle.set_postcopy_bandwidth(params.max_postcopy_bandwidth);
        self.handle.set_ending(params.throttling, params.by_when);
    }
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
