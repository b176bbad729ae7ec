//! The destination's side of a migration.
//!
//! A destination waits for a source, takes one attempt at a time, and gives up cleanly: after every failure before *go*
//! it is as empty as before, and the next source may come.

mod pages;

use std::time::Duration;

use state::DeviceState;
use wire::{
    Accept, Ack, Complete, Digest, Forward, Hello, Message, PageBits, PageCounts, Refuse, SessionId,
    StateVersions,
};

use self::pages::Way;
use crate::{
    Time,
    custody::DestinationPages,
    digest_time,
    handover::{Answer, DestinationSide},
};

/// How long the source may take to open all channels: 64 of them, one after the other, over a long way.
const CHANNELS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the source may be silent, pings included.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of device states in all; bounds what a source can make this side hold.
const MAX_STATE_BYTES: usize = 256 << 20;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The source of the attempt said this.
    Message(Message),
    /// The machine of the source was compared with this one: which versions of the device states that come are read here, or every
    /// reason why it cannot come.
    Checked(Result<Vec<StateVersions>, Vec<String>>),
    /// All channels are open.
    ChannelsOpen,
    /// All channels have reached the end of the last round; these pages were placed.
    AllReceived(PageCounts),
    /// Device states are loaded, memory is verified where asked for, disk locks are held.
    Loaded,
    /// The machine runs (or is paused, if it was).
    Started,
    /// Every page of a machine that runs here is here.
    Whole,
    /// The source was told which pages are missing: so many, or none.
    Listed {
        /// Pages.
        missing: u64,
    },
    /// The machine could not do what an action asked for.
    MachineFailed(String),
    /// The control connection or a channel broke.
    LinkLost(String),
    /// The user gives the attempt up.
    Cancel,
    /// Time has passed; see [`Destination::deadline`].
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Compare the machines; answer with `Checked`.
    Check(Box<Hello>),
    /// Send on the control connection.
    Send(Message),
    /// Let this many channels of this session in; answer with `ChannelsOpen`, then `AllReceived`.
    OpenChannels {
        /// The session.
        session: SessionId,
        /// Page channels.
        channels: u16,
    },
    /// Note that these pages come only when the machine runs, or come again then.
    Note(PageBits),
    /// Have accesses to pages that are to come wait for them, so many in all; load these states, compare the digest, take the disk
    /// locks; answer with `Loaded`.
    Load {
        /// Pages that follow when the machine runs: as many as were noted, or the machine is not whole.
        to_come: u64,
        /// One state for each device of the handshake.
        states: Vec<DeviceState>,
        /// Digests to compare, where agreed.
        digest: Option<Vec<u64>>,
    },
    /// Run the machine, or leave it paused; answer with `Started`.
    Run {
        /// Whether it ran at the source.
        run: bool,
    },
    /// Give this to the machine, which runs here, as if it had come here.
    Deliver(Forward),
    /// The link to the source is lost while pages are missing: close its connections. What has come stays, and the machine runs on.
    Part,
    /// Tell the source which pages are missing; answer with `Listed`.
    List,
    /// Throw away what arrived and be ready for the next source.
    Discard {
        /// Why.
        reason: String,
        /// Whether anything of the attempt may have come to the machine that waits here. What was refused in the handshake has not.
        touched: bool,
    },
    /// The source knows that the machine runs here: nothing more will be asked.
    End,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Waiting for a source.
    Listening,
    Checking(Box<Hello>),
    Opening(Box<Hello>),
    Receiving(Box<Hello>),
    Loading,
    /// *Ready* was said.
    AwaitGo,
    Starting,
    Running,
    Ended,
}

/// The destination's side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    state: State,
    side: DestinationSide,
    session: SessionId,
    states: Vec<DeviceState>,
    state_bytes: usize,
    received: Option<PageCounts>,
    complete: Option<Complete>,
    run: bool,
    pages: DestinationPages,
    /// How those come that a machine lacks that runs here.
    way: Way,
    channels: u16,
    heard: Time,
    step_began: Time,
    /// Sessions that were given up, newest last; a question about one of them has a certain answer.
    given_up: Vec<SessionId>,
}

/// Sessions remembered as given up.
const MAX_GIVEN_UP: usize = 1024;

impl Default for Destination {
    fn default() -> Self {
        Self {
            state: State::Listening,
            side: DestinationSide::Preparing,
            session: SessionId::NONE,
            states: Vec::new(),
            state_bytes: 0,
            received: None,
            complete: None,
            run: true,
            pages: DestinationPages::Nothing,
            way: Way::Open,
            channels: 0,
            heard: Time::ZERO,
            step_began: Time::ZERO,
            given_up: Vec::new(),
        }
    }
}

impl Destination {
    /// Takes an event in, answers what to do about it.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = self.take(now, event);
        // After every event: a source that never stops talking must not keep a deadline from being noticed.
        actions.extend(self.tick(now));
        actions
    }

    fn take(&mut self, now: Time, event: Event) -> Vec<Action> {
        match event {
            Event::Message(message) => self.hear(now, message),
            Event::Checked(checked) => self.checked(now, checked),
            Event::ChannelsOpen => self.channels_open(),
            Event::AllReceived(pages) => self.all_received(now, pages),
            Event::Loaded => self.loaded(now),
            Event::Started => self.started(now),
            Event::Whole => self.whole(),
            Event::Listed { missing } => self.listed(missing),
            // From go on there is no way back, whether the machine runs already or not.
            Event::LinkLost(_) if self.side.may_run() => self.part(),
            // It runs: whatever failed, failed beside it.
            Event::MachineFailed(_) if self.state == State::Running => self.part(),
            Event::MachineFailed(reason) if self.state == State::Starting => self.could_not_start(reason),
            Event::MachineFailed(reason) | Event::LinkLost(reason) => self.give_up(reason, true),
            Event::Cancel => self.give_up("Cancelled at the destination".into(), true),
            Event::Tick => Vec::new(),
        }
    }

    /// A question that came on a new connection, about any session. Returns what to say, and what to do besides.
    pub fn asked(&mut self, now: Time, session: SessionId) -> (Message, Vec<Action>) {
        if session == self.session && session != SessionId::NONE {
            if self.state == State::Starting {
                // Whether the machine can be started is only known in a moment; the source asks again.
                return (Message::UnknownSession, Vec::new());
            }
            self.heard = now;
            let (side, answer) = self.side.asked();
            let actions = if answer == Answer::Running {
                Vec::new()
            } else {
                self.give_up("The source lost the link and asked".into(), false)
            };
            self.side = if answer == Answer::Running { side } else { self.side };
            return (Self::answer(answer, now.saturating_sub(self.step_began)), actions);
        }
        let answer = if self.given_up.contains(&session) { Answer::NotRunning } else { Answer::Unknown };
        (Self::answer(answer, Duration::ZERO), Vec::new())
    }

    fn answer(answer: Answer, since: Duration) -> Message {
        match answer {
            Answer::Running => Message::Running(ack(since)),
            Answer::NotRunning => Message::NotRunning { reason: "The session was given up before go".into() },
            Answer::Unknown => Message::UnknownSession,
        }
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Opening(_) => Some(self.step_began + CHANNELS_TIMEOUT),
            State::Receiving(ref hello) => Some(self.heard + Self::patience(hello)),
            State::AwaitGo => Some(self.step_began + PEER_TIMEOUT),
            State::Running => self.parts_at(),
            _ => None,
        }
    }

    /// Whether a source is being served: a second one is told to come later.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.state != State::Listening
    }

    /// Whether the machine belongs to this side.
    #[must_use]
    pub fn side(&self) -> DestinationSide {
        self.side
    }

    /// What is here of the pages of the machine.
    #[must_use]
    pub fn pages(&self) -> DestinationPages {
        self.pages
    }

    /// The session that is under way, or was last.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    fn hear(&mut self, now: Time, message: Message) -> Vec<Action> {
        self.heard = now;
        match (&self.state, message) {
            (_, Message::Ping(number)) => vec![Action::Send(Message::Pong(number))],
            (_, Message::Pong(_)) => Vec::new(),
            (State::Listening, Message::Hello(hello)) => self.hello(now, hello),
            (State::Receiving(_), Message::Switchover) => Vec::new(),
            (State::Receiving(hello), Message::Device(device)) => {
                if let Err(reason) = self.may_keep(hello, &device) {
                    return self.give_up(reason, true);
                }
                self.state_bytes += device.body.len();
                self.states.push(device);
                Vec::new()
            }
            (State::Receiving(_), Message::Complete(complete)) if self.complete.is_none() => {
                self.step_began = now;
                self.complete = Some(complete);
                self.load_if_whole(now)
            }
            (State::Receiving(hello), Message::Missing(bits)) if hello.postcopy => vec![Action::Note(bits)],
            (State::AwaitGo, Message::Go) => self.go(now),
            (State::Running, Message::Recover) => self.recover(),
            (State::Running, Message::Forward(forward)) => vec![Action::Deliver(forward)],
            (State::Running, Message::Bye) if self.pages == DestinationPages::All => {
                self.state = State::Ended;
                vec![Action::End]
            }
            (State::Running | State::Starting | State::Ended, _) => Vec::new(),
            (_, Message::Abort { reason }) => self.give_up(format!("The source gave up: {reason}"), false),
            (state, message) => {
                let reason =
                    format!("The source said {} while the destination was {}", message.name(), state.name());
                self.give_up(reason, true)
            }
        }
    }

    fn hello(&mut self, now: Time, hello: Hello) -> Vec<Action> {
        self.step_began = now;
        self.session = hello.session;
        self.side = DestinationSide::Preparing;
        self.state = State::Checking(Box::new(hello.clone()));
        // What became of a session has one answer for all time.
        if hello.session == SessionId::NONE || self.given_up.contains(&hello.session) {
            let reason = format!("Session {} is over: every attempt needs a new one", hello.session);
            return self.checked(now, Err(vec![reason]));
        }
        vec![Action::Check(Box::new(hello))]
    }

    fn checked(&mut self, now: Time, checked: Result<Vec<StateVersions>, Vec<String>>) -> Vec<Action> {
        let State::Checking(hello) = &self.state else { return Vec::new() };
        let reads = match checked {
            Ok(reads) => reads,
            Err(reasons) => {
                let discard = format!("Refused: {}", reasons.join("; "));
                let mut actions = vec![Action::Send(Message::Refuse(Refuse { reasons }))];
                actions.extend(self.give_up(discard, false));
                return actions;
            }
        };
        let hello = hello.clone();
        let (session, channels) = (hello.session, hello.channels);
        let accept = Accept { channels, reads };
        self.step_began = now;
        self.state = State::Opening(hello);
        vec![Action::OpenChannels { session, channels }, Action::Send(Message::Accept(accept))]
    }

    fn channels_open(&mut self) -> Vec<Action> {
        if let State::Opening(hello) = &self.state {
            self.state = State::Receiving(hello.clone());
        } else if !self.channels_open_again() {
            return Vec::new();
        }
        vec![Action::Send(Message::ChannelsOpen)]
    }

    fn all_received(&mut self, now: Time, pages: PageCounts) -> Vec<Action> {
        let State::Receiving(_) = self.state else { return Vec::new() };
        self.received = Some(pages);
        self.load_if_whole(now)
    }

    /// How long the source may be silent while pages come. It does not ping while it makes a digest.
    fn patience(hello: &Hello) -> Duration {
        let bytes = hello.blocks.iter().fold(0_u64, |sum, block| sum.saturating_add(block.bytes));
        PEER_TIMEOUT + if hello.digest == Digest::Full { digest_time(bytes) } else { Duration::ZERO }
    }

    fn may_keep(&self, hello: &Hello, device: &DeviceState) -> Result<(), String> {
        let announced = hello.devices.iter().find(|info| info.id == device.id);
        let Some(info) = announced else {
            return Err(format!("State of device '{}' came, which the handshake did not name", device.id));
        };
        if info.kind != device.kind || !(info.oldest..=info.version).contains(&device.version) {
            return Err(format!(
                "State of device '{}' came as {} v{}, the handshake said {} v{} to v{}",
                device.id, device.kind, device.version, info.kind, info.oldest, info.version
            ));
        }
        if self.states.iter().any(|known| known.id == device.id) {
            return Err(format!("State of device '{}' came twice", device.id));
        }
        if self.state_bytes + device.body.len() > MAX_STATE_BYTES {
            return Err(format!("Device states are over {} MiB", MAX_STATE_BYTES >> 20));
        }
        Ok(())
    }

    /// Loads once both the word that everything was sent and everything itself are here.
    fn load_if_whole(&mut self, now: Time) -> Vec<Action> {
        let State::Receiving(hello) = &self.state else { return Vec::new() };
        let (Some(complete), Some(pages)) = (&self.complete, self.received) else { return Vec::new() };
        if pages != complete.pages {
            let reason = format!("{pages} arrived, {} were sent", complete.pages);
            return self.give_up(reason, true);
        }
        if self.states.len() != hello.devices.len() || complete.devices as usize != self.states.len() {
            let missing =
                hello.devices.iter().filter(|info| !self.states.iter().any(|state| state.id == info.id));
            let missing: Vec<_> = missing.map(|info| info.id.as_str()).collect();
            let reason = format!("The state of these devices did not arrive: {}", missing.join(", "));
            return self.give_up(reason, true);
        }
        self.run = complete.run;
        let to_come = complete.to_come.unwrap_or(0);
        self.pages = self.pages.loaded(to_come);
        self.channels = hello.channels;
        let (states, digest) = (std::mem::take(&mut self.states), complete.digest.clone());
        if self.step_began > now {
            self.step_began = now;
        }
        self.state = State::Loading;
        vec![Action::Load { to_come, states, digest }]
    }

    fn loaded(&mut self, now: Time) -> Vec<Action> {
        if self.state != State::Loading {
            return Vec::new();
        }
        self.side = self.side.ready();
        let took = now.saturating_sub(self.step_began);
        self.state = State::AwaitGo;
        self.step_began = now;
        vec![Action::Send(Message::Ready(ack(took)))]
    }

    fn go(&mut self, now: Time) -> Vec<Action> {
        self.side = self.side.go();
        if !self.side.may_run() {
            return Vec::new();
        }
        self.state = State::Starting;
        self.step_began = now;
        vec![Action::Run { run: self.run }]
    }

    fn started(&mut self, now: Time) -> Vec<Action> {
        if self.state != State::Starting {
            return Vec::new();
        }
        self.state = State::Running;
        let mut actions = vec![Action::Send(Message::Running(ack(now.saturating_sub(self.step_began))))];
        actions.extend(self.whole_already());
        actions
    }

    fn could_not_start(&mut self, reason: String) -> Vec<Action> {
        self.side = self.side.could_not_start();
        let mut actions = vec![Action::Send(Message::NotRunning { reason: reason.clone() })];
        actions.extend(self.give_up(reason, false));
        actions
    }

    /// Ends the attempt with nothing running here. After *go* there is no way back, and nothing changes.
    fn give_up(&mut self, reason: String, tell: bool) -> Vec<Action> {
        if self.side.may_run() || !self.is_busy() {
            return Vec::new();
        }
        if self.given_up.len() == MAX_GIVEN_UP {
            self.given_up.remove(0);
        }
        self.given_up.push(self.session);
        let given_up = std::mem::take(&mut self.given_up);
        // *Go* may be on its way. This answers it, should this side not be there any more when the source asks.
        let farewell = match self.state {
            State::AwaitGo => Message::NotRunning { reason: reason.clone() },
            _ => Message::Abort { reason: reason.clone() },
        };
        let touched = !matches!(self.state, State::Checking(_));
        *self = Self { given_up, ..Self::default() };
        let discard = Action::Discard { reason, touched };
        if tell { vec![Action::Send(farewell), discard] } else { vec![discard] }
    }

    fn tick(&mut self, now: Time) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        if self.state == State::Running {
            return self.part();
        }
        self.give_up(
            format!("The source has been silent while the destination was {}", self.state.name()),
            true,
        )
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Listening => "waiting for a source",
            Self::Checking(_) => "comparing the machines",
            Self::Opening(_) => "waiting for channels",
            Self::Receiving(_) => "receiving",
            Self::Loading => "loading device states",
            Self::AwaitGo => "ready and waiting for go",
            Self::Starting => "starting the machine",
            Self::Running => "running the machine",
            Self::Ended => "done",
        }
    }
}

fn ack(duration: Duration) -> Ack {
    Ack { nanoseconds: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) }
}
