//! The machine runs at the destination, which lacks pages: sending them, and finding the destination again when the link is lost.
//!
//! From *running* on the machine is the destination's, and this side has only its memory as it was: nothing here leads back to
//! running it. What is here is given up when the destination says that it has every page, and not before.

use std::time::Duration;

use wire::{Message, Role};

use super::{Action, Recovery, Source, State, Stop};
use crate::{Time, custody::SourcePages};

/// Pause before the first try to find a destination again; it doubles with every try.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const LAST_RETRY: Duration = Duration::from_secs(5);

impl Source {
    /// Whether the machine runs at the destination and pages of it are still here.
    pub(super) fn is_postcopy(&self) -> bool {
        self.pages == SourcePages::Needed
    }

    /// The user wants the machine to run at the destination now. Where that has no meaning any more, nothing happens.
    pub(super) fn start_postcopy(&mut self, now: Time) -> Vec<Action> {
        if !self.params.postcopy.is_possible() {
            return Vec::new();
        }
        self.postcopy_wanted = true;
        match self.state {
            State::Sending(_) => vec![Action::CutRound],
            State::Resting { rounds, .. } => self.stop(now, rounds.round, rounds.running, true),
            _ => Vec::new(),
        }
    }

    /// The destination runs the machine and lacks pages.
    pub(super) fn push(&mut self, now: Time, stop: Stop) -> Vec<Action> {
        self.statistics.remaining_pages = stop.to_come;
        self.enter(State::Pushing(stop), now);
        let mut actions = vec![Action::Push];
        actions.extend(self.ping_again(now));
        actions
    }

    /// What the destination says while it lacks pages.
    pub(super) fn hear_in_postcopy(&mut self, now: Time, message: Message) -> Vec<Action> {
        match (&self.state, message) {
            (State::Pushing(_), Message::Whole) => self.whole(now),
            (&State::Recovering { stop, step, tries }, message) => {
                self.hear_while_recovering(now, stop, step, tries, message)
            }
            (_, message) => {
                let reason = format!("The destination said {} while pages were sent", message.name());
                self.link_lost(now, reason)
            }
        }
    }

    fn hear_while_recovering(
        &mut self,
        now: Time,
        stop: Stop,
        step: Recovery,
        tries: u32,
        message: Message,
    ) -> Vec<Action> {
        match (step, message) {
            (Recovery::Asking, Message::Running(_)) => self.list(now, stop, tries),
            (Recovery::Asking, Message::NotRunning { .. } | Message::UnknownSession) => {
                let reason = "The destination does not know the machine: its process has ended, and the machine with it. What is \
                              here are pages as they were when it moved";
                self.part(now, stop, tries + 1, reason)
            }
            (Recovery::Listing, Message::Missing(bits)) => vec![Action::Needed(bits)],
            (Recovery::Listing, Message::Recovering { pages: 0 }) => self.whole(now),
            (Recovery::Listing, Message::Recovering { pages }) => {
                self.statistics.remaining_pages = pages;
                let step = Recovery::Opening { prepared: false, open: false };
                self.enter(State::Recovering { stop, step, tries }, now);
                vec![Action::Reopen { channels: self.channels }]
            }
            (Recovery::Opening { prepared, .. }, Message::ChannelsOpen) => {
                self.reopened(now, stop, Recovery::Opening { prepared, open: true }, tries)
            }
            (_, Message::Whole) => self.whole(now),
            (_, message) => {
                let reason = format!("The destination said {} in a recovery", message.name());
                self.part(now, stop, tries + 1, &reason)
            }
        }
    }

    /// Asks which pages are missing.
    pub(super) fn list(&mut self, now: Time, stop: Stop, tries: u32) -> Vec<Action> {
        self.enter(State::Recovering { stop, step: Recovery::Listing, tries }, now);
        vec![Action::Send(Message::Recover)]
    }

    /// Goes on once both sides have the channels.
    pub(super) fn reopened(&mut self, now: Time, stop: Stop, step: Recovery, tries: u32) -> Vec<Action> {
        if step == (Recovery::Opening { prepared: true, open: true }) {
            self.statistics.reason = "The destination is found again, and pages go on".into();
            self.heard = now;
            self.enter(State::Pushing(stop), now);
            return vec![Action::Push];
        }
        self.state = State::Recovering { stop, step, tries };
        Vec::new()
    }

    /// The link is lost while pages are missing.
    pub(super) fn part(&mut self, now: Time, stop: Stop, tries: u32, reason: &str) -> Vec<Action> {
        let pause = FIRST_RETRY.saturating_mul(1 << tries.min(10)).min(LAST_RETRY);
        self.parted(now, stop, tries, Some(now + pause), reason)
    }

    fn parted(
        &mut self,
        now: Time,
        stop: Stop,
        tries: u32,
        retry_at: Option<Time>,
        reason: &str,
    ) -> Vec<Action> {
        let rest = "the machine runs at the destination, and what needs a page that is missing waits there: keep this process";
        self.statistics.reason = format!("{reason}; {rest}");
        self.enter(State::Parted { stop, retry_at, tries }, now);
        vec![Action::Disconnect]
    }

    /// The user breaks the link.
    pub(super) fn pause(&mut self, now: Time) -> Vec<Action> {
        match self.state {
            State::Pushing(stop) | State::Parted { stop, .. } | State::Recovering { stop, .. } => {
                let reason = "Paused by the user, who says when to go on";
                self.parted(now, stop, 0, None, reason)
            }
            _ => Vec::new(),
        }
    }

    /// The user wants the link made again.
    pub(super) fn recover_now(&mut self, now: Time) -> Vec<Action> {
        match self.state {
            State::Parted { stop, .. } => self.find_again(now, stop, 0),
            _ => Vec::new(),
        }
    }

    pub(super) fn find_again(&mut self, now: Time, stop: Stop, tries: u32) -> Vec<Action> {
        self.enter(State::Recovering { stop, step: Recovery::Connecting, tries }, now);
        vec![Action::Connect(Role::Ask)]
    }

    /// Every page is at the destination.
    fn whole(&mut self, now: Time) -> Vec<Action> {
        self.statistics.remaining_pages = 0;
        self.pages = self.pages.not_needed();
        self.let_go(now)
    }
}
