use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use transport::{Connection, TransportError};

/// Connections that may be introducing themselves at once. A source opens up to 64 channels, faster than a busy host accepts
/// them; this leaves room for as many strangers.
const MAX_INTRODUCTIONS: usize = 128;
/// Visitors who introduced themselves and may wait for the migration thread, which may be loading a machine.
const MAX_VISITORS: usize = 128;

/// Where connections are until it is known what they are.
///
/// When it is full, the connection that has been there longest without a word has to go: a source says at once what it is, so that
/// a crowd of strangers does not keep a source out.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    silent: Mutex<VecDeque<Arc<Connection>>>,
    visitors: Arc<AtomicUsize>,
}

/// A place in the lobby.
pub(super) struct Place {
    lobby: Arc<Lobby>,
    connection: Arc<Connection>,
}

/// The right to wait for the migration thread.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Lobby {
    /// Lets a connection in, and shows another out if there is no room.
    pub(super) fn enter(self: &Arc<Self>, connection: Connection) -> Place {
        let connection = Arc::new(connection);
        let mut silent = self.silent.lock();
        silent.push_back(connection.clone());
        if silent.len() > MAX_INTRODUCTIONS
            && let Some(oldest) = silent.pop_front()
        {
            oldest.shutdown();
        }
        drop(silent);
        Place { lobby: self.clone(), connection }
    }

    /// A seat, unless there are too many visitors already.
    pub(super) fn seat(&self) -> Option<Seat> {
        let seat = Seat(self.visitors.clone());
        (self.visitors.fetch_add(1, Ordering::Relaxed) < MAX_VISITORS).then_some(seat)
    }
}

impl Place {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The connection has said what it is.
    ///
    /// # Errors
    /// It had to go meanwhile.
    pub(super) fn leave(self) -> Result<(), TransportError> {
        if self.lobby.forget(&self.connection) { Ok(()) } else { Err(TransportError::Stopped) }
    }
}

impl Lobby {
    /// Returns whether the connection was still there.
    fn forget(&self, connection: &Arc<Connection>) -> bool {
        let mut silent = self.silent.lock();
        let position = silent.iter().position(|other| Arc::ptr_eq(other, connection));
        position.and_then(|position| silent.remove(position)).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.forget(&self.connection);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
