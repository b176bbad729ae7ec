//! From *ready* to the end, and every other way in which an attempt ends.

use std::time::Duration;

use wire::{Features, Message};

use super::{ASK_INTERVAL, Action, RESUME_INTERVAL, RESUME_PATIENCE, Source, State, Stop, Verdict};
use crate::{
    Outcome, Time,
    custody::SourcePages,
    handover::{Answer, SourceSide},
};

impl Source {
    pub(super) fn ready(&mut self, now: Time, stop: Stop, load: Duration) -> Vec<Action> {
        let Some(side) = self.side.commit() else { return Vec::new() };
        self.side = side;
        self.statistics.downtime.ready = now.saturating_sub(self.since);
        // What a peer says of itself must not make the next attempt foretell a downtime that nobody saw.
        self.fixed.load = load.min(self.statistics.downtime.ready);
        self.statistics.downtime.load = self.fixed.load;
        self.enter(State::AwaitRunning(stop), now);
        vec![Action::Send(Message::Go)]
    }

    /// The destination said that it runs the machine.
    pub(super) fn released(&mut self, now: Time, stop: Stop) -> Vec<Action> {
        self.statistics.downtime.total = Some(now.saturating_sub(stop.began));
        let forward = self.forwards(stop).then_some(Action::Forward);
        if self.runs_there(stop) {
            // Pages do not wait for it.
            let mut actions = self.push(now, stop);
            actions.extend(forward);
            return actions;
        }
        forward.into_iter().chain(self.let_go(now)).collect()
    }

    /// Whether what came for the machine while it was on its way is worth something: what a machine that is paused does not take
    /// is of the past when it goes on.
    fn forwards(&self, stop: Stop) -> bool {
        let destination = self.statistics.destination.as_ref();
        stop.was_running
            && destination.is_some_and(|destination| destination.agreed.features.has(Features::FORWARD))
    }

    /// The same, on a new connection: the channels are gone.
    pub(super) fn released_late(&mut self, now: Time, stop: Stop) -> Vec<Action> {
        self.statistics.downtime.total = Some(now.saturating_sub(stop.began));
        if self.runs_there(stop) { self.list(now, stop, 0) } else { self.let_go(now) }
    }

    /// The machine is the destination's from here on. Returns whether it needs pages that are here.
    fn runs_there(&mut self, stop: Stop) -> bool {
        self.side = self.side.learn(Answer::Running);
        self.pages = self.pages.runs_there(stop.to_come);
        self.pages == SourcePages::Needed
    }

    /// Nothing of the machine is needed here any more.
    pub(super) fn let_go(&mut self, now: Time) -> Vec<Action> {
        self.end(now, Outcome::Completed, vec![Action::Send(Message::Bye)])
    }

    pub(super) fn taken_back(&mut self, now: Time, stop: Stop, reason: &str) -> Vec<Action> {
        self.side = self.side.learn(Answer::NotRunning);
        let outcome = Outcome::Failed(format!("The destination did not run the machine: {reason}"));
        self.resume(now, stop, outcome, Message::Bye)
    }

    /// People decide, where the destination cannot be asked.
    pub(super) fn decided(&mut self, now: Time, verdict: Verdict) -> Vec<Action> {
        match (&self.state, verdict) {
            (
                &(State::Unknown { stop, .. } | State::Reconnecting(stop) | State::Asking { stop, .. }),
                Verdict::TakeBack,
            ) => {
                self.side = self.side.learn(Answer::NotRunning);
                let reason = "An operator took the machine back, without an answer from the destination";
                self.resume(
                    now,
                    stop,
                    Outcome::Failed(reason.into()),
                    Message::Abort { reason: reason.into() },
                )
            }
            (
                &(State::Unknown { stop, .. } | State::Reconnecting(stop) | State::Asking { stop, .. }),
                Verdict::LetGo,
            ) => {
                let reason = "An operator said that the destination has the machine; since when it runs there is not known";
                // It may run there still, and need what is here.
                if self.runs_there(stop) {
                    return self.part(now, stop, 0, reason);
                }
                self.statistics.reason = reason.into();
                self.let_go(now)
            }
            (State::Parted { .. } | State::Recovering { .. }, Verdict::LetGo) => {
                self.pages = self.pages.not_needed();
                self.statistics.reason =
                    "An operator said that no machine needs the pages that are here any more".into();
                self.let_go(now)
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn link_lost(&mut self, now: Time, reason: String) -> Vec<Action> {
        match self.state {
            State::AwaitRunning(stop) | State::Reconnecting(stop) | State::Asking { stop, .. } => {
                let advice = "the machine is stopped here, and whether it runs at the destination is not known: asking again";
                self.wait_to_ask(now, stop, format!("{reason}; {advice}"))
            }
            State::Unknown { .. } | State::Parted { .. } => Vec::new(),
            State::Pushing(stop) => self.part(now, stop, 0, &reason),
            State::Recovering { stop, tries, .. } => self.part(now, stop, tries + 1, &reason),
            _ => self.fail(now, reason),
        }
    }

    pub(super) fn wait_to_ask(&mut self, now: Time, stop: Stop, reason: String) -> Vec<Action> {
        self.statistics.reason = reason;
        self.enter(State::Unknown { stop, ask_at: now + ASK_INTERVAL }, now);
        vec![Action::Disconnect]
    }

    pub(super) fn cancel(&mut self, now: Time) -> Vec<Action> {
        if self.side == SourceSide::Owner { self.give_up(now, Outcome::Cancelled) } else { Vec::new() }
    }

    pub(super) fn fail(&mut self, now: Time, reason: String) -> Vec<Action> {
        if self.side == SourceSide::Owner { self.give_up(now, Outcome::Failed(reason)) } else { Vec::new() }
    }

    /// Ends the attempt with the machine at the source.
    fn give_up(&mut self, now: Time, outcome: Outcome) -> Vec<Action> {
        let reason = match &outcome {
            Outcome::Failed(reason) => reason.clone(),
            _ => self.farewell.clone().unwrap_or_else(|| "cancelled by the user".into()),
        };
        let abort = Message::Abort { reason };
        match self.state.stop() {
            Some(stop) => self.resume(now, stop, outcome, abort),
            None => self.end(now, outcome, vec![Action::Send(abort)]),
        }
    }

    /// Takes the stopped machine back; the attempt ends when it is here.
    fn resume(&mut self, now: Time, stop: Stop, outcome: Outcome, farewell: Message) -> Vec<Action> {
        let run = stop.was_running;
        self.enter(State::Resuming { run, outcome, retry_at: None }, now);
        vec![Action::Send(farewell), Action::Resume { run }]
    }

    pub(super) fn try_to_resume(&mut self) -> Vec<Action> {
        let State::Resuming { run, retry_at, .. } = &mut self.state else { return Vec::new() };
        *retry_at = None;
        vec![Action::Resume { run: *run }]
    }

    pub(super) fn resumed(&mut self, now: Time, result: Result<(), String>) -> Vec<Action> {
        let State::Resuming { outcome, retry_at, .. } = &mut self.state else { return Vec::new() };
        let outcome = outcome.clone();
        let Err(reason) = result else { return self.end(now, outcome, Vec::new()) };
        if now.saturating_sub(self.since) < RESUME_PATIENCE {
            self.statistics.reason = format!("The machine is stopped and cannot run here yet: {reason}");
            *retry_at = Some(now + RESUME_INTERVAL);
            return Vec::new();
        }
        let because = match outcome {
            Outcome::Failed(because) => because,
            _ => "Cancelled".into(),
        };
        let outcome = Outcome::Failed(format!("{because}; the machine stays stopped here: {reason}"));
        self.end(now, outcome, Vec::new())
    }

    fn end(&mut self, now: Time, outcome: Outcome, mut actions: Vec<Action>) -> Vec<Action> {
        self.enter(State::Ended(outcome.clone()), now);
        self.statistics.total = Some(now);
        self.statistics.advice = None;
        match &outcome {
            Outcome::Failed(reason) => self.statistics.reason.clone_from(reason),
            Outcome::Cancelled => self.statistics.reason = "Cancelled".into(),
            Outcome::Completed => {}
        }
        actions.push(Action::End(outcome));
        actions
    }
}
