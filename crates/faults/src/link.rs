use std::{
    net::Shutdown,
    sync::OnceLock,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::{Way, Which, stream::Stream};

/// One connection: the one that the source made, and the one to the destination that belongs to it.
#[derive(Debug)]
pub(crate) struct Link {
    source: Stream,
    destination: Stream,
    which: OnceLock<Which>,
    /// What it is for if it turns out to be encrypted.
    expected: OnceLock<Which>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    closed: bool,
    /// To the destination, to the source.
    delays: [Duration; 2],
}

/// Whether bytes pass.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gate {
    Open,
    ShutUntil(Instant),
    Shut,
}

impl Link {
    pub(crate) fn new(source: Stream, destination: Stream) -> Self {
        let state = State { gate: Gate::Open, closed: false, delays: [Duration::ZERO; 2] };
        Self {
            source,
            destination,
            which: OnceLock::new(),
            expected: OnceLock::new(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Where bytes that go this way come from.
    pub(crate) fn from(&self, way: Way) -> &Stream {
        match way {
            Way::ToDestination => &self.source,
            Way::ToSource => &self.destination,
        }
    }

    /// Where bytes that go this way go to.
    pub(crate) fn to(&self, way: Way) -> &Stream {
        self.from(way.back())
    }

    /// What it is for, once its first frame was seen.
    pub(crate) fn which(&self) -> Option<Which> {
        self.which.get().copied()
    }

    /// Its first frame says what it is for; others change nothing.
    pub(crate) fn introduce(&self, which: Which) {
        let _ = self.which.set(which);
    }

    /// What it is for if it turns out to be encrypted.
    pub(crate) fn expect(&self, which: Which) {
        let _ = self.expected.set(which);
    }

    /// It is encrypted, and will not say what it is for. Returns that when it was not known before.
    pub(crate) fn introduce_encrypted(&self) -> Option<Which> {
        let expected = self.expected.get().copied()?;
        self.which.set(expected).ok().map(|()| expected)
    }

    /// Whether the source has left it, or it was ended from here.
    pub(crate) fn is_over_at_source(&self) -> bool {
        self.is_closed() || self.source.is_hung_up()
    }

    /// Whether it was ended from here.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Waits until bytes may pass. Returns `false` if none ever will.
    pub(crate) fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.closed {
            match state.gate {
                Gate::Open => return true,
                Gate::Shut => self.changed.wait(&mut state),
                Gate::ShutUntil(until) if until <= Instant::now() => state.gate = Gate::Open,
                Gate::ShutUntil(until) => {
                    self.changed.wait_until(&mut state, until);
                }
            }
        }
        false
    }

    /// Waits as long as a frame is held up. Returns `false` if the connection is closed.
    pub(crate) fn delay(&self, way: Way) -> bool {
        let mut state = self.state.lock();
        let until = Instant::now() + state.delays[way as usize];
        while !state.closed && Instant::now() < until {
            self.changed.wait_until(&mut state, until);
        }
        !state.closed
    }

    pub(crate) fn set_delay(&self, way: Way, delay: Duration) {
        self.state.lock().delays[way as usize] = delay;
    }

    pub(crate) fn set_gate(&self, gate: Gate) {
        let mut state = self.state.lock();
        // What is shut for ever stays so.
        if !matches!(state.gate, Gate::Shut) {
            state.gate = gate;
        }
        self.changed.notify_all();
    }

    /// Ends the connection in both directions.
    pub(crate) fn close(&self) {
        self.end(|stream| stream.shutdown(Shutdown::Both));
    }

    /// Ends the connection such that the peers see it reset.
    pub(crate) fn reset(&self) {
        self.end(|stream| {
            stream.reset_on_close();
            // Wakes who reads. To shut down the other way would say an orderly goodbye first.
            stream.shutdown(Shutdown::Read);
        });
    }

    fn end(&self, how: impl Fn(&Stream)) {
        self.state.lock().closed = true;
        how(&self.source);
        how(&self.destination);
        self.changed.notify_all();
    }
}
