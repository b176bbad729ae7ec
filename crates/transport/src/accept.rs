use std::{fmt, sync::Arc};

use crate::{Connection, TransportError};

/// Where connections of sources come from. [`Listener`](crate::Listener) is the one for addresses.
pub trait Accept: Send {
    /// Waits for the next connection. Called from one thread, which must not wait for a word of the other side: who that is, is found
    /// out by [`Connection::authenticate`].
    ///
    /// # Errors
    /// [`TransportError::Stopped`] once [`Stopper::stop`] was called, now and for ever. After any other, the engine warns, and
    /// tries again a moment later.
    fn accept(&self) -> Result<Connection, TransportError>;

    /// What ends [`Self::accept`] from another thread. It must not keep alive what others wait to have again, as an address.
    fn stopper(&self) -> Stopper;

    /// What is accepted at, for messages.
    fn place(&self) -> String;
}

/// Ends the accepting of connections from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<dyn Fn() + Send + Sync>);

impl Stopper {
    /// One that calls `stop`, which may be called many times and must not wait.
    pub fn new(stop: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(stop))
    }

    /// Stops accepting. May be called many times.
    pub fn stop(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stopper").finish_non_exhaustive()
    }
}
