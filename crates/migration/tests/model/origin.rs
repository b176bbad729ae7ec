//! The source's process: the real state machine, and what the `engine` crate and the monitor do around it.

use std::collections::VecDeque;

use whimbrel_migration::{Status, custody::SourcePages, handover::SourceSide, source::State};

use crate::{
    arrival::Arrival,
    broken::Broken,
    network::Side,
    source::{Duty, Ending, Input, Real},
    words::{Packet, Pages, Word, few},
    world::{How, Lock, Model, World},
};

/// One life of the source's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) guest: Guest,
    /// Time is taken from its vCPUs.
    pub(crate) is_slowed: bool,
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
    /// Pages that follow the machine, and that nobody has taken to send them.
    pub(crate) needed: Pages,
    /// Those that the destination says it lacks, on this control connection.
    pub(crate) listed: Option<Pages>,
    /// All that is needed is being sent, asked for or not.
    pub(crate) pushes: bool,
}

impl Origin {
    pub(crate) fn new(guest: Guest) -> Self {
        Self { guest, is_slowed: false, attempt: None, last: None }
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
    /// Whether the end of the channel is noticed. Where pages may follow, there is always somebody who waits for requests.
    pub(crate) fn is_watched(&self, model: &Model) -> bool {
        self.round.is_some()
            || model.postcopy.is_possible()
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
        self.history.partings = 0;
        let (source, todo) = Real::start(self.sessions, model);
        let attempt = Attempt {
            session: self.sessions,
            source,
            todo: todo.into(),
            control: None,
            channel: None,
            dialling: false,
            round: None,
            needed: 0,
            listed: None,
            pushes: false,
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
            (Some(Broken::CancelsWithPagesMissing), Input::Cancel)
                if attempt.source.pages() == SourcePages::Needed =>
            {
                Input::Word(Word::Whole)
            }
            (Some(Broken::DoesNotLookForIt), Input::Tick)
                if matches!(attempt.source.state(), State::Parted { .. }) =>
            {
                return;
            }
            (_, input) => input,
        };
        let is_parted = |attempt: &Attempt| matches!(attempt.source.state(), State::Parted { .. });
        let was_parted = is_parted(attempt);
        let before = (attempt.source.view(), attempt.session, input);
        let duties = attempt.source.handle(input);
        let after = (attempt.source.view(), duties);
        model.has_decided(&before, &after);
        let goes_on = !after.1.iter().any(|duty| matches!(duty, Duty::End(_)));
        let is_broken = model.broken == Some(Broken::SlowsAMachineThatStays);
        let is_done = |duty: &Duty| goes_on || !is_broken || *duty != Duty::Throttle { on: false };
        attempt.todo.extend(after.1.into_iter().filter(is_done));
        if is_parted(attempt) && !was_parted {
            self.history.partings = (self.history.partings + 1).min(model.partings);
        }
        self.do_what_is_quiet();
        if model.broken == Some(Broken::EndsWithPagesMissing) && input == Input::Word(Word::Running) {
            self.source_handles(model, Input::Word(Word::Whole));
        }
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
                Duty::Throttle { on } => {
                    if let Some(origin) = &mut self.origin {
                        origin.is_slowed = on;
                    }
                }
                // It may be over at any time.
                Duty::CutRound => {}
                Duty::Needed(pages) => attempt.listed = Some(attempt.listed.unwrap_or(0) | pages),
                Duty::Push => attempt.pushes = true,
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
            Duty::Prepare | Duty::Reopen if !can_connect => &[How::Fails],
            Duty::Divide => &[How::Well, How::Fails, How::Otherwise],
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
            Duty::Reopen if well => self.reopen(model),
            Duty::Prepare | Duty::Reopen => self.source_handles(model, Input::LinkLost),
            Duty::Divide if how != How::Fails => {
                self.divide(model, if well { model.all_pages() } else { 0 });
            }
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
            Duty::Stop | Duty::Divide | Duty::SaveDevices => self.source_handles(model, Input::MachineFailed),
            Duty::Resume { run } => self.resume(model, run, how),
            Duty::End(ending) => self.end(ending),
            Duty::Connect
            | Duty::Say(_)
            | Duty::SendRound { .. }
            | Duty::Throttle { .. }
            | Duty::CutRound
            | Duty::Needed(_)
            | Duty::Push
            | Duty::Disconnect => {}
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

    /// These pages will follow the machine.
    fn divide(&mut self, model: &Model, pages: Pages) {
        let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) else { return };
        (attempt.needed, attempt.round) = (pages, Some(true));
        if let Some(control) = attempt.control.filter(|_| pages != 0) {
            self.network.send(control, Side::Source, Packet::Word(Word::Missing(pages)));
        }
        self.source_handles(model, Input::Divided { to_come: count(pages) });
    }

    fn reopen(&mut self, model: &Model) {
        let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) else { return };
        let (old, listed) = (attempt.channel.take(), attempt.listed.take());
        if let Some(old) = old {
            self.network.close(old, Side::Source);
        }
        let Some(listed) = listed else { return self.source_handles(model, Input::LinkLost) };
        if let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) {
            let sent = if model.broken == Some(Broken::CountsOnWhatItSent) { !attempt.needed } else { 0 };
            attempt.needed = listed & !sent;
        }
        self.prepare(model);
    }

    /// Whether a page that follows can be sent: pushed, or because the machine waits for it.
    pub(crate) fn can_send_a_page(&self) -> bool {
        let Some(attempt) = self.origin.as_ref().and_then(|origin| origin.attempt.as_ref()) else {
            return false;
        };
        let Some(channel) = attempt.channel.filter(|_| attempt.needed != 0) else { return false };
        let is_asked = |arrival: &Arrival| arrival.lacks != 0 && arrival.is_on(channel);
        attempt.pushes || self.arrival.as_ref().is_some_and(is_asked)
    }

    pub(crate) fn send_a_page(&mut self) {
        let Some(attempt) = self.origin.as_mut().and_then(|origin| origin.attempt.as_mut()) else { return };
        let page = attempt.needed & attempt.needed.wrapping_neg();
        attempt.needed &= !page;
        if let Some(channel) = attempt.channel {
            self.network.send(channel, Side::Source, Packet::Page(page));
        }
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
        (attempt.round, attempt.listed, attempt.pushes) = (None, None, false);
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

pub(crate) fn count(pages: Pages) -> u8 {
    few(pages.count_ones().into())
}
