use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use transport::{Connection, TransportError};

/// Connections that may be greeted at once. A source opens up to 64 channels, faster than a busy host accepts
/// them; this leaves room for as many strangers.
const MAX_PENDING: usize = 128;
/// Connections that have said what they are and may wait for the migration thread, which may be loading a machine.
const MAX_IDENTIFIED: usize = 128;

/// Connections that were accepted and are not served yet.
///
/// When there are too many of which it is not known what they are, the oldest of these is closed: a source says at once what it is, so that
/// a crowd of strangers does not keep a source out.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pending: Mutex<VecDeque<Arc<Connection>>>,
    identified: Arc<AtomicUsize>,
}

/// A connection of which it is not known yet what it is.
pub(super) struct Pending {
    backlog: Arc<Backlog>,
    connection: Arc<Connection>,
}

/// The right to wait for the migration thread.
#[derive(Debug)]
pub(super) struct Slot(Arc<AtomicUsize>);

impl Backlog {
    /// Takes a connection in, and closes another if there is no room.
    pub(super) fn add(self: &Arc<Self>, connection: Connection) -> Pending {
        let connection = Arc::new(connection);
        let mut pending = self.pending.lock();
        pending.push_back(connection.clone());
        if pending.len() > MAX_PENDING
            && let Some(oldest) = pending.pop_front()
        {
            oldest.shutdown();
        }
        drop(pending);
        Pending { backlog: self.clone(), connection }
    }

    /// A slot, unless too many wait already.
    pub(super) fn slot(&self) -> Option<Slot> {
        let slot = Slot(self.identified.clone());
        (self.identified.fetch_add(1, Ordering::Relaxed) < MAX_IDENTIFIED).then_some(slot)
    }
}

impl Pending {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The connection has said what it is.
    ///
    /// # Errors
    /// It was closed meanwhile.
    pub(super) fn identified(self) -> Result<(), TransportError> {
        if self.backlog.forget(&self.connection) { Ok(()) } else { Err(TransportError::Stopped) }
    }
}

impl Backlog {
    /// Returns whether the connection was still there.
    fn forget(&self, connection: &Arc<Connection>) -> bool {
        let mut pending = self.pending.lock();
        let position = pending.iter().position(|other| Arc::ptr_eq(other, connection));
        position.and_then(|position| pending.remove(position)).is_some()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.backlog.forget(&self.connection);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
