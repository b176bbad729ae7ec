//! The machine runs here and lacks pages: hearing that the last one has come, and being found again by the source when the link is
//! lost.
//!
//! Nothing here leads back to a destination without a machine. What has come stays; what is missing is at the source.

use wire::Message;

use super::{Action, Destination, State};
use crate::{Time, custody::DestinationPages};

/// The way on which pages come that a machine lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Channels are open.
    #[default]
    Open,
    /// The link is lost.
    Parted,
    /// The source is being told which ones are missing.
    Listing,
    /// The source knows, and opens channels.
    Opening,
}

impl Destination {
    /// Every page is here. Before the machine runs it is not said: the source would not know what is meant. A source that cannot be
    /// told asks.
    pub(super) fn whole(&mut self) -> Vec<Action> {
        if self.pages != DestinationPages::Lacking {
            return Vec::new();
        }
        self.pages = self.pages.last_came();
        if self.state == State::Running { vec![Action::Send(Message::Whole)] } else { Vec::new() }
    }

    /// What is said beside that the machine runs.
    pub(super) fn whole_already(&self) -> Option<Action> {
        let followed = self.complete.as_ref().is_some_and(|complete| complete.to_come.is_some());
        (followed && self.pages == DestinationPages::All).then_some(Action::Send(Message::Whole))
    }

    /// The link is lost. The machine runs on; the source comes back, and is told which pages are missing.
    pub(super) fn part(&mut self) -> Vec<Action> {
        if self.pages != DestinationPages::Lacking || self.way == Way::Parted {
            return Vec::new();
        }
        self.way = Way::Parted;
        vec![Action::Part]
    }

    /// The source is back, and asks which pages are missing.
    pub(super) fn recover(&mut self) -> Vec<Action> {
        if self.pages == DestinationPages::All {
            return vec![Action::Send(Message::Recovering { pages: 0 })];
        }
        self.way = Way::Listing;
        vec![Action::List]
    }

    pub(super) fn listed(&mut self, missing: u64) -> Vec<Action> {
        if self.way != Way::Listing || self.pages != DestinationPages::Lacking {
            return Vec::new();
        }
        let answer = Action::Send(Message::Recovering { pages: missing });
        if missing == 0 {
            // The last one came just before the link was lost.
            self.pages = self.pages.last_came();
            return vec![answer];
        }
        self.way = Way::Opening;
        vec![Action::OpenChannels { session: self.session, channels: self.channels }, answer]
    }

    /// Whether the source opens channels to a machine that runs here, and they are open now.
    pub(super) fn channels_open_again(&mut self) -> bool {
        let opening = self.state == State::Running && self.way == Way::Opening;
        if opening {
            self.way = Way::Open;
        }
        opening
    }

    /// When a source is given up that sends pages, or is about to, and says nothing.
    pub(super) fn parts_at(&self) -> Option<Time> {
        let waits = self.pages == DestinationPages::Lacking && matches!(self.way, Way::Open | Way::Opening);
        waits.then_some(self.heard + super::PEER_TIMEOUT)
    }
}
