//! The source's side of a migration, from the first connection to the end.
//!
//! [`Source::handle`] takes one event and the time, and returns the actions to carry out, in order. The machine runs at the
//! source in every state up to [`State::Stopping`], and again after every failure or cancel before *go*.

mod ending;
mod events;
mod pace;
mod pings;
mod postcopy;
mod rounds;
mod state;

use std::time::Duration;

use wire::{Accept, Digest, Features, Greeted, Hello, Message, Role};

pub use self::{
    events::{Action, Event, Verdict},
    state::{LastPages, Recovery, Rounds, State, Stop},
};
use self::{pace::Course, pings::Pings};
use crate::{
    FixedCosts, Outcome, Params, Progress, Statistics, Status, Time, custody::SourcePages, digest_time,
    fixed_costs::Obstacle, handover::SourceSide, stats::bytes_of,
};

/// How long connecting and shaking hands may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long opening the channels may take: 64 of them, one after the other, over a long way.
const CHANNELS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for the answer to *go* before the link counts as lost.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two questions while it is not known who runs the machine.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two tries to take the machine back.
const RESUME_INTERVAL: Duration = Duration::from_millis(50);
/// How long to try. The destination may hold the disk locks until it has noticed that the attempt is over, which takes it
/// half a minute when the link is dead; a lock server may take longer to notice that it died.
const RESUME_PATIENCE: Duration = Duration::from_secs(120);

/// Pause before a round that has hardly anything to send and cannot be the last one yet: without it such rounds follow each other
/// by the thousand, each a system call and a set of wakes, until something changes.
const REST: Duration = Duration::from_millis(20);

/// The source's side of one attempt.
#[derive(Clone, Debug)]
pub struct Source {
    params: Params,
    hello: Hello,
    total_pages: u64,
    fixed: FixedCosts,
    state: State,
    side: SourceSide,
    pages: SourcePages,
    statistics: Statistics,
    progress: Progress,
    /// When the current state, or the current step of the switchover, began.
    since: Time,
    heard: Time,
    pings: Pings,
    /// Page channels that both sides agreed on.
    channels: u16,
    /// The user wants no more rounds: the machine is to run at the destination now.
    postcopy_wanted: bool,
    course: Course,
    /// What the destination is told if the attempt is cancelled, where that is not a user's wish.
    farewell: Option<String>,
}

impl Source {
    /// A new attempt at time zero. `fixed` are the switchover costs to assume until they are measured.
    /// Returns the machine and the first actions.
    #[must_use]
    pub fn start(params: Params, hello: Hello, fixed: FixedCosts) -> (Self, Vec<Action>) {
        let total_pages = hello.blocks.iter().map(|block| block.bytes / crate::PAGE_BYTES).sum();
        let statistics = Statistics { remaining_pages: total_pages, ..Statistics::default() };
        let source = Self {
            params,
            hello,
            total_pages,
            fixed,
            state: State::Connecting,
            side: SourceSide::Owner,
            pages: SourcePages::All,
            statistics,
            progress: Progress::default(),
            since: Time::ZERO,
            heard: Time::ZERO,
            pings: Pings::default(),
            channels: 0,
            postcopy_wanted: false,
            course: Course::default(),
            farewell: None,
        };
        (source, vec![Action::Connect(Role::Control)])
    }

    /// Takes an event in, returns what to do about it.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = self.take(now, event);
        // After every event: a peer that never stops talking must not keep a deadline from being noticed.
        actions.extend(self.tick(now));
        self.lift_throttle(&mut actions);
        actions
    }

    fn take(&mut self, now: Time, event: Event) -> Vec<Action> {
        match event {
            Event::Resumed(result) => self.resumed(now, result),
            _ if matches!(self.state, State::Resuming { .. } | State::Ended(_)) => Vec::new(),
            Event::Message(message) => self.hear(now, message),
            Event::Connected(destination) => self.connected(now, destination),
            Event::Prepared => self.prepared(now),
            Event::RoundSent { bytes, pages, digest } => self.round_sent(now, bytes, pages, digest),
            Event::DirtyFetched { pages, running } => self.fetched(now, pages, running),
            Event::Look { sent_bytes, done_pages, clean_pages, dirty_pages } => {
                self.looked(now, sent_bytes, dirty_pages, clean_pages, done_pages)
            }
            Event::Stopped { was_running } => self.stopped(now, was_running),
            Event::Divided { to_come } => self.divided(now, to_come),
            Event::Saved { devices } => self.saved(now, devices),
            Event::LinkLost(reason) => self.link_lost(now, reason),
            Event::MachineFailed(reason) if self.is_postcopy() => self.link_lost(now, reason),
            Event::MachineFailed(reason) => self.fail(now, reason),
            Event::StartPostcopy => self.start_postcopy(now),
            Event::Pause => self.pause(now),
            Event::Recover => self.recover_now(now),
            Event::Cancel => self.cancel(now),
            Event::Continue => self.proceed(now),
            Event::Decided(verdict) => self.decided(now, verdict),
            Event::Noted(text) => {
                self.statistics.decide(now, text);
                Vec::new()
            }
            Event::Tick => Vec::new(),
        }
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let ping_or = |deadline: Time| Some(self.pings.due().min(deadline));
        match &self.state {
            State::Connecting | State::Handshake | State::Reconnecting(_) => {
                Some(self.since + HANDSHAKE_TIMEOUT)
            }
            State::Preparing { .. } => Some(self.since + CHANNELS_TIMEOUT),
            State::Sending(_) | State::Fetching(_) | State::PreSwitchover(_) => {
                ping_or(self.heard + self.params.peer_timeout)
            }
            State::Resting { until, .. } | State::Asking { until, .. } => Some(*until),
            State::Stopping(stop)
            | State::LastFetch(stop)
            | State::LastPass { stop, .. }
            | State::AwaitReady(stop) => ping_or(stop.counts_from() + self.switchover_timeout(stop)),
            State::AwaitRunning(_) => Some(self.since + RUNNING_TIMEOUT),
            State::Unknown { ask_at, .. } => Some(*ask_at),
            State::Pushing(_) => ping_or(self.heard + self.params.peer_timeout),
            State::Parted { retry_at, .. } => *retry_at,
            State::Recovering { .. } => Some(self.since + CHANNELS_TIMEOUT),
            State::Resuming { retry_at, .. } => *retry_at,
            State::Ended(_) => None,
        }
    }

    /// Where the attempt stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.state.status()
    }

    /// Where it stands, exactly.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How it ended, or how it will end once the machine is taken back.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.state.outcome()
    }

    /// Which side the machine belongs to, as far as the source knows.
    #[must_use]
    pub fn side(&self) -> SourceSide {
        self.side
    }

    /// Where its pages are needed, as far as the source knows.
    #[must_use]
    pub fn pages(&self) -> SourcePages {
        self.pages
    }

    /// Whether the user said that the machine is to run at the destination before all of its memory is there.
    #[must_use]
    pub fn wants_postcopy(&self) -> bool {
        self.postcopy_wanted
    }

    /// The figures so far.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Switchover costs, as measured where they were.
    #[must_use]
    pub fn fixed_costs(&self) -> FixedCosts {
        self.fixed
    }

    /// The parameters in force.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Changes the parameters that are live.
    pub fn set_live(&mut self, max_bandwidth: u64, downtime_limit: Duration, switchover_bandwidth: u64) {
        self.params.max_bandwidth = max_bandwidth;
        self.params.downtime_limit = downtime_limit;
        self.params.switchover_bandwidth = switchover_bandwidth;
    }

    /// The machine is about to end: should the attempt be cancelled, the destination is told `why`.
    pub fn machine_ends(&mut self, why: &str) {
        self.farewell = Some(why.into());
    }

    /// How long the storage of the disks would take now for what the machine has written, if it were stopped.
    pub fn flush_takes(&mut self, flush: Duration) {
        self.fixed.flush = flush;
    }

    /// Changes how many bytes per second follow a machine that runs, 0 for no limit.
    pub fn set_postcopy_bandwidth(&mut self, bytes: u64) {
        self.params.max_postcopy_bandwidth = bytes;
    }

    /// How far the attempt is. `sent_bytes` went over the wire in the round under way, `done_pages` were dealt with in it.
    pub fn progress(&mut self, now: Time, sent_bytes: u64, done_pages: u64) -> Progress {
        if self.state == State::Ended(Outcome::Completed) {
            return Progress::complete();
        }
        if let Some(obstacle) = self.obstacle(now) {
            let eta = obstacle.until.map(|until| until.saturating_sub(now));
            let note = obstacle.reason(self.limit());
            self.progress = Progress::held_up(&self.progress, now, eta, note);
            return self.progress.clone();
        }
        let elapsed = now.saturating_sub(self.since).as_secs_f64();
        let current = (sent_bytes > 1 << 20 && elapsed > 0.01).then(|| sent_bytes as f64 / elapsed);
        let measured = self.statistics.wire_rate();
        let limit =
            if self.params.max_bandwidth > 0 { self.params.max_bandwidth as f64 } else { f64::INFINITY };
        let rate = current.or_else(|| Some(measured?.bytes_per_second.min(limit)));
        let cost = self.statistics.page_cost();
        let remaining = self.statistics.remaining_pages.saturating_sub(done_pages) as f64
            * cost.of_a_page_now(sent_bytes, done_pages);
        let dirty_rate = self.statistics.dirty_rate() / crate::PAGE_BYTES as f64 * cost.of_a_dirty_page();
        let budget = self.limit().saturating_sub(self.fixed.total()).as_secs_f64();
        let in_the_end = self.params.switchover_rate(measured).map(|rate| rate.bytes_per_second);
        let enough = in_the_end.or(rate).map_or(0.0, |rate| rate * budget);
        self.progress = Progress::estimate(&self.progress, now, remaining, enough, dirty_rate, rate);
        self.progress.clone()
    }

    /// What keeps a machine that runs from being switched over, as long as nothing but rounds is under way and the first is over.
    fn obstacle(&self, now: Time) -> Option<Obstacle> {
        let running = match &self.state {
            State::Sending(rounds) | State::Fetching(rounds) if rounds.round > 0 => rounds.running,
            State::Resting { rounds, .. } => rounds.running,
            _ => false,
        };
        if running { self.fixed.obstacle(self.limit(), now) } else { None }
    }

    fn connected(&mut self, now: Time, destination: Greeted) -> Vec<Action> {
        match self.state {
            State::Connecting => {
                let has_postcopy = destination.agreed.features.has(Features::POSTCOPY);
                if self.hello.postcopy && !has_postcopy {
                    let reason = format!(
                        "Release {} of the destination cannot run a machine before all of its memory is there: upgrade it, or \
                         migrate without postcopy",
                        destination.release
                    );
                    return self.fail(now, reason);
                }
                if self.hello.postcopy
                    && self.hello.digest.is_on()
                    && !destination.agreed.features.has(Features::SUMS)
                {
                    let reason = format!(
                        "Release {} of the destination cannot compare pages that follow the machine: upgrade it, or migrate without \
                         a digest or without postcopy",
                        destination.release
                    );
                    return self.fail(now, reason);
                }
                self.agree_on_encodings(now, &destination);
                self.statistics.destination = Some(destination);
                self.enter(State::Handshake, now);
                self.heard = now;
                vec![Action::Send(Message::Hello(self.hello.clone()))]
            }
            State::Recovering { stop, step: Recovery::Connecting, tries } => {
                self.enter(State::Recovering { stop, step: Recovery::Asking, tries }, now);
                self.heard = now;
                vec![Action::Send(Message::Ask { session: self.hello.session })]
            }
            State::Reconnecting(stop) => {
                self.enter(State::Asking { stop, until: now + RUNNING_TIMEOUT }, now);
                vec![Action::Send(Message::Ask { session: self.hello.session })]
            }
            _ => Vec::new(),
        }
    }

    /// Does without encodings that the destination lacks, and says so.
    fn agree_on_encodings(&mut self, now: Time, destination: &Greeted) {
        let (encodings, lacking) = self.params.encodings.agreed(destination.agreed.features);
        self.params.encodings = encodings;
        for what in lacking {
            let release = &destination.release;
            self.statistics
                .decide(now, format!("Release {release} of the destination cannot {what}: done without"));
        }
    }

    /// Whether this machine can go to a destination that takes it so.
    fn can_accept(&self, accept: &Accept) -> Result<(), String> {
        if accept.channels == 0 || accept.channels > self.hello.channels {
            return Err(format!("The destination asks for {} channels", accept.channels));
        }
        for device in &self.hello.devices {
            let reads = accept.reads.iter().find(|reads| reads.kind == device.kind);
            let reads = reads.ok_or_else(|| {
                format!("The destination does not say which versions of a '{}' state it reads", device.kind)
            })?;
            device.agreed(reads)?;
        }
        Ok(())
    }

    fn hear(&mut self, now: Time, message: Message) -> Vec<Action> {
        self.heard = now;
        match (&self.state, message) {
            (_, Message::Ping(number)) => vec![Action::Send(Message::Pong(number))],
            (_, Message::Pong(number)) => {
                if let Some(round_trip) = self.pings.answered(now, number) {
                    self.fixed.round_trip = round_trip;
                }
                Vec::new()
            }
            (State::Handshake, Message::Accept(accept)) => {
                if let Err(reason) = self.can_accept(&accept) {
                    return self.fail(now, reason);
                }
                // Both sides have nothing else to do now: no ping that waits behind pages will do better.
                self.fixed.round_trip = self.pings.measured(now.saturating_sub(self.since));
                self.enter(State::Preparing { prepared: false, open: false }, now);
                self.channels = accept.channels;
                vec![Action::Prepare { channels: accept.channels }]
            }
            (State::Handshake, Message::Refuse(refuse)) => self.fail(
                now,
                format!("The destination does not take the machine: {}", refuse.reasons.join("; ")),
            ),
            (State::Pushing(_) | State::Recovering { .. }, message) => self.hear_in_postcopy(now, message),
            (State::Preparing { prepared, .. }, Message::ChannelsOpen) => {
                self.state = State::Preparing { prepared: *prepared, open: true };
                self.begin_if_prepared(now)
            }
            (State::AwaitReady(stop), Message::Ready(ack)) => {
                let stop = *stop;
                self.ready(now, stop, Duration::from_nanos(ack.nanoseconds))
            }
            (State::AwaitRunning(stop), Message::Running(ack)) => {
                let stop = *stop;
                self.statistics.downtime.go = now.saturating_sub(self.since);
                self.fixed.start = Duration::from_nanos(ack.nanoseconds).min(self.statistics.downtime.go);
                self.statistics.downtime.start = self.fixed.start;
                self.released(now, stop)
            }
            (State::Asking { stop, .. }, Message::Running(_)) => {
                let stop = *stop;
                self.released_late(now, stop)
            }
            (State::AwaitRunning(stop) | State::Asking { stop, .. }, Message::NotRunning { reason })
            // It gave up while *go* was on its way: after *go* it never does.
            | (State::AwaitRunning(stop), Message::Abort { reason }) => {
                let stop = *stop;
                self.taken_back(now, stop, &reason)
            }
            (State::Asking { stop, .. }, Message::UnknownSession) => {
                let stop = *stop;
                let asked = "The destination does not know the session (was it restarted?): nobody can tell who runs the \
                             machine. Look at the destination; see the disk locks";
                self.wait_to_ask(now, stop, asked.into())
            }
            (
                State::AwaitRunning(_)
                | State::Unknown { .. }
                | State::Reconnecting(_)
                | State::Asking { .. }
                | State::Parted { .. },
                _,
            ) => {
                Vec::new()
            }
            (_, Message::Abort { reason }) => self.fail(now, format!("The destination gave up: {reason}")),
            (state, message) => {
                let reason =
                    format!("The destination said {} while the source was {}", message.name(), state.name());
                self.fail(now, reason)
            }
        }
    }

    fn tick(&mut self, now: Time) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match &self.state {
            State::Connecting | State::Handshake => {
                self.fail(now, format!("The destination did not answer within {HANDSHAKE_TIMEOUT:?}"))
            }
            State::Preparing { .. } => {
                self.fail(now, format!("The channels were not open within {CHANNELS_TIMEOUT:?}"))
            }
            State::Pushing(_) => {
                let silent = now.saturating_sub(self.heard);
                if silent >= self.params.peer_timeout {
                    return self.link_lost(now, format!("The destination has been silent for {silent:.0?}"));
                }
                self.ping(now)
            }
            State::Parted { stop, tries, .. } => {
                let (stop, tries) = (*stop, *tries);
                self.find_again(now, stop, tries)
            }
            State::Recovering { .. } => {
                self.link_lost(now, "The destination could not be found again in time".into())
            }
            State::Sending(_) | State::Fetching(_) | State::PreSwitchover(_) => {
                let silent = now.saturating_sub(self.heard);
                if silent >= self.params.peer_timeout {
                    return self.fail(now, format!("The destination has been silent for {silent:.0?}"));
                }
                self.ping(now)
            }
            State::Resting { rounds, .. } => {
                let rounds = *rounds;
                self.begin_round(now, rounds)
            }
            State::Stopping(stop)
            | State::LastFetch(stop)
            | State::LastPass { stop, .. }
            | State::AwaitReady(stop) => {
                let timeout = self.switchover_timeout(stop);
                if now >= stop.counts_from() + timeout {
                    let reason =
                        format!("The switchover was not over after {timeout:?}: the machine runs on here");
                    return self.fail(now, reason);
                }
                self.ping(now)
            }
            State::AwaitRunning(_) => {
                self.link_lost(now, format!("No answer to go within {RUNNING_TIMEOUT:?}"))
            }
            State::Unknown { stop, .. } => {
                self.enter(State::Reconnecting(*stop), now);
                vec![Action::Connect(Role::Ask)]
            }
            State::Reconnecting(_) | State::Asking { .. } => {
                self.link_lost(now, "The destination does not answer".into())
            }
            State::Resuming { .. } => self.try_to_resume(),
            State::Ended(_) => Vec::new(),
        }
    }

    /// Keeps the destination from taking silence for death, and measures the round trip.
    fn ping(&mut self, now: Time) -> Vec<Action> {
        vec![Action::Send(Message::Ping(self.pings.send(now)))]
    }

    /// Measures the round trip again, unless that is being done. What was measured while a round sent as much as it could must not
    /// stand for a second where a machine waits for better.
    fn ping_again(&mut self, now: Time) -> Vec<Action> {
        if self.pings.is_under_way() { Vec::new() } else { self.ping(now) }
    }

    /// A limit that is lowered while the machine is stopped does not make the time in vain that it has been.
    fn switchover_timeout(&self, stop: &Stop) -> Duration {
        let digest = if self.hello.digest == Digest::Full {
            digest_time(bytes_of(self.total_pages))
        } else {
            Duration::ZERO
        };
        self.params.switchover_timeout + stop.limit.max(self.limit()) + digest
    }

    fn enter(&mut self, state: State, now: Time) {
        self.state = state;
        self.since = now;
    }
}
