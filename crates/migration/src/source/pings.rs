//! Pings: they keep the destination from taking silence for death, and measure the round trip.

use std::{collections::VecDeque, time::Duration};

use crate::Time;

/// Pause between two pings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Round trips of which the shortest is believed: one that waited behind pages, or for a CPU, says nothing about the way.
const ROUND_TRIPS: usize = 8;
/// Pings of which the answer may still come: on a slow way it is longer under way than the pause between two of them.
const UNANSWERED: usize = 64;

/// The pings of an attempt.
#[derive(Clone, Debug, Default)]
pub(super) struct Pings {
    sent: u64,
    /// Those that are not answered yet, with their time.
    unanswered: VecDeque<(u64, Time)>,
    /// The last few, newest last.
    round_trips: VecDeque<Duration>,
    due: Time,
}

impl Pings {
    /// When the next one is due.
    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// Whether the answer to one may still come.
    pub(super) fn is_under_way(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// One is sent now. Returns its number.
    pub(super) fn send(&mut self, now: Time) -> u64 {
        self.due = now + INTERVAL;
        self.sent += 1;
        if self.unanswered.len() == UNANSWERED {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((self.sent, now));
        self.sent
    }

    /// One was answered. Returns the round trip as [`Self::measured`] does, unless nobody waited for that answer.
    pub(super) fn answered(&mut self, now: Time, number: u64) -> Option<Duration> {
        let index = self.unanswered.iter().position(|(sent, _)| *sent == number)?;
        let (_, at) = self.unanswered.drain(..=index).next_back()?;
        Some(self.measured(now.saturating_sub(at)))
    }

    /// A round trip took no longer than this. Returns the shortest of the last few.
    pub(super) fn measured(&mut self, took: Duration) -> Duration {
        if self.round_trips.len() == ROUND_TRIPS {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(took);
        self.round_trips.iter().min().copied().unwrap_or(took)
    }
}
