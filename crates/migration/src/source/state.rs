use std::time::Duration;

use crate::{Outcome, Status, Time};

/// Where an attempt is, and what is known only there. Only [`super::Source`] changes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The control connection is being made.
    Connecting,
    /// *Hello* was said.
    Handshake,
    /// Opening channels.
    Preparing {
        /// This side has opened them.
        prepared: bool,
        /// The other side has them.
        open: bool,
    },
    /// Pages of this round are being sent while the machine runs.
    Sending(Rounds),
    /// This round is over; the dirty log is being read.
    Fetching(Rounds),
    /// There is hardly anything to send, and stopping the machine alone is believed to take too long.
    Resting {
        /// The round to come.
        rounds: Rounds,
        /// When it begins.
        until: Time,
    },
    /// The machine is being stopped.
    Stopping(Stop),
    /// The machine is stopped, and the user was asked to say when to go on.
    PreSwitchover(Stop),
    /// The dirty log is being read for the last time.
    LastFetch(Stop),
    /// The last pages and the device states are being sent.
    LastPass {
        /// The machine.
        stop: Stop,
        /// The pages are sent.
        pages: Option<LastPages>,
        /// The states are sent, so many.
        devices: Option<u32>,
        /// So many pages follow when the machine runs; known from the start where none do.
        to_come: Option<u64>,
    },
    /// *Complete* was said.
    AwaitReady(Stop),
    /// *Go* was said.
    AwaitRunning(Stop),
    /// *Go* was said and the link is lost.
    Unknown {
        /// The machine.
        stop: Stop,
        /// When the next question is due.
        ask_at: Time,
    },
    /// A new connection is being made to ask.
    Reconnecting(Stop),
    /// Asked, waiting for the answer.
    Asking {
        /// The machine.
        stop: Stop,
        /// How long to wait for it.
        until: Time,
    },
    /// The machine runs at the destination, which lacks pages: they are being sent.
    Pushing(Stop),
    /// The same, and the link is lost.
    Parted {
        /// The machine.
        stop: Stop,
        /// When the next try to find the destination is due; `None` until the user says so.
        retry_at: Option<Time>,
        /// Tries so far.
        tries: u32,
    },
    /// Finding the destination again.
    Recovering {
        /// The machine.
        stop: Stop,
        /// How far that is.
        step: Recovery,
        /// Tries before this one.
        tries: u32,
    },
    /// The machine stays here, and is being taken back.
    Resuming {
        /// Whether it is to run.
        run: bool,
        /// How the attempt ends then.
        outcome: Outcome,
        /// When the next try is due; `None` while one is under way.
        retry_at: Option<Time>,
    },
    /// It is over.
    Ended(Outcome),
}

/// A round of a machine that is not stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rounds {
    /// Its number.
    pub round: u32,
    /// Rounds until now that were added below the limit.
    pub extra: u32,
    /// Whether the machine ran when the dirty log was last read.
    pub running: bool,
}

/// A machine that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stop {
    /// Number of the last round.
    pub round: u32,
    /// When it was told.
    pub began: Time,
    /// How much of the time since then the user made it wait.
    pub waited: Duration,
    /// The downtime limit that was in force then: it is what was decided by.
    pub limit: Duration,
    /// Whether it ran until then; as of a moment before, until it is stopped.
    pub was_running: bool,
    /// Whether its memory follows when it runs.
    pub postcopy: bool,
    /// How many pages of it do: none as long as that is not known.
    pub to_come: u64,
}

/// How far a source is in finding a destination again that lacks pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// Making the connection.
    Connecting,
    /// Asked whether it runs the machine.
    Asking,
    /// Hearing which pages it lacks.
    Listing,
    /// Opening channels.
    Opening {
        /// This side has opened them.
        prepared: bool,
        /// The other side has them.
        open: bool,
    },
}

/// The pages of the last pass, which are sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LastPages {
    /// Sums of all pages as they were sent, where asked for.
    pub digest: Option<Vec<u64>>,
}

impl Stop {
    /// When the switchover began, had the user not made it wait.
    pub(super) fn counts_from(&self) -> Time {
        self.began + self.waited
    }
}

impl State {
    /// The status, in QEMU's words.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Connecting | Self::Handshake | Self::Preparing { .. } => Status::Setup,
            Self::Sending(_) | Self::Fetching(_) | Self::Resting { .. } => Status::Active,
            Self::PreSwitchover(_) => Status::PreSwitchover,
            Self::Stopping(_)
            | Self::LastFetch(_)
            | Self::LastPass { .. }
            | Self::AwaitReady(_)
            | Self::AwaitRunning(_) => Status::Device,
            Self::Unknown { .. } | Self::Reconnecting(_) | Self::Asking { .. } => Status::Unknown,
            Self::Pushing(_) => Status::PostcopyActive,
            Self::Parted { .. } => Status::PostcopyPaused,
            Self::Recovering { .. } => Status::PostcopyRecover,
            Self::Resuming { outcome: Outcome::Cancelled, .. } => Status::Cancelling,
            Self::Resuming { .. } => Status::Device,
            Self::Ended(outcome) => outcome.status(),
        }
    }

    /// Its name, without what is in it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Handshake => "shaking hands",
            Self::Preparing { .. } => "opening channels",
            Self::Sending(_) => "sending a round",
            Self::Fetching(_) => "reading the dirty log",
            Self::Resting { .. } => "resting between rounds",
            Self::Stopping(_) => "stopping the machine",
            Self::PreSwitchover(_) => "waiting before the switchover",
            Self::LastFetch(_) => "reading the dirty log for the last time",
            Self::LastPass { .. } => "sending the last pages",
            Self::AwaitReady(_) => "waiting for ready",
            Self::AwaitRunning(_) => "waiting for an answer to go",
            Self::Unknown { .. } => "waiting to ask",
            Self::Reconnecting(_) => "connecting to ask",
            Self::Asking { .. } => "asking",
            Self::Pushing(_) => "sending the pages that the destination lacks",
            Self::Parted { .. } => "waiting to find the destination again",
            Self::Recovering { .. } => "finding the destination again",
            Self::Resuming { .. } => "taking the machine back",
            Self::Ended(_) => "done",
        }
    }

    /// The machine, from the order to stop it until it is known where it stays.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        match *self {
            Self::Stopping(stop)
            | Self::PreSwitchover(stop)
            | Self::LastFetch(stop)
            | Self::LastPass { stop, .. }
            | Self::AwaitReady(stop)
            | Self::AwaitRunning(stop)
            | Self::Unknown { stop, .. }
            | Self::Reconnecting(stop)
            | Self::Asking { stop, .. } => Some(stop),
            _ => None,
        }
    }

    /// Whether a machine that was told to stop is to run if it stays here; `None` where it was not.
    #[must_use]
    pub fn runs_if_it_stays(&self) -> Option<bool> {
        match self {
            Self::Resuming { run, .. } => Some(*run),
            state => state.stop().map(|stop| stop.was_running),
        }
    }

    /// How the attempt ended, or how it will end once the machine is taken back.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Resuming { outcome, .. } | Self::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }
}
