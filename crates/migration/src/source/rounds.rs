//! From the first page to the last: rounds, the decision, the switchover.

use std::time::Duration;

use wire::{Message, PageCounts};

use super::{Action, LastPages, REST, Recovery, Rounds, Source, State, Stop};
use crate::{
    Decision, Params, Postcopy, RoundStats, Time,
    convergence::{self, Next, Standing},
    stats::bytes_of,
};

/// A round that went at this share of the bandwidth limit was held back by it: no limit lets through exactly as much as it says.
const HELD_BACK: f64 = 0.9;

/// A round that leaves more than this part of what it sent gets nowhere.
const HARDLY_A_GAIN: f64 = 0.95;

impl Source {
    pub(super) fn prepared(&mut self, now: Time) -> Vec<Action> {
        match self.state {
            State::Preparing { open, .. } => {
                self.state = State::Preparing { prepared: true, open };
                self.begin_if_prepared(now)
            }
            State::Recovering { stop, step: Recovery::Opening { open, .. }, tries } => {
                let step = Recovery::Opening { prepared: true, open };
                self.reopened(now, stop, step, tries)
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn begin_if_prepared(&mut self, now: Time) -> Vec<Action> {
        let State::Preparing { prepared: true, open: true } = self.state else { return Vec::new() };
        self.statistics.setup = now;
        self.statistics.dirty_syncs = 1;
        // Before the first page, which it would have to wait for.
        let mut actions = self.ping(now);
        if self.params.postcopy == Postcopy::Immediate || self.postcopy_wanted {
            self.statistics.reason =
                "Postcopy from the start: the machine is stopped before a page is sent".into();
            actions.extend(self.stop(now, 0, true, true));
        } else {
            actions.extend(self.begin_round(now, Rounds { round: 0, extra: 0, running: true }));
        }
        actions
    }

    pub(super) fn begin_round(&mut self, now: Time, rounds: Rounds) -> Vec<Action> {
        self.course_begins_round(now, rounds);
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
                self.last_pass(now, stop)
            }
            _ => Vec::new(),
        }
    }

    fn last_pass(&mut self, now: Time, stop: Stop) -> Vec<Action> {
        let (round, to_come) = (stop.round, (!stop.postcopy).then_some(0));
        self.enter(State::LastPass { stop, pages: None, devices: None, to_come }, now);
        let send =
            if stop.postcopy { Action::Divide { round } } else { Action::SendRound { round, last: true } };
        vec![send, Action::Send(Message::Switchover), Action::SaveDevices]
    }

    /// Of the pages that are dirty, so many follow when the machine runs.
    pub(super) fn divided(&mut self, now: Time, pages: u64) -> Vec<Action> {
        let State::LastPass { to_come, .. } = &mut self.state else { return Vec::new() };
        *to_come = Some(pages);
        self.complete_if_sent(now)
    }

    fn decide(&mut self, now: Time, rounds: Rounds, pages: u64) -> Vec<Action> {
        let standing = Standing {
            dirty_pages: pages,
            page_bytes: self.statistics.page_cost().of_a_dirty_page(),
            wire_rate: self.statistics.wire_rate(),
            running: rounds.running,
            extra_rounds: rounds.extra,
            slowed: self.course.throttle.share() > 0.0,
        };
        let limit = self.limit();
        let params = Params { downtime_limit: limit, ..self.params.clone() };
        let Some(last) = self.statistics.rounds.back_mut() else { return Vec::new() };
        last.dirty_pages = pages;
        last.dirty_rate = bytes_of(pages) as f64 / now.saturating_sub(last.began).as_secs_f64().max(1e-9);
        let Decision { next, predicted, reason, advice } =
            convergence::decide(&params, &self.fixed, last, &standing);
        let took = now.saturating_sub(last.began);
        let gained_nothing = pages >= last.pages.total();
        let gained_little = pages as f64 >= HARDLY_A_GAIN * last.pages.total() as f64;
        last.decision.clone_from(&reason);
        last.decided = now;
        last.predicted = predicted;
        self.statistics.predicted = predicted;
        self.statistics.reason = format!("Round {}: {reason}", rounds.round + 1);
        self.statistics.advice = advice;
        let within_limit = predicted.is_some_and(|predicted| predicted <= limit);
        let mut actions = self.course_after_round(now, rounds, next, within_limit);
        let futile = gained_nothing && predicted.is_some_and(|predicted| predicted > limit);
        // By chance a round leaves a little less than the one before, again and again.
        let hardly_helps = gained_little && predicted.is_some_and(|predicted| predicted > limit);
        if next == Next::Round && self.goes_on_by_postcopy(hardly_helps, rounds) {
            actions.extend(self.stop(now, rounds.round + 1, rounds.running, true));
            return actions;
        }
        actions.extend(match next {
            Next::Round => {
                let extra = rounds.extra + u32::from(within_limit);
                self.go_on(now, Rounds { round: rounds.round + 1, extra, ..rounds }, took, futile)
            }
            Next::Switchover => self.stop(now, rounds.round + 1, rounds.running, false),
        });
        actions
    }

    /// Begins the switchover: no round but the last one, of this number, is sent before the machine runs at the destination.
    pub(super) fn stop(&mut self, now: Time, round: u32, was_running: bool, postcopy: bool) -> Vec<Action> {
        let (waited, limit) = (Duration::ZERO, self.limit());
        let stop = Stop { round, began: now, waited, limit, was_running, postcopy, to_come: 0 };
        self.enter(State::Stopping(stop), now);
        self.statistics.stopped = Some(now);
        // What would end the rounds is of no use any more.
        self.statistics.advice = None;
        vec![Action::Stop]
    }

    /// Whether there are no more rounds before the machine runs at the destination, though what is dirty takes too long to send.
    fn goes_on_by_postcopy(&mut self, futile: bool, rounds: Rounds) -> bool {
        let why = match self.params.postcopy {
            Postcopy::Off => return false,
            _ if self.postcopy_wanted => "the user wants it",
            Postcopy::Auto if rounds.round > 0 && futile => {
                "as much is dirtied as is sent, so that rounds do not come to an end"
            }
            _ => return false,
        };
        let round = rounds.round + 1;
        self.statistics.reason = format!("Round {round}: postcopy from here on: {why}");
        self.statistics.advice = None;
        true
    }

    /// The next round, after a rest where the last one `took` little time and one more is `futile`.
    fn go_on(&mut self, now: Time, rounds: Rounds, took: Time, futile: bool) -> Vec<Action> {
        let in_the_way = rounds.running && self.fixed.obstacle(self.limit(), now).is_some();
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
        // What the disks took was foretold by itself.
        self.fixed.stop = self.statistics.downtime.stop.saturating_sub(self.fixed.flush);
        if self.params.pause_before_switchover {
            self.enter(State::PreSwitchover(stop), now);
            return Vec::new();
        }
        self.last_fetch(now, stop)
    }

    /// Where no round was sent, all pages are dirty, whatever the log says.
    fn last_fetch(&mut self, now: Time, stop: Stop) -> Vec<Action> {
        if stop.postcopy && stop.round == 0 {
            return self.last_pass(now, stop);
        }
        self.enter(State::LastFetch(stop), now);
        vec![Action::FetchDirty]
    }

    pub(super) fn proceed(&mut self, now: Time) -> Vec<Action> {
        let State::PreSwitchover(stop) = self.state else { return Vec::new() };
        let waited = now.saturating_sub(self.since);
        self.statistics.downtime.waiting = waited;
        self.last_fetch(now, Stop { waited, ..stop })
    }

    pub(super) fn saved(&mut self, now: Time, count: u32) -> Vec<Action> {
        let State::LastPass { devices, .. } = &mut self.state else { return Vec::new() };
        *devices = Some(count);
        self.statistics.downtime.save = now.saturating_sub(self.since);
        self.fixed.save = self.statistics.downtime.save;
        self.complete_if_sent(now)
    }

    fn complete_if_sent(&mut self, now: Time) -> Vec<Action> {
        let State::LastPass { stop, pages: Some(pages), devices: Some(devices), to_come: Some(to_come) } =
            &mut self.state
        else {
            return Vec::new();
        };
        let (to_come, devices, digest) = (*to_come, *devices, pages.digest.take());
        let stop = Stop { to_come, ..*stop };
        self.enter(State::AwaitReady(stop), now);
        vec![Action::Send(Message::Complete(wire::Complete {
            rounds: stop.round + 1,
            pages: self.statistics.pages,
            devices,
            run: stop.was_running,
            digest,
            to_come: (to_come > 0).then_some(to_come),
        }))]
    }
}
