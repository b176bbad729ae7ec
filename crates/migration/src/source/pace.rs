//! Getting to an end: what is taken from vCPUs, by when it is to be over, and what people are told who could help.

use std::time::Duration;

use super::{Action, Rounds, Source, State};
use crate::{
    Advice, ByWhen, DirtyLimit, Postcopy, Throttling, Time,
    by_when::{Facts, Means, Plan},
    convergence::Next,
    dirtying::{JUDGED_AFTER, Look, Pace, Position},
    throttle::{self, LITTLE_GAIN, Round},
};

/// How the migration comes to its end, as far as that is not by rounds alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    pub(super) throttle: throttle::Throttle,
    dirtying: crate::dirtying::Dirtying,
    /// What vCPUs may dirty at most, as it was told last.
    dirty_limit: Option<DirtyLimit>,
    /// The downtime limit, where a deadline wants a longer one than the user's.
    limit: Option<Duration>,
    /// What was planned last.
    plan: Option<Plan>,
    /// The downtime limit that was told last.
    told: Duration,
    /// The machine cannot be slowed down.
    is_rigid: bool,
}

/// Decisions about the share of vCPU time are told when it changes by this much.
const TOLD: f64 = 0.05;

impl Source {
    /// The downtime limit in force.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.course.limit.unwrap_or(self.params.downtime_limit)
    }

    /// What is taken from vCPUs now, 0 to [`throttle::MOST`].
    #[must_use]
    pub fn throttle(&self) -> &throttle::Throttle {
        &self.course.throttle
    }

    /// What was planned last to be over in time, where there is a deadline.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.course.plan.as_ref()
    }

    /// This machine cannot be slowed down, whatever the user allowed.
    pub fn cannot_throttle(&mut self) {
        self.course.is_rigid = true;
        self.params.throttling = Throttling::Off;
    }

    /// Changes by when it is to be over, since its start, and how vCPUs may be slowed down. It holds from the next event on: one should
    /// follow. What was planned stands once the machine was told to stop.
    pub fn set_ending(&mut self, throttling: Throttling, by_when: Option<ByWhen>) {
        if !self.course.is_rigid {
            self.params.throttling = throttling;
        }
        if self.params.by_when != by_when && self.statistics.stopped.is_none() {
            // What was planned for another deadline is not kept to; what is taken from vCPUs is until the next plan.
            (self.course.plan, self.course.limit) = (None, None);
            self.statistics.advice = None;
        }
        self.params.by_when = by_when;
    }

    /// Gives vCPUs their time back where rounds are over, for whatever reason, or the user does not want them slowed down any more: nothing
    /// else needs to think of it.
    pub(super) fn lift_throttle(&mut self, actions: &mut Vec<Action>) {
        let is_in_rounds =
            matches!(self.state, State::Sending(_) | State::Fetching(_) | State::Resting { .. });
        let limit = match self.params.throttling {
            Throttling::Limit(limit) => Some(limit),
            _ => None,
        };
        let wanted = limit.filter(|_| is_in_rounds && self.course.throttle.is_limiting());
        if wanted != self.course.dirty_limit {
            self.course.dirty_limit = wanted;
            actions.insert(0, Action::Limit(wanted));
        }
        let may_be_slowed = is_in_rounds && limit.is_none() && self.params.throttling != Throttling::Off;
        if !may_be_slowed && self.course.throttle.take(0.0) {
            // Nor is anything taken that was decided a moment before the end of the rounds.
            actions.retain(|action| !matches!(action, Action::Throttle { .. }));
            actions.insert(0, Action::Throttle { share: 0.0 });
        }
    }

    pub(super) fn course_begins_round(&mut self, now: Time, rounds: Rounds) {
        self.course.dirtying.begin(now, self.statistics.remaining_pages, rounds.round == 0);
    }

    /// The round under way was looked at.
    pub(super) fn looked(
        &mut self,
        now: Time,
        sent_bytes: u64,
        dirty: u64,
        clean: u64,
        done: u64,
    ) -> Vec<Action> {
        let State::Sending(rounds) = self.state else { return Vec::new() };
        let look = Look { at: now, sent: done, clean, dirty };
        self.course.dirtying.look(look, self.course.throttle.run());
        let elapsed = now.saturating_sub(self.since);
        let pages = self.statistics.remaining_pages;
        let unsent = pages.saturating_sub(done) as f64;
        let position = Position { unsent, dirty: (dirty as f64).max(unsent) };
        let Some(wire) = self.wire_now(sent_bytes, done, elapsed) else { return Vec::new() };
        if self.params.by_when.is_some() {
            return self.follow_plan(now, rounds, position, wire);
        }
        let pace = self.course.dirtying.pace(wire);
        let Some(pace) = pace.filter(|_| rounds.running && rounds.round > 0 && elapsed >= JUDGED_AFTER)
        else {
            return Vec::new();
        };
        let left = pace.at(self.course.throttle.run()).at_the_end(position);
        let last_pass = self.last_pass_rate().unwrap_or(wire);
        if left <= self.limit().saturating_sub(self.fixed.total()).as_secs_f64() * last_pass
            || left <= LITTLE_GAIN * pages as f64
        {
            return Vec::new();
        }
        let round = Round { sent: pages, dirty: left as u64, pace: Some(pace) };
        self.advise(&round);
        let why = self.course.throttle.within(&self.params.throttling, &round);
        self.throttled(now, why)
    }

    /// A round is over and another one is to come, which the convergence decided on.
    pub(super) fn course_after_round(
        &mut self,
        now: Time,
        rounds: Rounds,
        next: Next,
        within_limit: bool,
    ) -> Vec<Action> {
        let Some(last) = self.statistics.rounds.back() else { return Vec::new() };
        let (sent, dirty) = (last.pages.total(), last.dirty_pages);
        let pages = dirty as f64;
        let Some(wire) = self.wire_now(0, 0, Duration::ZERO) else {
            return self.steps_after(now, rounds, next, Round { sent, dirty, pace: None });
        };
        if self.params.by_when.is_some() {
            let mut actions = self.follow_plan(now, rounds, Position { unsent: pages, dirty: pages }, wire);
            // No plan decides on a limit.
            if matches!(self.params.throttling, Throttling::Limit(_)) && !within_limit {
                actions.extend(self.steps_after(now, rounds, next, Round { sent, dirty, pace: None }));
            }
            return actions;
        }
        if next != Next::Round || within_limit || !rounds.running {
            return Vec::new();
        }
        let pace = self.course.dirtying.pace(wire);
        let round = Round { sent, dirty, pace };
        if rounds.round > 0 && dirty as f64 > LITTLE_GAIN * sent as f64 {
            self.advise(&round);
        }
        self.steps_after(now, rounds, next, round)
    }

    fn steps_after(&mut self, now: Time, rounds: Rounds, next: Next, round: Round) -> Vec<Action> {
        let in_the_way = self.fixed.obstacle(self.limit(), now).is_some();
        let is_limit = matches!(self.params.throttling, Throttling::Limit(_));
        let is_planned = self.params.by_when.is_some() && !is_limit;
        if next != Next::Round || !rounds.running || in_the_way || is_planned {
            return Vec::new();
        }
        let why = self.course.throttle.after(&self.params.throttling, &round);
        self.throttled(now, why)
    }

    fn throttled(&mut self, now: Time, why: Option<String>) -> Vec<Action> {
        let Some(why) = why else { return Vec::new() };
        self.statistics.decide(now, why);
        // A limit is told where it is lifted.
        match self.params.throttling {
            Throttling::Limit(_) => Vec::new(),
            _ => vec![Action::Throttle { share: self.course.throttle.share() }],
        }
    }

    fn follow_plan(&mut self, now: Time, rounds: Rounds, position: Position, wire: f64) -> Vec<Action> {
        let Some(by_when) = self.params.by_when.clone() else { return Vec::new() };
        let last = self.statistics.rounds.back().filter(|last| last.round > 0);
        let facts = Facts {
            now,
            position,
            first_is_over: rounds.round > 0 || !self.statistics.rounds.is_empty(),
            wire,
            last_pass: self.last_pass_rate().unwrap_or(wire),
            pace: self.course.dirtying.pace(wire),
            last_ratio: last.map(|last| last.dirty_pages as f64 / last.pages.total().max(1) as f64),
            limit: self.params.downtime_limit,
            fixed: self.fixed.total(),
            share: self.course.throttle.share(),
            most: self.params.throttling.max(),
            postcopy_is_possible: self.params.postcopy.is_possible(),
            running: rounds.running,
        };
        let plan = by_when.plan(&facts);
        self.statistics.advice = (!plan.in_time)
            .then(|| Advice::AllowMore {
                throttle: facts.most <= 0.0 || !by_when.means.contains(&Means::Throttle),
                postcopy: !facts.postcopy_is_possible || !by_when.means.contains(&Means::Postcopy),
            })
            .or(self.statistics.advice);
        let mut actions = Vec::new();
        let before = self.course.throttle.share();
        if self.course.throttle.toward(plan.share) {
            actions.push(Action::Throttle { share: self.course.throttle.share() });
        }
        let told = self.course.plan.as_ref().is_some_and(|old| {
            (old.postcopy, old.in_time) == (plan.postcopy, plan.in_time)
                && is_about(self.course.told, plan.limit)
                && (self.course.throttle.share() - before).abs() < TOLD
                && (old.share == 0.0) == (plan.share == 0.0)
        });
        if !told {
            self.course.told = plan.limit;
            self.statistics.decide(now, format!("Deadline: {}", plan.reason));
        }
        self.course.limit = (plan.limit > self.params.downtime_limit).then_some(plan.limit);
        let postcopy = plan.postcopy;
        self.course.plan = Some(plan);
        if postcopy && !self.postcopy_wanted {
            actions.extend(self.start_postcopy(now));
        }
        actions
    }

    /// Says what would end a migration that does not end by itself.
    fn advise(&mut self, round: &Round) {
        let helps_itself =
            self.params.throttling != Throttling::Off || self.params.postcopy == Postcopy::Auto;
        let Some(pace) = round.pace.filter(|_| !helps_itself && self.statistics.advice.is_none()) else {
            return;
        };
        let downtime = Duration::from_secs_f64((round.dirty as f64 / pace.wire * 1.25).min(1e6));
        self.statistics.advice = Some(Advice::DoesNotConverge {
            per_cent: (throttle::needed(&pace, LITTLE_GAIN) * 100.0).ceil() as u8,
            downtime: downtime + self.fixed.total(),
        });
    }

    /// Pages that are sent in a second: in the round under way, if that tells, or as it was measured.
    fn wire_now(&self, sent_bytes: u64, done: u64, elapsed: Duration) -> Option<f64> {
        let tells = sent_bytes > 1 << 20 && done > 0 && elapsed > Duration::from_millis(200);
        if tells {
            return Some(done as f64 / elapsed.as_secs_f64());
        }
        let rate = self.statistics.wire_rate()?.bytes_per_second;
        let limit = self.params.max_bandwidth;
        let rate = if limit > 0 { rate.min(limit as f64) } else { rate };
        Some(rate / self.statistics.page_cost().of_a_dirty_page())
    }

    fn last_pass_rate(&self) -> Option<f64> {
        let rate = self.params.switchover_rate(self.statistics.wire_rate())?;
        Some(rate.bytes_per_second / self.statistics.page_cost().of_a_dirty_page())
    }

    /// How the machine dirties its memory, where that is known.
    #[must_use]
    pub fn pace(&self) -> Option<Pace> {
        self.course.dirtying.pace(self.wire_now(0, 0, Duration::ZERO)?)
    }
}

/// Whether it is the same but for what is foretold a little otherwise each time.
fn is_about(told: Duration, limit: Duration) -> bool {
    told.abs_diff(limit) <= told / 10
}
