//! The source's process: the real state machine, and what the `engine` crate and the monitor do around it.

use std::collections::VecDeque;

use whimbrel_migration::{Status, handover::SourceSide, source::State};

use crate::{
    broken::Broken,
    network::Side,
    source::{Duty, Ending, Input, Real},
    words::{Packet, Word},
    world::{How, Lock, Model, World},
};

/// One life of the source's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) guest: Guest,
    pub(crate) attempt: Option<Attempt>,
    /// How the last attempt ended.
    pub(crate) last: Option<Ending>,
}

/// The machine, as the monitor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Guest {
    Running,
    /// An operator may say that it shall run.
    Paused,
    /// For the end of a migration: no operator can make it run.
    Stopped,
    /// It is at the destination.
    Gone,
}

/// What the migration thread owns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) session: u8,
    pub(crate) source: Real,
    pub(crate) todo: VecDeque<Duty>,
    pub(crate) control: Option<usize>,
    pub(crate) channel: Option<usize>,
    pub(crate) dialling: bool,
    /// The round under way: whether it is the last.
    pub(crate) round: Option<bool>,
}

impl Origin {
    pub(crate) fn new(guest: Guest) -> Self {
        Self { guest, attempt: None, last: None }
    }

    /// Whether the machine is here: it runs, or an operator's word makes it run.
    pub(crate) fn has_the_machine(&self) -> bool {
        matches!(self.guest, Guest::Running | Guest::Paused)
    }

    /// Whether the migration's end is unknown, and the machine waits for an answer.
    pub(crate) fn is_unknown(&self) -> bool {
        self.is_idle()
            && self.attempt.as_ref().is_some_and(|attempt| attempt.source.status() == Status::Unknown)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.todo.is_empty())
    }
}

impl Attempt {
    /// Whether the channel is still needed.
    pub(crate) fn is_sending(&self) -> bool {
        self.round.is_some()
            || !matches!(
                self.source.state(),
                State::LastPass { pages: Some(_), .. } | State::AwaitReady(_) | State::AwaitRunning(_)
            )
    }
}

impl World {
    /// An operator starts a migration.
    pub(crate) fn start(&mut self, model: &Model) {
        self.sessions += 1;
        self.history.goes = 0;
        self.history.is_forgotten = false;
        let (source, todo) = Real::start(self.sessions, model.asks_before_switchover);
        let attempt = Attempt {
            session: self.sessions,
            source,
            todo: todo.into(),
            control: None,
            channel: None,
            dialling: false,
            round: None,
        };
        if let Some(origin) = &mut self.origin {
            origin.attempt = Some(attempt);
        }
        self.do_what_is_quiet();
    }

    /// Gives the state machine an event, and notes what it answers.
    pub(crate) fn source_handles(&mut self, model: &Model, input: Input) {
        let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) else { return };
        let committed = attempt.source.side() == SourceSide::Committed;
        let no = Input::Word(Word::NotRunning);
        let input = match (model.broken, input) {
            (Some(Broken::TakesSilenceForNo), Input::Tick)
                if matches!(attempt.source.state(), State::AwaitRunning(_)) =>
            {
                no
            }
            (Some(Broken::TakesABrokenLinkForNo), Input::LinkLost)
                if matches!(attempt.source.state(), State::AwaitRunning(_)) =>
            {
                no
            }
            (Some(Broken::CancelsAfterGo), Input::Cancel) if committed => no,
            (Some(Broken::DoesNotAsk), Input::Tick)
                if matches!(attempt.source.state(), State::Unknown { .. }) =>
            {
                return;
            }
            (Some(Broken::DoesNotHearAFarewell), Input::Word(Word::Abort | Word::NotRunning))
                if matches!(attempt.source.state(), State::AwaitRunning(_)) =>
            {
                return;
            }
            (Some(Broken::SaysGoAgain), Input::Tick)
                if matches!(attempt.source.state(), State::AwaitRunning(_)) && self.history.goes == 1 =>
            {
                attempt.todo.push_back(Duty::Say(Word::Go));
                return self.do_what_is_quiet();
            }
            (_, input) => input,
        };
        let before = (attempt.source.view(), attempt.session, input);
        let duties = attempt.source.handle(input);
        let after = (attempt.source.view(), duties);
        model.has_decided(&before, &after);
        attempt.todo.extend(after.1);
        self.do_what_is_quiet();
    }

    fn do_what_is_quiet(&mut self) {
        while let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut())
            && let Some(duty) = attempt.todo.pop_front_if(|duty| duty.is_quiet())
        {
            match duty {
                Duty::Connect => attempt.dialling = true,
                Duty::Say(word) => {
                    // That nobody is there to hear it comes out later, if at all.
                    if let Some(control) = attempt.control {
                        self.say_as_source(control, word);
                    }
                }
                Duty::SendRound { last } => attempt.round = Some(last),
                _ => self.source_disconnects(),
            }
        }
    }

    /// In which ways the next duty can go.
    pub(crate) fn ways_of_duty(&self, model: &Model) -> &'static [How] {
        let Some(attempt) = self.origin.as_ref().and_then(|origin| origin.attempt.as_ref()) else {
            return &[];
        };
        let Some(duty) = attempt.todo.front() else { return &[] };
        let can_connect = self.is_listening() && self.network.has_room();
        let guest = self.origin.as_ref().map(|origin| origin.guest);
        match duty {
            Duty::Prepare if !can_connect => &[How::Fails],
            Duty::FetchDirty => match attempt.source.state() {
                State::Fetching(rounds) if rounds.round < model.rounds => {
                    &[How::Well, How::Fails, How::Otherwise]
                }
                _ => &[How::Well, How::Fails],
            },
            Duty::Resume { .. } if guest != Some(Guest::Stopped) || !model.locks => &[How::Well],
            Duty::Resume { .. } if self.lock.is_free_for(Side::Source) => {
                &[How::Well, How::Fails, How::Otherwise]
            }
            Duty::Resume { .. } if model.broken == Some(Broken::ResumesWithoutTheLock) => &[How::Well],
            Duty::Resume { .. } => &[How::Fails, How::Otherwise],
            Duty::End(_) => &[How::Well],
            _ => &[How::Well, How::Fails],
        }
    }

    /// Carries out the next duty, as the engine does.
    pub(crate) fn do_duty(&mut self, model: &Model, how: How) {
        let Some(origin) = &mut self.origin else { return };
        let Some(attempt) = &mut origin.attempt else { return };
        let Some(duty) = attempt.todo.pop_front() else { return };
        let well = how == How::Well;
        match duty {
            Duty::Prepare if well => self.prepare(model),
            Duty::Prepare => self.source_handles(model, Input::LinkLost),
            Duty::FetchDirty => {
                let input = match how {
                    How::Well => Input::Fetched { clean: true },
                    How::Otherwise => Input::Fetched { clean: false },
                    How::Fails => Input::MachineFailed,
                };
                self.source_handles(model, input);
            }
            Duty::Stop if well => {
                let was_running = origin.guest == Guest::Running;
                origin.guest = Guest::Stopped;
                self.source_handles(model, Input::Stopped { was_running });
            }
            Duty::SaveDevices if well => {
                if let Some(control) = attempt.control {
                    self.network.send(control, Side::Source, Packet::Word(Word::Device));
                }
                self.lock.release(Side::Source);
                self.source_handles(model, Input::Saved);
            }
            Duty::Stop | Duty::SaveDevices => self.source_handles(model, Input::MachineFailed),
            Duty::Resume { run } => self.resume(model, run, how),
            Duty::End(ending) => self.end(ending),
            Duty::Connect | Duty::Say(_) | Duty::SendRound { .. } | Duty::Disconnect => {}
        }
        self.do_what_is_quiet();
    }

    fn say_as_source(&mut self, control: usize, word: Word) {
        if word == Word::Go {
            self.history.goes += 1;
        }
        self.network.send(control, Side::Source, Packet::Word(word));
    }

    fn prepare(&mut self, model: &Model) {
        let Some(channel) = self.network.open() else { return };
        if let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) {
            self.network.send(channel, Side::Source, Packet::Channel(attempt.session));
            attempt.channel = Some(channel);
        }
        self.source_handles(model, Input::Prepared);
    }

    /// All pages of the round are sent.
    pub(crate) fn finish_round(&mut self, model: &Model) {
        let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) else { return };
        let last = attempt.round.take();
        if let (Some(true), Some(channel)) = (last, attempt.channel) {
            self.network.send(channel, Side::Source, Packet::LastRound);
        }
        self.source_handles(model, Input::RoundSent);
    }

    fn resume(&mut self, model: &Model, run: bool, how: How) {
        self.source_disconnects();
        let Some(origin) = &mut self.origin else { return };
        if origin.guest == Guest::Stopped {
            if model.broken == Some(Broken::IsPausedBeforeItHasTheLock) {
                origin.guest = Guest::Paused;
            }
            match how {
                How::Well => {}
                How::Fails => return self.source_handles(model, Input::CannotResumeYet),
                How::Otherwise => return self.source_handles(model, Input::CannotResumeForLong),
            }
            if model.locks && model.broken != Some(Broken::ResumesWithoutTheLock) {
                self.lock = Lock::Held(Side::Source);
            }
            origin.guest = if run { Guest::Running } else { Guest::Paused };
        }
        self.source_handles(model, Input::Resumed);
    }

    fn end(&mut self, ending: Ending) {
        self.source_disconnects();
        let Some(origin) = &mut self.origin else { return };
        origin.attempt = None;
        origin.last = Some(ending);
        if ending != Ending::Completed {
            self.history.is_forgotten = false;
        }
        match ending {
            Ending::Completed => origin.guest = Guest::Gone,
            // It could not have its disk for long: from here on that is up to the operator.
            _ if origin.guest == Guest::Stopped => {
                origin.guest = Guest::Paused;
                self.history.paused = true;
            }
            _ => {}
        }
    }

    /// A connection of the source broke, or its other end was closed.
    pub(crate) fn source_loses(&mut self, model: &Model, link: usize) {
        self.close_at_source(link);
        if let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) {
            for owned in [&mut attempt.control, &mut attempt.channel] {
                owned.take_if(|owned| *owned == link);
            }
        }
        self.source_handles(model, Input::LinkLost);
    }

    pub(crate) fn source_hears(&mut self, model: &Model) {
        let Some(attempt) = self.origin.as_ref().and_then(|origin| origin.attempt.as_ref()) else { return };
        let Some(control) = attempt.control else { return };
        if let Some(Packet::Word(word)) = self.network.receive(control, Side::Source) {
            self.source_handles(model, Input::Word(word));
        }
    }

    pub(crate) fn dialled(&mut self, model: &Model, well: bool) {
        let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) else { return };
        attempt.dialling = false;
        if !well {
            return self.source_handles(model, Input::LinkLost);
        }
        attempt.control = self.network.open();
        self.source_handles(model, Input::Connected);
    }

    fn source_disconnects(&mut self) {
        let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) else { return };
        attempt.dialling = false;
        attempt.round = None;
        for link in [attempt.control.take(), attempt.channel.take()].into_iter().flatten() {
            self.close_at_source(link);
        }
    }

    fn close_at_source(&mut self, link: usize) {
        let attempt = self.origin.as_ref().and_then(|origin| origin.attempt.as_ref());
        let committed = attempt.is_some_and(|attempt| attempt.source.side() == SourceSide::Committed);
        if committed && self.is_farewell_on(link) {
            self.history.is_forgotten = true;
        }
        self.network.close(link, Side::Source);
    }

    /// Whether the destination's last word on the session is on its way to the source.
    pub(crate) fn is_farewell_on(&self, link: usize) -> bool {
        let is_coming = |word| self.network.is_on_its_way(link, Side::Source, Packet::Word(word));
        is_coming(Word::Abort) || is_coming(Word::NotRunning)
    }
}
