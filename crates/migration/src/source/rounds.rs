//! From the first page to the last: rounds, the decision, the switchover.

use wire::{Message, PageCounts};

use super::{Action, REST, Source, State};
use crate::{
    Decision, RoundStats, Time,
    convergence::{self, Standing},
    stats::bytes_of,
};

/// A round that went at this share of the bandwidth limit was held back by it: no limit lets through exactly as much as it says.
const HELD_BACK: f64 = 0.9;

impl Source {
    pub(super) fn prepared(&mut self, now: Time) -> Vec<Action> {
        if let State::Preparing { open, .. } = self.state {
            self.state = State::Preparing { prepared: true, open };
        }
        self.begin_if_prepared(now)
    }

    pub(super) fn begin_if_prepared(&mut self, now: Time) -> Vec<Action> {
        let State::Preparing { prepared: true, open: true } = self.state else { return Vec::new() };
        self.statistics.setup = now;
        self.statistics.dirty_syncs = 1;
        // Before the first page, which it would have to wait for.
        let mut actions = self.ping(now);
        actions.extend(self.begin_round(now, 0));
        actions
    }

    pub(super) fn begin_round(&mut self, now: Time, round: u32) -> Vec<Action> {
        self.enter(State::Sending { round }, now);
        self.round_began = now;
        vec![Action::SendRound { round, last: false }]
    }

    pub(super) fn round_sent(
        &mut self,
        now: Time,
        bytes: u64,
        pages: PageCounts,
        digest: Option<Vec<u64>>,
    ) -> Vec<Action> {
        let duration = now.saturating_sub(self.round_began);
        let (State::Sending { round } | State::LastPass { round, .. }) = self.state else {
            return Vec::new();
        };
        let wire_rate = bytes as f64 / duration.as_secs_f64().max(1e-9);
        let (began, limit) = (self.round_began, self.params.max_bandwidth);
        let last = matches!(self.state, State::LastPass { .. });
        let held_back = !last && limit > 0 && wire_rate >= HELD_BACK * limit as f64;
        let stats = RoundStats {
            round,
            bytes,
            pages,
            began,
            duration,
            wire_rate,
            held_back,
            ..RoundStats::default()
        };
        self.statistics.add(stats);
        match &mut self.state {
            State::LastPass { pages_sent, .. } => {
                *pages_sent = true;
                self.digest = digest;
                self.statistics.remaining_pages = 0;
                self.statistics.downtime_bytes = bytes;
                self.statistics.downtime.last_pass = duration;
                self.complete_if_sent(now)
            }
            _ => {
                self.enter(State::Fetching { round }, now);
                vec![Action::FetchDirty]
            }
        }
    }

    pub(super) fn fetched(&mut self, now: Time, pages: u64, running: bool) -> Vec<Action> {
        self.statistics.remaining_pages = pages;
        self.statistics.dirty_syncs += 1;
        self.running = running;
        match self.state {
            State::Fetching { round } => self.decide(now, round, pages),
            State::LastFetch { round } => {
                self.statistics.downtime.last_fetch = now.saturating_sub(self.since);
                self.state = State::LastPass { round, pages_sent: false, devices: None };
                self.since = now;
                self.round_began = now;
                vec![
                    Action::SendRound { round, last: true },
                    Action::Send(Message::Switchover),
                    Action::SaveDevices,
                ]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn decide(&mut self, now: Time, round: u32, pages: u64) -> Vec<Action> {
        let standing = Standing {
            dirty_pages: pages,
            wire_rate: self.statistics.wire_rate(),
            running: self.running,
            extra_rounds: self.extra_rounds,
        };
        let Some(last) = self.statistics.rounds.back_mut() else { return Vec::new() };
        last.dirty_pages = pages;
        last.dirty_rate =
            bytes_of(pages) as f64 / now.saturating_sub(self.round_began).as_secs_f64().max(1e-9);
        let Decision { switch, predicted, reason, advice } =
            convergence::decide(&self.params, &self.fixed, last, &standing);
        let took = now.saturating_sub(last.began);
        let gained_nothing = pages >= last.pages.total();
        last.decision.clone_from(&reason);
        last.decided = now;
        last.predicted = predicted;
        if !switch && predicted.is_some_and(|predicted| predicted <= self.params.downtime_limit) {
            self.extra_rounds += 1;
        }
        self.statistics.predicted = predicted;
        self.statistics.reason = format!("Round {}: {reason}", round + 1);
        self.statistics.advice = advice;
        if !switch {
            let futile =
                gained_nothing && predicted.is_some_and(|predicted| predicted > self.params.downtime_limit);
            return self.go_on(now, round + 1, took, futile);
        }
        self.enter(State::Stopping { round: round + 1 }, now);
        self.stop_began = Some(now);
        self.statistics.stopped = Some(now);
        self.switchover_began = now;
        vec![Action::Stop]
    }

    /// The next round, after a rest where the last one `took` little time and one more is `futile`.
    fn go_on(&mut self, now: Time, round: u32, took: Time, futile: bool) -> Vec<Action> {
        let in_the_way = self.running && self.fixed.obstacle(self.params.downtime_limit, now).is_some();
        // Nothing is being sent at this moment.
        let mut actions = self.ping_again(now);
        // Sending does not help then, only time does.
        if took < REST && (in_the_way || futile) {
            self.enter(State::Resting { round, until: now + REST }, now);
        } else {
            actions.extend(self.begin_round(now, round));
        }
        actions
    }

    pub(super) fn stopped(&mut self, now: Time, was_running: bool) -> Vec<Action> {
        let State::Stopping { round } = self.state else { return Vec::new() };
        self.was_running = Some(was_running);
        self.statistics.downtime.stop = now.saturating_sub(self.since);
        self.fixed.stop = self.statistics.downtime.stop;
        if self.params.pause_before_switchover {
            self.enter(State::PreSwitchover { round }, now);
            return Vec::new();
        }
        self.enter(State::LastFetch { round }, now);
        vec![Action::FetchDirty]
    }

    pub(super) fn proceed(&mut self, now: Time) -> Vec<Action> {
        let State::PreSwitchover { round } = self.state else { return Vec::new() };
        self.statistics.downtime.waiting = now.saturating_sub(self.since);
        self.switchover_began += self.statistics.downtime.waiting;
        self.enter(State::LastFetch { round }, now);
        vec![Action::FetchDirty]
    }

    pub(super) fn saved(&mut self, now: Time, count: u32) -> Vec<Action> {
        let State::LastPass { devices, .. } = &mut self.state else { return Vec::new() };
        *devices = Some(count);
        self.statistics.downtime.save = now.saturating_sub(self.since);
        self.fixed.save = self.statistics.downtime.save;
        self.complete_if_sent(now)
    }

    pub(super) fn complete_if_sent(&mut self, now: Time) -> Vec<Action> {
        let State::LastPass { round, pages_sent: true, devices: Some(devices) } = self.state else {
            return Vec::new();
        };
        self.enter(State::AwaitReady, now);
        vec![Action::Send(Message::Complete(wire::Complete {
            rounds: round + 1,
            pages: self.statistics.pages,
            devices,
            run: self.was_running.unwrap_or(true),
            digest: self.digest.take(),
        }))]
    }
}
