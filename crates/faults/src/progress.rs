//! How far a migration is, by what has passed, and what a connection is for that does not say so in clear.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::{FrameName, Phase, Way, Which, encrypted, link::Link};

/// Of the migration that goes through a proxy. After it, of the next.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    phase: Option<Phase>,
    /// The last control connection, as far as can be told by the order in which connections come.
    control: Weak<Link>,
    /// Page channels that came since.
    channels: u16,
}

impl Progress {
    /// What a connection is for that comes now, if it is encrypted. The first is the control connection, and page channels follow
    /// while it is open. From *ready* on a source may ask, and opens no more channels.
    pub(crate) fn expect(&self, link: &Arc<Link>) -> Which {
        let mut state = self.0.lock();
        if state.phase == Some(Phase::HandOver) {
            return Which::Ask;
        }
        if state.control.upgrade().is_some_and(|control| !control.is_over_at_source()) {
            state.channels = state.channels.saturating_add(1);
            return Which::Channel(state.channels - 1);
        }
        state.control = Arc::downgrade(link);
        state.channels = 0;
        Which::Control
    }

    /// An encrypted connection begins.
    pub(crate) fn begins(&self, which: Which) {
        if which == Which::Control {
            self.0.lock().phase = Some(Phase::Handshake);
        }
    }

    /// A frame is about to pass. Returns its name: pages are the last ones once the switchover was announced.
    pub(crate) fn passes(&self, name: FrameName) -> FrameName {
        let phase = &mut self.0.lock().phase;
        match name {
            FrameName::Pages if matches!(phase, Some(Phase::Switchover | Phase::HandOver)) => {
                return FrameName::LastPages;
            }
            FrameName::Pages if matches!(phase, Some(Phase::Handshake)) => *phase = Some(Phase::Rounds),
            FrameName::Hello
            | FrameName::Switchover
            | FrameName::Ready
            | FrameName::Go
            | FrameName::Running
            | FrameName::Pushed
            | FrameName::Bye
            | FrameName::Abort => *phase = Some(name.phase()),
            _ => {}
        }
        name
    }

    /// A record of TLS is about to pass, with so many bytes behind its header. Returns the message that it is taken for.
    pub(crate) fn record_passes(&self, which: Which, way: Way, length: usize) -> Option<FrameName> {
        let phase = self.0.lock().phase;
        if matches!((which, way), (Which::Channel(_), Way::ToDestination)) && length >= encrypted::FULL {
            self.passes(FrameName::Pages);
        }
        encrypted::name(which, way, phase, length).map(|name| self.passes(name))
    }

    /// The phase in which a connection is.
    pub(crate) fn phase(&self, which: Option<Which>) -> Option<Phase> {
        if which == Some(Which::Ask) { Some(Phase::Asking) } else { self.0.lock().phase }
    }
}
