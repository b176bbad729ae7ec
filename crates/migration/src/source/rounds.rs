//! From the first page to the last: rounds, the decision, the switchover.

use std::time::Duration;

use wire::{Message, PageCounts};

use super::{Action, LastPages, REST, Rounds, Source, State, Stop};
use crate::{
    Decision, RoundStats, Time,
    convergence::{self, Next, Standing},
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
        actions.extend(self.begin_round(now, Rounds { round: 0, extra: 0, running: true }));
        actions
    }

    pub(super) fn begin_round(&mut self, now: Time, rounds: Rounds) -> Vec<Action> {
        self.enter(State::Sending(rounds), now);
        vec![Action::SendRound { round: rounds.round, last: false }]
    }

    pub(super) fn round_sent(
        &mut self,
        now: Time,
        bytes: u64,
        pages: PageCounts,
        digest: Option<Vec<u64>>,
    ) -> Vec<Action> {
        let (round, last) = match &self.state {
            State::Sending(rounds) => (rounds.round, false),
            State::LastPass { stop, .. } => (stop.round, true),
            _ => return Vec::new(),
        };
        // In both states a round began with the state.
        let (began, limit) = (self.since, self.params.max_bandwidth);
        let duration = now.saturating_sub(began);
        let wire_rate = bytes as f64 / duration.as_secs_f64().max(1e-9);
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
            State::LastPass { pages, .. } => {
                *pages = Some(LastPages { digest });
                self.statistics.remaining_pages = 0;
                self.statistics.downtime_bytes = bytes;
                self.statistics.downtime.last_pass = duration;
                self.complete_if_sent(now)
            }
            State::Sending(rounds) => {
                let rounds = *rounds;
                self.enter(State::Fetching(rounds), now);
                vec![Action::FetchDirty]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn fetched(&mut self, now: Time, pages: u64, running: bool) -> Vec<Action> {
        self.statistics.remaining_pages = pages;
        self.statistics.dirty_syncs += 1;
        match self.state {
            State::Fetching(rounds) => self.decide(now, Rounds { running, ..rounds }, pages),
            State::LastFetch(stop) => {
                self.statistics.downtime.last_fetch = now.saturating_sub(self.since);
                self.enter(State::LastPass { stop, pages: None, devices: None }, now);
                vec![
                    Action::SendRound { round: stop.round, last: true },
                    Action::Send(Message::Switchover),
                    Action::SaveDevices,
                ]
            }
            _ => Vec::new(),
        }
    }

    fn decide(&mut self, now: Time, rounds: Rounds, pages: u64) -> Vec<Action> {
        let standing = Standing {
            dirty_pages: pages,
            page_bytes: self.statistics.page_cost().of_a_dirty_page(),
            wire_rate: self.statistics.wire_rate(),
            running: rounds.running,
            extra_rounds: rounds.extra,
        };
        let Some(last) = self.statistics.rounds.back_mut() else { return Vec::new() };
        last.dirty_pages = pages;
        last.dirty_rate = bytes_of(pages) as f64 / now.saturating_sub(last.began).as_secs_f64().max(1e-9);
        let Decision { next, predicted, reason, advice } =
            convergence::decide(&self.params, &self.fixed, last, &standing);
        let took = now.saturating_sub(last.began);
        let gained_nothing = pages >= last.pages.total();
        last.decision.clone_from(&reason);
        last.decided = now;
        last.predicted = predicted;
        self.statistics.predicted = predicted;
        self.statistics.reason = format!("Round {}: {reason}", rounds.round + 1);
        self.statistics.advice = advice;
        let limit = self.params.downtime_limit;
        match next {
            Next::Round => {
                let below_the_limit = predicted.is_some_and(|predicted| predicted <= limit);
                let futile = gained_nothing && predicted.is_some_and(|predicted| predicted > limit);
                let extra = rounds.extra + u32::from(below_the_limit);
                self.go_on(now, Rounds { round: rounds.round + 1, extra, ..rounds }, took, futile)
            }
            Next::Switchover => {
                let (round, was_running) = (rounds.round + 1, rounds.running);
                let stop = Stop { round, began: now, waited: Duration::ZERO, was_running };
                self.enter(State::Stopping(stop), now);
                self.statistics.stopped = Some(now);
                vec![Action::Stop]
            }
        }
    }

    /// The next round, after a rest where the last one `took` little time and one more is `futile`.
    fn go_on(&mut self, now: Time, rounds: Rounds, took: Time, futile: bool) -> Vec<Action> {
        let in_the_way = rounds.running && self.fixed.obstacle(self.params.downtime_limit, now).is_some();
        // Nothing is being sent at this moment.
        let mut actions = self.ping_again(now);
        // Sending does not help then, only time does.
        if took < REST && (in_the_way || futile) {
            self.enter(State::Resting { rounds, until: now + REST }, now);
        } else {
            actions.extend(self.begin_round(now, rounds));
        }
        actions
    }

    pub(super) fn stopped(&mut self, now: Time, was_running: bool) -> Vec<Action> {
        let State::Stopping(stop) = self.state else { return Vec::new() };
        let stop = Stop { was_running, ..stop };
        self.statistics.downtime.stop = now.saturating_sub(self.since);
        self.fixed.stop = self.statistics.downtime.stop;
        if self.params.pause_before_switchover {
            self.enter(State::PreSwitchover(stop), now);
            return Vec::new();
        }
        self.enter(State::LastFetch(stop), now);
        vec![Action::FetchDirty]
    }

    pub(super) fn proceed(&mut self, now: Time) -> Vec<Action> {
        let State::PreSwitchover(stop) = self.state else { return Vec::new() };
        let waited = now.saturating_sub(self.since);
        self.statistics.downtime.waiting = waited;
        self.enter(State::LastFetch(Stop { waited, ..stop }), now);
        vec![Action::FetchDirty]
    }

    pub(super) fn saved(&mut self, now: Time, count: u32) -> Vec<Action> {
        let State::LastPass { devices, .. } = &mut self.state else { return Vec::new() };
        *devices = Some(count);
        self.statistics.downtime.save = now.saturating_sub(self.since);
        self.fixed.save = self.statistics.downtime.save;
        self.complete_if_sent(now)
    }

    fn complete_if_sent(&mut self, now: Time) -> Vec<Action> {
        let State::LastPass { stop, pages: Some(pages), devices: Some(devices) } = &mut self.state else {
            return Vec::new();
        };
        let (stop, devices, digest) = (*stop, *devices, pages.digest.take());
        self.enter(State::AwaitReady(stop), now);
        vec![Action::Send(Message::Complete(wire::Complete {
            rounds: stop.round + 1,
            pages: self.statistics.pages,
            devices,
            run: stop.was_running,
            digest,
        }))]
    }
}
