//! The source's side of a migration, from the first connection to the end.
//!
//! [`Source::handle`] takes one event and the time, and answers the actions to carry out, in order. The machine runs at the
//! source in every state up to [`State::Stopping`], and again after every failure or cancel before *go*.

use std::time::Duration;

use wire::{Hello, Message};

use crate::{
    Decision, FixedCosts, Outcome, Params, Progress, RoundStats, Statistics, Status, Time, convergence,
    handover::{Answer, SourceSide},
    stats::bytes_of,
};

/// How long connecting and shaking hands may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for the answer to *go* before the link counts as lost.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two questions while it is not known who runs the machine.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Memory that a digest covers in a second, at the very least; widens the switchover time-out where one is asked for.
const DIGEST_BYTES_PER_SECOND: u64 = 200 << 20;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The control connection is up, for the first time or again.
    Connected,
    /// The destination said this.
    Message(Message),
    /// Channels are open and dirty logging is on.
    Prepared,
    /// All channels have sent the round, its end marks included.
    RoundSent {
        /// Bytes, headers included.
        bytes: u64,
        /// Pages with contents.
        raw_pages: u64,
        /// Zero pages.
        zero_pages: u64,
    },
    /// The dirty log was read; this many pages are dirty.
    DirtyFetched {
        /// Pages of [`crate::PAGE_BYTES`].
        pages: u64,
    },
    /// The machine is stopped, its disks are flushed.
    Stopped {
        /// Whether it ran until then.
        was_running: bool,
    },
    /// Device states were saved and sent, disk locks released.
    Saved {
        /// How many states.
        devices: u32,
        /// Digests of all memory, where asked for.
        digest: Option<Vec<u64>>,
    },
    /// The control connection or a channel broke.
    LinkLost(String),
    /// The machine could not do what an action asked for.
    MachineFailed(String),
    /// The user cancels.
    Cancel,
    /// The user lets the switchover go on.
    Continue,
    /// Time has passed; see [`Source::deadline`].
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Open a control connection; answer with `Connected` or `LinkLost`.
    Connect,
    /// Send on the control connection.
    Send(Message),
    /// Open this many channels and start dirty logging; answer with `Prepared`.
    Prepare {
        /// Page channels.
        channels: u16,
    },
    /// Send all of RAM (round 0) or what was last fetched; answer with `RoundSent`.
    SendRound {
        /// Number of the round.
        round: u32,
        /// Whether it is the last: the machine is stopped, nothing is re-armed, no bandwidth limit holds.
        last: bool,
    },
    /// Read the dirty log; answer with `DirtyFetched`.
    FetchDirty,
    /// Stop the machine; answer with `Stopped`.
    Stop,
    /// Save and send device states while the last pages fly, release disk locks; answer with `Saved`.
    SaveDevices,
    /// Take the disk locks back, and let the machine run if it ran before.
    Resume,
    /// Close the connections: the attempt goes on without them.
    Disconnect,
    /// The attempt is over: stop dirty logging, close everything.
    End(Outcome),
}

/// Where the attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Handshake,
    Preparing,
    Sending {
        round: u32,
    },
    Fetching {
        round: u32,
    },
    Stopping {
        round: u32,
    },
    PreSwitchover {
        round: u32,
    },
    LastFetch {
        round: u32,
    },
    LastPass {
        round: u32,
        pages_sent: bool,
        devices: Option<u32>,
    },
    AwaitReady,
    AwaitRunning,
    /// *Go* was said and the link is lost; the next question is due at this time.
    Unknown {
        ask_at: Time,
    },
    /// A new connection is being made to ask.
    Reconnecting,
    /// Asked, waiting for the answer.
    Asking {
        until: Time,
    },
    Ended,
}

/// The source's side of one attempt.
#[derive(Debug)]
pub struct Source {
    params: Params,
    hello: Hello,
    total_pages: u64,
    fixed: FixedCosts,
    state: State,
    side: SourceSide,
    was_running: Option<bool>,
    digest: Option<Vec<u64>>,
    outcome: Option<Outcome>,
    statistics: Statistics,
    progress: Progress,
    extra_rounds: u32,
    /// When the current state, or the current step of the switchover, began.
    since: Time,
    round_began: Time,
    stop_began: Option<Time>,
    /// As `stop_began`, without the time that the user made it wait.
    switchover_began: Time,
    heard: Time,
    pinged: Option<(u64, Time)>,
    next_ping: Time,
}

impl Source {
    /// A new attempt at time zero. `fixed` are the switchover costs to assume until they are measured.
    /// Answers the machine and the first actions.
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
            was_running: None,
            digest: None,
            outcome: None,
            statistics,
            progress: Progress::default(),
            extra_rounds: 0,
            since: Time::ZERO,
            round_began: Time::ZERO,
            stop_began: None,
            switchover_began: Time::ZERO,
            heard: Time::ZERO,
            pinged: None,
            next_ping: Time::ZERO,
        };
        (source, vec![Action::Connect])
    }

    /// Takes an event in, answers what to do about it.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        match event {
            _ if self.state == State::Ended => Vec::new(),
            Event::Message(message) => self.hear(now, message),
            Event::Connected => self.connected(now),
            Event::Prepared => self.prepared(now),
            Event::RoundSent { bytes, raw_pages, zero_pages } => {
                self.round_sent(now, bytes, raw_pages, zero_pages)
            }
            Event::DirtyFetched { pages } => self.fetched(now, pages),
            Event::Stopped { was_running } => self.stopped(now, was_running),
            Event::Saved { devices, digest } => self.saved(now, devices, digest),
            Event::LinkLost(reason) => self.link_lost(now, reason),
            Event::MachineFailed(reason) => self.fail(now, reason),
            Event::Cancel => self.cancel(now),
            Event::Continue => self.proceed(now),
            Event::Tick => self.tick(now),
        }
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Connecting | State::Handshake | State::Preparing => Some(self.since + HANDSHAKE_TIMEOUT),
            State::Sending { .. } | State::Fetching { .. } => {
                Some(self.next_ping.min(self.heard + self.params.peer_timeout))
            }
            State::PreSwitchover { .. } => Some(self.next_ping.min(self.heard + self.params.peer_timeout)),
            State::Stopping { .. } | State::LastFetch { .. } | State::LastPass { .. } | State::AwaitReady => {
                Some(self.switchover_began + self.switchover_timeout())
            }
            State::AwaitRunning => Some(self.since + RUNNING_TIMEOUT),
            State::Unknown { ask_at } => Some(ask_at),
            State::Reconnecting => Some(self.since + HANDSHAKE_TIMEOUT),
            State::Asking { until } => Some(until),
            State::Ended => None,
        }
    }

    /// Where the attempt stands.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.state {
            State::Connecting | State::Handshake | State::Preparing => Status::Setup,
            State::Sending { .. } | State::Fetching { .. } => Status::Active,
            State::PreSwitchover { .. } => Status::PreSwitchover,
            State::Stopping { .. }
            | State::LastFetch { .. }
            | State::LastPass { .. }
            | State::AwaitReady
            | State::AwaitRunning => Status::Device,
            State::Unknown { .. } | State::Reconnecting | State::Asking { .. } => Status::Unknown,
            State::Ended => self.outcome.as_ref().map_or(Status::Failed, Outcome::status),
        }
    }

    /// Which side the machine belongs to, as far as the source knows.
    #[must_use]
    pub fn side(&self) -> SourceSide {
        self.side
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

    /// How far the attempt is. `sent_bytes` went over the wire in the round under way, `done_pages` were dealt with in it.
    pub fn progress(&mut self, now: Time, sent_bytes: u64, done_pages: u64) -> Progress {
        if self.state == State::Ended && self.side == SourceSide::Released {
            return Progress::complete();
        }
        let elapsed = now.saturating_sub(self.round_began).as_secs_f64();
        let current = (sent_bytes > 1 << 20 && elapsed > 0.01).then(|| sent_bytes as f64 / elapsed);
        let rate = current.or_else(|| self.statistics.wire_rate());
        let remaining = bytes_of(self.statistics.remaining_pages.saturating_sub(done_pages));
        let budget = self.params.downtime_limit.saturating_sub(self.fixed.total()).as_secs_f64();
        let enough = rate.map_or(0.0, |rate| rate * budget);
        self.progress =
            Progress::estimate(&self.progress, now, remaining, enough, self.statistics.dirty_rate(), rate);
        self.progress.clone()
    }

    fn connected(&mut self, now: Time) -> Vec<Action> {
        match self.state {
            State::Connecting => {
                self.enter(State::Handshake, now);
                self.heard = now;
                vec![Action::Send(Message::Hello(self.hello.clone()))]
            }
            State::Reconnecting => {
                self.enter(State::Asking { until: now + RUNNING_TIMEOUT }, now);
                vec![Action::Send(Message::Ask { session: self.hello.session })]
            }
            _ => Vec::new(),
        }
    }

    fn hear(&mut self, now: Time, message: Message) -> Vec<Action> {
        self.heard = now;
        match (self.state, message) {
            (_, Message::Ping(number)) => vec![Action::Send(Message::Pong(number))],
            (_, Message::Pong(number)) => self.pong(now, number),
            (State::Handshake, Message::Accept(accept)) => {
                if accept.channels == 0 || accept.channels > self.hello.channels {
                    return self.fail(now, format!("The destination asks for {} channels", accept.channels));
                }
                self.enter(State::Preparing, now);
                vec![Action::Prepare { channels: accept.channels }]
            }
            (State::Handshake, Message::Refuse(refuse)) => self.fail(
                now,
                format!("The destination does not take the machine: {}", refuse.reasons.join("; ")),
            ),
            (State::AwaitReady, Message::Ready(ack)) => {
                self.ready(now, Duration::from_nanos(ack.nanoseconds))
            }
            (State::AwaitRunning, Message::Running(ack)) => {
                self.statistics.downtime.start = Duration::from_nanos(ack.nanoseconds);
                self.fixed.start = self.statistics.downtime.start;
                self.statistics.downtime.go = now.saturating_sub(self.since);
                self.released(now)
            }
            (State::Asking { .. }, Message::Running(_)) => self.released(now),
            (State::AwaitRunning | State::Asking { .. }, Message::NotRunning { reason }) => {
                self.taken_back(now, &reason)
            }
            (State::Asking { .. }, Message::UnknownSession) => {
                let asked = "The destination does not know the session (was it restarted?): nobody can tell who runs the \
                             machine. Look at the destination; see the disk locks";
                self.wait_to_ask(now, asked.into())
            }
            (State::AwaitRunning | State::Unknown { .. } | State::Reconnecting | State::Asking { .. }, _) => {
                Vec::new()
            }
            (_, Message::Abort { reason }) => self.fail(now, format!("The destination gave up: {reason}")),
            (state, message) => {
                let reason =
                    format!("The destination said {} while the source was in {state:?}", message.name());
                self.fail(now, reason)
            }
        }
    }

    fn prepared(&mut self, now: Time) -> Vec<Action> {
        if self.state != State::Preparing {
            return Vec::new();
        }
        self.statistics.setup = now;
        self.statistics.dirty_syncs = 1;
        self.next_ping = now;
        self.begin_round(now, 0)
    }

    fn begin_round(&mut self, now: Time, round: u32) -> Vec<Action> {
        self.enter(State::Sending { round }, now);
        self.round_began = now;
        vec![Action::SendRound { round, last: false }]
    }

    fn round_sent(&mut self, now: Time, bytes: u64, raw_pages: u64, zero_pages: u64) -> Vec<Action> {
        let duration = now.saturating_sub(self.round_began);
        let (State::Sending { round } | State::LastPass { round, .. }) = self.state else {
            return Vec::new();
        };
        let wire_rate = bytes as f64 / duration.as_secs_f64().max(1e-9);
        let stats =
            RoundStats { round, bytes, raw_pages, zero_pages, duration, wire_rate, ..RoundStats::default() };
        self.statistics.add(stats);
        match &mut self.state {
            State::LastPass { pages_sent, .. } => {
                *pages_sent = true;
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

    fn fetched(&mut self, now: Time, pages: u64) -> Vec<Action> {
        self.statistics.remaining_pages = pages;
        self.statistics.dirty_syncs += 1;
        match self.state {
            State::Fetching { round } => self.decide(now, round, pages),
            State::LastFetch { round } => {
                self.statistics.downtime.last_fetch = now.saturating_sub(self.since);
                self.state = State::LastPass { round, pages_sent: false, devices: None };
                self.since = now;
                self.round_began = now;
                vec![
                    Action::SendRound { round, last: true },
                    Action::Send(Message::Switchover { round }),
                    Action::SaveDevices,
                ]
            }
            _ => Vec::new(),
        }
    }

    fn decide(&mut self, now: Time, round: u32, pages: u64) -> Vec<Action> {
        let wire_rate = self.statistics.wire_rate();
        let Some(last) = self.statistics.rounds.back_mut() else { return Vec::new() };
        last.dirty_pages = pages;
        last.dirty_rate =
            bytes_of(pages) as f64 / now.saturating_sub(self.round_began).as_secs_f64().max(1e-9);
        let Decision { switch, predicted, reason } =
            convergence::decide(&self.params, &self.fixed, last, pages, wire_rate, self.extra_rounds);
        last.decision.clone_from(&reason);
        last.predicted = predicted;
        if !switch && predicted.is_some_and(|predicted| predicted <= self.params.downtime_limit) {
            self.extra_rounds += 1;
        }
        self.statistics.predicted = predicted;
        self.statistics.reason = format!("Round {round}: {reason}");
        if !switch {
            return self.begin_round(now, round + 1);
        }
        self.enter(State::Stopping { round: round + 1 }, now);
        self.stop_began = Some(now);
        self.switchover_began = now;
        vec![Action::Stop]
    }

    fn stopped(&mut self, now: Time, was_running: bool) -> Vec<Action> {
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

    fn proceed(&mut self, now: Time) -> Vec<Action> {
        let State::PreSwitchover { round } = self.state else { return Vec::new() };
        self.statistics.downtime.waiting = now.saturating_sub(self.since);
        self.switchover_began += self.statistics.downtime.waiting;
        self.enter(State::LastFetch { round }, now);
        vec![Action::FetchDirty]
    }

    fn saved(&mut self, now: Time, count: u32, digest: Option<Vec<u64>>) -> Vec<Action> {
        let State::LastPass { devices, .. } = &mut self.state else { return Vec::new() };
        *devices = Some(count);
        self.digest = digest;
        self.statistics.downtime.save = now.saturating_sub(self.since);
        self.fixed.save = self.statistics.downtime.save;
        self.complete_if_sent(now)
    }

    fn complete_if_sent(&mut self, now: Time) -> Vec<Action> {
        let State::LastPass { round, pages_sent: true, devices: Some(devices) } = self.state else {
            return Vec::new();
        };
        self.enter(State::AwaitReady, now);
        vec![Action::Send(Message::Complete(wire::Complete {
            rounds: round + 1,
            raw_pages: self.statistics.raw_pages,
            zero_pages: self.statistics.zero_pages,
            devices,
            run: self.was_running.unwrap_or(true),
            digest: self.digest.take(),
        }))]
    }

    fn ready(&mut self, now: Time, load: Duration) -> Vec<Action> {
        let Some(side) = self.side.commit() else { return Vec::new() };
        self.side = side;
        self.statistics.downtime.ready = now.saturating_sub(self.since);
        self.statistics.downtime.load = load;
        self.fixed.load = load;
        self.enter(State::AwaitRunning, now);
        vec![Action::Send(Message::Go)]
    }

    fn released(&mut self, now: Time) -> Vec<Action> {
        self.side = self.side.learn(Answer::Running);
        let began = self.stop_began.unwrap_or(now);
        self.statistics.downtime.total = now.saturating_sub(began);
        self.end(now, Outcome::Completed, vec![Action::Send(Message::Bye)])
    }

    fn taken_back(&mut self, now: Time, reason: &str) -> Vec<Action> {
        self.side = self.side.learn(Answer::NotRunning);
        let outcome = Outcome::Failed(format!("The destination did not run the machine: {reason}"));
        self.end(now, outcome, vec![Action::Send(Message::Bye), Action::Resume])
    }

    fn link_lost(&mut self, now: Time, reason: String) -> Vec<Action> {
        match self.state {
            State::AwaitRunning | State::Reconnecting | State::Asking { .. } => {
                let advice = "the machine is stopped here, and whether it runs at the destination is not known: asking again";
                self.wait_to_ask(now, format!("{reason}; {advice}"))
            }
            State::Unknown { .. } => Vec::new(),
            _ => self.fail(now, reason),
        }
    }

    fn wait_to_ask(&mut self, now: Time, reason: String) -> Vec<Action> {
        self.statistics.reason = reason;
        self.enter(State::Unknown { ask_at: now + ASK_INTERVAL }, now);
        vec![Action::Disconnect]
    }

    fn cancel(&mut self, now: Time) -> Vec<Action> {
        if self.side == SourceSide::Owner { self.give_up(now, Outcome::Cancelled) } else { Vec::new() }
    }

    fn fail(&mut self, now: Time, reason: String) -> Vec<Action> {
        if self.side == SourceSide::Owner { self.give_up(now, Outcome::Failed(reason)) } else { Vec::new() }
    }

    /// Ends the attempt with the machine at the source.
    fn give_up(&mut self, now: Time, outcome: Outcome) -> Vec<Action> {
        let reason = match &outcome {
            Outcome::Failed(reason) => reason.clone(),
            _ => "cancelled by the user".into(),
        };
        let mut actions = vec![Action::Send(Message::Abort { reason })];
        if self.stop_began.is_some() {
            actions.push(Action::Resume);
        }
        self.end(now, outcome, actions)
    }

    fn end(&mut self, now: Time, outcome: Outcome, mut actions: Vec<Action>) -> Vec<Action> {
        self.enter(State::Ended, now);
        self.statistics.total = Some(now);
        match &outcome {
            Outcome::Failed(reason) => self.statistics.reason.clone_from(reason),
            Outcome::Cancelled => self.statistics.reason = "Cancelled".into(),
            Outcome::Completed => {}
        }
        self.outcome = Some(outcome.clone());
        actions.push(Action::End(outcome));
        actions
    }

    fn tick(&mut self, now: Time) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match self.state {
            State::Connecting | State::Handshake | State::Preparing => {
                self.fail(now, format!("The destination did not answer within {HANDSHAKE_TIMEOUT:?}"))
            }
            State::Sending { .. } | State::Fetching { .. } | State::PreSwitchover { .. } => self.ping(now),
            State::Stopping { .. } | State::LastFetch { .. } | State::LastPass { .. } | State::AwaitReady => {
                let timeout = self.switchover_timeout();
                self.fail(
                    now,
                    format!("The switchover was not over after {timeout:?}: the machine runs on here"),
                )
            }
            State::AwaitRunning => self.link_lost(now, format!("No answer to go within {RUNNING_TIMEOUT:?}")),
            State::Unknown { .. } => {
                self.enter(State::Reconnecting, now);
                vec![Action::Connect]
            }
            State::Reconnecting | State::Asking { .. } => {
                self.link_lost(now, "The destination does not answer".into())
            }
            State::Ended => Vec::new(),
        }
    }

    fn ping(&mut self, now: Time) -> Vec<Action> {
        let silent = now.saturating_sub(self.heard);
        if silent >= self.params.peer_timeout {
            return self.fail(now, format!("The destination has been silent for {silent:.0?}"));
        }
        if now < self.next_ping {
            return Vec::new();
        }
        self.next_ping = now + PING_INTERVAL;
        let number = self.pinged.map_or(1, |(number, _)| number + 1);
        self.pinged = Some((number, now));
        vec![Action::Send(Message::Ping(number))]
    }

    fn pong(&mut self, now: Time, number: u64) -> Vec<Action> {
        if let Some((pinged, at)) = self.pinged
            && pinged == number
        {
            self.fixed.round_trip = now.saturating_sub(at);
        }
        Vec::new()
    }

    fn switchover_timeout(&self) -> Duration {
        let digest = if self.hello.digest { bytes_of(self.total_pages) / DIGEST_BYTES_PER_SECOND } else { 0 };
        self.params.switchover_timeout + Duration::from_secs(digest)
    }

    fn enter(&mut self, state: State, now: Time) {
        self.state = state;
        self.since = now;
    }
}
