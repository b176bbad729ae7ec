//! The real state machine of the source, seen as what decides: without times and figures.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use whimbrel_migration::{
    FixedCosts, Outcome, Params, Source, Status, Steps, Throttling, Time,
    custody::SourcePages,
    handover::SourceSide,
    source::{Action, Event, LastPages, Rounds, State, Stop, Verdict},
};

use wire::PageCounts;

use crate::{
    words::{Pages, Word, greeted, hello, pages},
    world::Model,
};

/// One step, after which nothing more is taken: another share would be another world.
const STEP: Throttling =
    Throttling::Steps(Steps { initial: 20, increment: 10, max: 20, tailslow: false, trigger: 50 });

/// Longer than anything waits.
const LONG: Duration = Duration::from_secs(1_000_000);

/// An action of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Duty {
    Connect,
    Say(Word),
    Prepare,
    SendRound { last: bool },
    CutRound,
    Throttle { on: bool },
    FetchDirty,
    Stop,
    Divide,
    SaveDevices,
    Resume { run: bool },
    Disconnect,
    Needed(Pages),
    Reopen,
    Push,
    End(Ending),
}

/// An outcome without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    Completed,
    Cancelled,
    Failed,
}

/// An event for the state machine, at a time at which it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    Connected,
    Word(Word),
    Prepared,
    RoundSent,
    Fetched {
        clean: bool,
    },
    Stopped {
        was_running: bool,
    },
    Divided {
        to_come: u8,
    },
    Saved,
    MachineFailed,
    Resumed,
    CannotResumeYet,
    CannotResumeForLong,
    LinkLost,
    Cancel,
    Continue,
    StartPostcopy,
    Pause,
    Recover,
    Decided(Verdict),
    /// The next deadline is over.
    Tick,
    /// Nothing was heard for long, pings or not.
    Silence,
}

/// The real state machine. Two count as the same that will decide the same: times and figures are left out, and
/// [`Model::has_decided`] watches that they decide nothing.
#[derive(Clone)]
pub(crate) struct Real(Arc<Source>);

/// What decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    state: State,
    side: SourceSide,
    ending: Option<Ending>,
    pages: SourcePages,
    wants_postcopy: bool,
    /// Time is taken from vCPUs.
    throttles: bool,
    /// Rounds that count against the machine.
    strikes: u8,
}

impl Real {
    pub(crate) fn start(session: u8, model: &Model) -> (Self, Vec<Duty>) {
        let params = Params::default()
            .channels(1)
            .pause_before_switchover(model.asks_before_switchover)
            .postcopy(model.postcopy)
            .throttling(if model.throttles { STEP } else { Throttling::Off });
        let (source, actions) = Source::start(params, hello(session), FixedCosts::default());
        (Self(Arc::new(source)), actions.iter().map(Duty::of).collect())
    }

    pub(crate) fn view(&self) -> View {
        let state = without_figures(self.0.state());
        View {
            state,
            side: self.0.side(),
            ending: self.0.outcome().map(Ending::of),
            pages: self.0.pages(),
            wants_postcopy: self.0.wants_postcopy(),
            throttles: self.0.throttle().share() > 0.0,
            strikes: self.0.throttle().strikes(),
        }
    }

    pub(crate) fn state(&self) -> &State {
        self.0.state()
    }

    pub(crate) fn pages(&self) -> SourcePages {
        self.0.pages()
    }

    pub(crate) fn side(&self) -> SourceSide {
        self.0.side()
    }

    pub(crate) fn status(&self) -> Status {
        self.0.status()
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        self.view().ending
    }

    pub(crate) fn wants_postcopy(&self) -> bool {
        self.0.wants_postcopy()
    }

    pub(crate) fn has_deadline(&self) -> bool {
        self.0.deadline().is_some()
    }

    /// Whether a deadline that is over brings a ping, and only silence an end.
    pub(crate) fn pings(&self) -> bool {
        matches!(
            self.state(),
            State::Sending { .. }
                | State::Fetching { .. }
                | State::PreSwitchover { .. }
                | State::Stopping { .. }
                | State::LastFetch { .. }
                | State::LastPass { .. }
                | State::AwaitReady(_)
                | State::Pushing(_)
        )
    }

    pub(crate) fn handle(&mut self, input: Input) -> Vec<Duty> {
        let deadline = self.0.deadline().unwrap_or_default();
        // Time stands still until something is late.
        let (now, event) = match input {
            Input::Tick => (deadline, Event::Tick),
            Input::Silence => (deadline + LONG, Event::Tick),
            Input::CannotResumeForLong => (3 * LONG, Event::Resumed(Err(String::new()))),
            input => (Time::ZERO, input.event()),
        };
        let actions = Arc::make_mut(&mut self.0).handle(now, event);
        actions.iter().map(Duty::of).collect()
    }
}

/// A state, with nothing in it that is not for the decisions that the model is about.
fn without_figures(state: &State) -> State {
    let rounds = |rounds: &Rounds| Rounds { extra: 0, ..*rounds };
    let stop =
        |stop: &Stop| Stop { began: Time::ZERO, waited: Duration::ZERO, limit: Duration::ZERO, ..*stop };
    match state {
        State::Connecting => State::Connecting,
        State::Handshake => State::Handshake,
        State::Preparing { prepared, open } => State::Preparing { prepared: *prepared, open: *open },
        State::Sending(sent) => State::Sending(rounds(sent)),
        State::Fetching(sent) => State::Fetching(rounds(sent)),
        State::Resting { rounds: next, .. } => State::Resting { rounds: rounds(next), until: Time::ZERO },
        State::Stopping(order) => State::Stopping(stop(order)),
        State::PreSwitchover(order) => State::PreSwitchover(stop(order)),
        State::LastFetch(order) => State::LastFetch(stop(order)),
        State::LastPass { stop: order, pages, devices, to_come } => {
            let pages = pages.as_ref().map(|_| LastPages { digest: None });
            State::LastPass { stop: stop(order), pages, devices: *devices, to_come: *to_come }
        }
        State::AwaitReady(order) => State::AwaitReady(stop(order)),
        State::AwaitRunning(order) => State::AwaitRunning(stop(order)),
        State::Unknown { stop: order, .. } => State::Unknown { stop: stop(order), ask_at: Time::ZERO },
        State::Reconnecting(order) => State::Reconnecting(stop(order)),
        State::Asking { stop: order, .. } => State::Asking { stop: stop(order), until: Time::ZERO },
        State::Pushing(order) => State::Pushing(stop(order)),
        State::Parted { stop: order, retry_at, .. } => {
            State::Parted { stop: stop(order), retry_at: retry_at.map(|_| Time::ZERO), tries: 0 }
        }
        State::Recovering { stop: order, step, .. } => {
            State::Recovering { stop: stop(order), step: *step, tries: 0 }
        }
        // How it ends is compared without the reason.
        State::Resuming { run, retry_at, .. } => {
            let retry_at = retry_at.map(|_| Time::ZERO);
            State::Resuming { run: *run, outcome: Outcome::Cancelled, retry_at }
        }
        State::Ended(_) => State::Ended(Outcome::Cancelled),
    }
}

impl fmt::Debug for Real {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(formatter)
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.view() == other.view()
    }
}

impl Eq for Real {}

impl Hash for Real {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.view().hash(hasher);
    }
}

impl Duty {
    fn of(action: &Action) -> Self {
        match action {
            Action::Connect(_) => Self::Connect,
            Action::Send(message) => Self::Say(Word::of(message)),
            Action::Prepare { .. } => Self::Prepare,
            Action::SendRound { last, .. } => Self::SendRound { last: *last },
            Action::Throttle { share } => Self::Throttle { on: *share > 0.0 },
            Action::Limit(limit) => Self::Throttle { on: limit.is_some() },
            Action::FetchDirty => Self::FetchDirty,
            Action::Stop => Self::Stop,
            Action::SaveDevices => Self::SaveDevices,
            Action::Resume { run } => Self::Resume { run: *run },
            Action::Disconnect => Self::Disconnect,
            Action::CutRound => Self::CutRound,
            Action::Divide { .. } => Self::Divide,
            Action::Needed(bits) => Self::Needed(pages(bits)),
            Action::Reopen { .. } => Self::Reopen,
            Action::Forward => Self::Say(Word::Forward),
            Action::Push => Self::Push,
            Action::End(outcome) => Self::End(Ending::of(outcome)),
        }
    }

    /// Whether it touches nothing that others see, so that nothing can come between it and what was before.
    pub(crate) fn is_quiet(self) -> bool {
        match self {
            Self::Connect
            | Self::Say(_)
            | Self::SendRound { .. }
            | Self::Throttle { .. }
            | Self::CutRound
            | Self::Disconnect
            | Self::Needed(_)
            | Self::Push => true,
            Self::Prepare
            | Self::FetchDirty
            | Self::Stop
            | Self::Divide
            | Self::SaveDevices
            | Self::Resume { .. }
            | Self::Reopen
            | Self::End(_) => false,
        }
    }
}

impl Ending {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Failed(_) => Self::Failed,
        }
    }
}

impl Input {
    fn event(self) -> Event {
        match self {
            Self::Connected => Event::Connected(greeted()),
            Self::Word(word) => Event::Message(word.message()),
            Self::Prepared => Event::Prepared,
            Self::RoundSent => Event::RoundSent { bytes: 0, pages: PageCounts::default(), digest: None },
            Self::Fetched { clean } => Event::DirtyFetched { pages: u64::from(!clean), running: true },
            Self::Stopped { was_running } => Event::Stopped { was_running },
            Self::Divided { to_come } => Event::Divided { to_come: to_come.into() },
            Self::Saved => Event::Saved { devices: 1 },
            Self::MachineFailed => Event::MachineFailed(String::new()),
            Self::Resumed => Event::Resumed(Ok(())),
            Self::CannotResumeYet | Self::CannotResumeForLong => Event::Resumed(Err(String::new())),
            Self::LinkLost => Event::LinkLost(String::new()),
            Self::Cancel => Event::Cancel,
            Self::Continue => Event::Continue,
            Self::StartPostcopy => Event::StartPostcopy,
            Self::Pause => Event::Pause,
            Self::Recover => Event::Recover,
            Self::Decided(verdict) => Event::Decided(verdict),
            Self::Tick | Self::Silence => Event::Tick,
        }
    }
}
