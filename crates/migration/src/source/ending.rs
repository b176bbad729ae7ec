//! From *ready* to the end, and every other way in which an attempt ends.

use std::time::Duration;

use wire::Message;

use super::{ASK_INTERVAL, Action, RESUME_INTERVAL, RESUME_PATIENCE, Source, State, Verdict};
use crate::{
    Outcome, Status, Time,
    handover::{Answer, SourceSide},
};

impl Source {
    pub(super) fn ready(&mut self, now: Time, load: Duration) -> Vec<Action> {
        let Some(side) = self.side.commit() else { return Vec::new() };
        self.side = side;
        self.statistics.downtime.ready = now.saturating_sub(self.since);
        // What a peer says of itself must not make the next attempt foretell a downtime that nobody saw.
        self.fixed.load = load.min(self.statistics.downtime.ready);
        self.statistics.downtime.load = self.fixed.load;
        self.enter(State::AwaitRunning, now);
        vec![Action::Send(Message::Go)]
    }

    /// The destination said that it runs the machine.
    pub(super) fn released(&mut self, now: Time) -> Vec<Action> {
        let began = self.stop_began.unwrap_or(now);
        self.statistics.downtime.total = Some(now.saturating_sub(began));
        self.let_go(now)
    }

    fn let_go(&mut self, now: Time) -> Vec<Action> {
        self.side = self.side.learn(Answer::Running);
        self.end(now, Outcome::Completed, vec![Action::Send(Message::Bye)])
    }

    pub(super) fn taken_back(&mut self, now: Time, reason: &str) -> Vec<Action> {
        self.side = self.side.learn(Answer::NotRunning);
        let outcome = Outcome::Failed(format!("The destination did not run the machine: {reason}"));
        self.resume(now, outcome, Message::Bye)
    }

    /// People decide, where the destination cannot be asked.
    pub(super) fn decided(&mut self, now: Time, verdict: Verdict) -> Vec<Action> {
        if self.status() != Status::Unknown {
            return Vec::new();
        }
        match verdict {
            Verdict::TakeBack => {
                self.side = self.side.learn(Answer::NotRunning);
                let reason = "An operator took the machine back, without an answer from the destination";
                self.resume(now, Outcome::Failed(reason.into()), Message::Abort { reason: reason.into() })
            }
            Verdict::LetGo => {
                self.statistics.reason =
                    "An operator said that the destination has the machine; since when it runs there is not known".into();
                self.let_go(now)
            }
        }
    }

    pub(super) fn link_lost(&mut self, now: Time, reason: String) -> Vec<Action> {
        match self.state {
            State::AwaitRunning | State::Reconnecting | State::Asking { .. } => {
                let advice = "the machine is stopped here, and whether it runs at the destination is not known: asking again";
                self.wait_to_ask(now, format!("{reason}; {advice}"))
            }
            State::Unknown { .. } => Vec::new(),
            _ => self.fail(now, reason),
        }
    }

    pub(super) fn wait_to_ask(&mut self, now: Time, reason: String) -> Vec<Action> {
        self.statistics.reason = reason;
        self.enter(State::Unknown { ask_at: now + ASK_INTERVAL }, now);
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
            _ => "cancelled by the user".into(),
        };
        let abort = Message::Abort { reason };
        if self.stop_began.is_some() {
            return self.resume(now, outcome, abort);
        }
        self.end(now, outcome, vec![Action::Send(abort)])
    }

    /// Takes the stopped machine back; the attempt ends when it is here.
    fn resume(&mut self, now: Time, outcome: Outcome, farewell: Message) -> Vec<Action> {
        self.outcome = Some(outcome);
        self.enter(State::Resuming { retry_at: None }, now);
        vec![Action::Send(farewell), Action::Resume]
    }

    pub(super) fn resumed(&mut self, now: Time, result: Result<(), String>) -> Vec<Action> {
        let State::Resuming { .. } = self.state else { return Vec::new() };
        let outcome = self.outcome.clone().unwrap_or(Outcome::Cancelled);
        let Err(reason) = result else { return self.end(now, outcome, Vec::new()) };
        if now.saturating_sub(self.since) < RESUME_PATIENCE {
            self.statistics.reason = format!("The machine is stopped and cannot run here yet: {reason}");
            self.state = State::Resuming { retry_at: Some(now + RESUME_INTERVAL) };
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
        self.enter(State::Ended, now);
        self.statistics.total = Some(now);
        self.statistics.advice = None;
        match &outcome {
            Outcome::Failed(reason) => self.statistics.reason.clone_from(reason),
            Outcome::Cancelled => self.statistics.reason = "Cancelled".into(),
            Outcome::Completed => {}
        }
        self.outcome = Some(outcome.clone());
        actions.push(Action::End(outcome));
        actions
    }
}
