//! The destination's process: the real state machine, and what the `engine` crate and the monitor do around it.

use std::{collections::VecDeque, sync::Arc};

use whimbrel_migration::{
    Destination, Time,
    destination::{Action, Event},
};
use wire::{Message, PageCounts};

use crate::{
    broken::Broken,
    network::Side,
    origin::count,
    words::{Packet, Pages, Word, few, pages, reads, session},
    world::{How, Lock, Model, World},
};

/// One life of the destination's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Arrival {
    /// All of it: time stands still but when something is late, and then the state machine begins anew.
    pub(crate) destination: Arc<Destination>,
    pub(crate) todo: VecDeque<Chore>,
    pub(crate) link: Option<usize>,
    pub(crate) channel: Option<Channel>,
    /// The session whose page channel may come.
    expected: Option<u8>,
    pub(crate) guest: There,
    /// It has its machine, and nobody listens any more.
    pub(crate) is_over: bool,
    /// The newest session that it was offered.
    pub(crate) knows: Option<u8>,
    /// Pages that are to follow, as was said.
    noted: Pages,
    /// Pages that the machine that is loaded or runs here waits for where it touches them.
    pub(crate) lacks: Pages,
    /// The last of them has come, which was not noticed yet.
    pub(crate) is_whole: bool,
    /// The machine has started anew while it lacked pages.
    pub(crate) has_forgotten: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Channel {
    pub(crate) link: usize,
    /// The last round is here, and the thread that read it is gone.
    pub(crate) done: bool,
}

/// What is of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum There {
    Nothing,
    Loaded,
    Running,
    Paused,
}

/// An action of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Chore {
    Check(u8),
    Say(Word),
    OpenChannels,
    Note(Pages),
    Load { to_come: u8 },
    Run { run: bool },
    Deliver,
    Part,
    List,
    Discard,
    End,
}

impl Arrival {
    pub(crate) fn new() -> Self {
        Self {
            destination: Arc::default(),
            todo: VecDeque::new(),
            link: None,
            channel: None,
            expected: None,
            guest: There::Nothing,
            is_over: false,
            knows: None,
            noted: 0,
            lacks: 0,
            is_whole: false,
            has_forgotten: false,
        }
    }

    /// Whether the machine is here: it runs, or an operator's word makes it run.
    pub(crate) fn has_the_machine(&self) -> bool {
        matches!(self.guest, There::Running | There::Paused)
    }

    /// Whether pages were to follow.
    pub(crate) fn was_lacking(&self) -> bool {
        self.noted != 0
    }

    /// Whether pages that follow are read: there is a machine that lacks some, or has just got the last.
    pub(crate) fn is_awaiting_pages(&self) -> bool {
        self.noted != 0 && self.guest != There::Nothing
    }

    /// Whether that is its page channel.
    pub(crate) fn is_on(&self, link: usize) -> bool {
        self.channel.is_some_and(|channel| channel.link == link)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.todo.is_empty() && !self.is_over
    }
}

impl Chore {
    fn of(action: &Action) -> Self {
        match action {
            Action::Check(hello) => match Word::of(&Message::Hello(hello.as_ref().clone())) {
                Word::Hello(session) => Self::Check(session),
                word => unreachable!("a hello is {word:?}"),
            },
            Action::Send(message) => Self::Say(Word::of(message)),
            Action::OpenChannels { .. } => Self::OpenChannels,
            Action::Note(bits) => Self::Note(pages(bits)),
            Action::Load { to_come, .. } => Self::Load { to_come: few(*to_come) },
            Action::Run { run } => Self::Run { run: *run },
            Action::Deliver(_) => Self::Deliver,
            Action::Part => Self::Part,
            Action::List => Self::List,
            Action::Discard { .. } => Self::Discard,
            Action::End => Self::End,
        }
    }

    /// Whether it touches nothing that others see, so that nothing can come between it and what was before.
    fn is_quiet(self) -> bool {
        matches!(
            self,
            Self::Say(_) | Self::OpenChannels | Self::Note(_) | Self::Deliver | Self::Part | Self::List
        )
    }
}

impl World {
    fn destination_handles(&mut self, model: &Model, event: Event) {
        self.destination_handles_at(model, Time::ZERO, event);
    }

    fn destination_handles_at(&mut self, model: &Model, now: Time, event: Event) {
        let Some(arrival) = &mut self.arrival else { return };
        let actions = Arc::make_mut(&mut arrival.destination).handle(now, event);
        arrival.todo.extend(actions.iter().map(Chore::of));
        self.do_chores_that_are_quiet(model);
    }

    fn do_chores_that_are_quiet(&mut self, model: &Model) {
        while let Some(arrival) = &mut self.arrival
            && let Some(chore) = arrival.todo.pop_front_if(|chore| chore.is_quiet())
        {
            match (chore, arrival.link) {
                // That nobody is there to hear a word comes out later, if at all.
                (Chore::Say(word), Some(link)) => {
                    self.network.send(link, Side::Destination, Packet::Word(word));
                }
                // Those of a machine that comes are taken in from the check on.
                (Chore::OpenChannels, _) if arrival.has_the_machine() => arrival.expected = arrival.knows,
                (Chore::Note(pages), _) => arrival.noted |= pages,
                (Chore::Deliver, _) => {
                    assert!(
                        arrival.has_the_machine(),
                        "what came for the machine is given to one that is not here"
                    );
                }
                (Chore::Part, _) => self.part(),
                (Chore::List, Some(link)) => {
                    let forgets = model.broken == Some(Broken::ForgetsWhatArrived);
                    let lacks = if forgets { arrival.noted } else { arrival.lacks };
                    if lacks != 0 {
                        self.network.send(link, Side::Destination, Packet::Word(Word::Missing(lacks)));
                    }
                    self.destination_handles(model, Event::Listed { missing: count(lacks).into() });
                }
                (Chore::List, None) => self.destination_handles(model, Event::LinkLost(String::new())),
                _ => {}
            }
        }
    }

    /// The time of the state machine is over.
    pub(crate) fn destination_ticks(&mut self, model: &Model) {
        let deadline = self.arrival.as_ref().and_then(|arrival| arrival.destination.deadline());
        if let Some(deadline) = deadline
            && model.broken != Some(Broken::WaitsOnWithoutALink)
        {
            self.destination_handles_at(model, deadline, Event::Tick);
        }
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.arrival.as_ref().is_some_and(|arrival| !arrival.is_over)
    }

    /// In which ways the next chore can go.
    pub(crate) fn ways_of_chore(&self, model: &Model) -> &'static [How] {
        let Some(arrival) = &self.arrival else { return &[] };
        let Some(chore) = arrival.todo.front() else { return &[] };
        match chore {
            Chore::Load { to_come } if count(arrival.noted) != *to_come => &[How::Fails],
            Chore::Load { .. } if model.locks && !self.lock.is_free_for(Side::Destination) => &[How::Fails],
            Chore::Check(_) | Chore::Load { .. } | Chore::Run { .. } => &[How::Well, How::Fails],
            Chore::Discard | Chore::End => &[How::Well],
            // They are done at once.
            Chore::Say(_)
            | Chore::OpenChannels
            | Chore::Note(_)
            | Chore::Deliver
            | Chore::Part
            | Chore::List => &[],
        }
    }

    /// Carries out the next chore, as the engine does.
    pub(crate) fn do_chore(&mut self, model: &Model, how: How) {
        let Some(arrival) = &mut self.arrival else { return };
        let Some(chore) = arrival.todo.pop_front() else { return };
        let well = how == How::Well;
        match chore {
            Chore::Check(session) => {
                arrival.knows = arrival.knows.max(Some(session));
                if well {
                    arrival.expected = Some(session);
                }
                let checked = if well { Ok(reads()) } else { Err(vec![String::new()]) };
                self.destination_handles(model, Event::Checked(checked));
            }
            Chore::Load { .. } if well => self.load(model),
            Chore::Run { run } if well => {
                arrival.guest = if run { There::Running } else { There::Paused };
                self.history.ran_there = true;
                self.destination_handles(model, Event::Started);
            }
            Chore::Load { .. } | Chore::Run { .. } => {
                let started = matches!(chore, Chore::Run { .. });
                if started && model.broken == Some(Broken::RanBeforeItFailedToStart) {
                    self.history.ran_there = true;
                }
                self.destination_handles(model, Event::MachineFailed(String::new()));
            }
            Chore::Discard => self.discard(model),
            Chore::End => {
                self.destination_disconnects(model);
                if let Some(arrival) = &mut self.arrival {
                    arrival.is_over = true;
                }
                // Whoever has connected finds the connection closed.
                self.network.close_all(Side::Destination);
            }
            Chore::Say(_)
            | Chore::OpenChannels
            | Chore::Note(_)
            | Chore::Deliver
            | Chore::Part
            | Chore::List => {}
        }
        self.do_chores_that_are_quiet(model);
    }

    fn load(&mut self, model: &Model) {
        let Some(arrival) = &mut self.arrival else { return };
        arrival.guest = There::Loaded;
        arrival.lacks = arrival.noted;
        if model.locks && model.broken != Some(Broken::LoadsWithoutTheLock) {
            self.lock = Lock::Held(Side::Destination);
        }
        self.destination_handles(model, Event::Loaded);
        if model.broken == Some(Broken::DoesNotWaitForGo) {
            self.destination_handles(model, Event::Message(Message::Go));
        }
    }

    fn discard(&mut self, model: &Model) {
        self.destination_disconnects(model);
        let Some(arrival) = &mut self.arrival else { return };
        arrival.guest = There::Nothing;
        (arrival.noted, arrival.lacks, arrival.is_whole) = (0, 0, false);
        if model.broken != Some(Broken::KeepsTheLock) {
            self.lock.release(Side::Destination);
        }
    }

    fn destination_disconnects(&mut self, model: &Model) {
        let Some(arrival) = &mut self.arrival else { return };
        arrival.expected = None;
        let late = |link| self.network.is_on_its_way(link, Side::Destination, Packet::Word(Word::Go));
        let hears_the_past = model.broken == Some(Broken::HearsThePast);
        let link = arrival.link.take().filter(|&link| !(hears_the_past && late(link)));
        let channel = arrival.channel.take().map(|channel| channel.link);
        for link in [link, channel].into_iter().flatten() {
            self.network.close(link, Side::Destination);
        }
    }

    /// Closes what leads to the source; what has come stays.
    fn part(&mut self) {
        let Some(arrival) = &mut self.arrival else { return };
        arrival.expected = None;
        let channel = arrival.channel.take().map(|channel| channel.link);
        for link in [arrival.link.take(), channel].into_iter().flatten() {
            self.network.close(link, Side::Destination);
        }
    }

    /// The first packet of a connection is looked at.
    pub(crate) fn visited(&mut self, model: &Model, link: usize) {
        self.network.introduce(link);
        let first = self.network.receive(link, Side::Destination);
        let Some(arrival) = &mut self.arrival else { return };
        match first {
            Some(Packet::Word(Word::Hello(session))) => {
                if arrival.destination.is_busy() {
                    self.network.send(link, Side::Destination, Packet::Word(Word::Refuse));
                    return self.network.close(link, Side::Destination);
                }
                arrival.link = Some(link);
                self.destination_handles(model, Event::Message(Word::Hello(session).message()));
            }
            Some(Packet::Word(Word::Ask(session))) => self.asked(model, link, session),
            Some(Packet::Channel(session)) => {
                if arrival.expected != Some(session) {
                    return self.network.close(link, Side::Destination);
                }
                // There is one of each number, even if it breaks.
                arrival.expected = None;
                arrival.channel = Some(Channel { link, done: false });
                self.destination_handles(model, Event::ChannelsOpen);
            }
            _ => self.network.close(link, Side::Destination),
        }
    }

    fn asked(&mut self, model: &Model, link: usize, number: u8) {
        let Some(arrival) = &mut self.arrival else { return };
        let current = arrival.destination.session() == session(number);
        let before = arrival.destination.clone();
        let (answer, actions) = Arc::make_mut(&mut arrival.destination).asked(Time::ZERO, session(number));
        let (mut answer, mut actions) = (Word::of(&answer), actions);
        match model.broken {
            Some(Broken::WaitsOnWhenAsked) if answer == Word::NotRunning => {
                arrival.destination = before;
                actions.clear();
            }
            Some(Broken::DeniesWhatItDoesNotKnow) if answer == Word::UnknownSession => {
                answer = Word::NotRunning;
            }
            Some(Broken::ForgetsWhatItGaveUp) if !current => answer = Word::UnknownSession,
            _ => {}
        }
        self.network.send(link, Side::Destination, Packet::Word(answer));
        arrival.todo.extend(actions.iter().map(Chore::of));
        if answer == Word::Running {
            // What the source says next is heard like on the link that was lost.
            self.part();
            if let Some(arrival) = &mut self.arrival {
                arrival.link = Some(link);
            }
        } else {
            self.network.close(link, Side::Destination);
        }
        self.do_chores_that_are_quiet(model);
    }

    /// Hears the next word on the control connection.
    pub(crate) fn destination_hears(&mut self, model: &Model, link: usize) {
        if let Some(Packet::Word(word)) = self.network.receive(link, Side::Destination) {
            self.destination_handles(model, Event::Message(word.message()));
        }
    }

    /// The last round has arrived.
    pub(crate) fn destination_has_all(&mut self, model: &Model) {
        let Some(channel) = self.arrival.as_mut().and_then(|arrival| arrival.channel.as_mut()) else {
            return;
        };
        channel.done = true;
        let link = channel.link;
        self.network.receive(link, Side::Destination);
        self.destination_handles(model, Event::AllReceived(PageCounts::default()));
    }

    /// A page has come that follows the machine.
    pub(crate) fn destination_takes_page(&mut self, model: &Model, link: usize) {
        let Some(Packet::Page(page)) = self.network.receive(link, Side::Destination) else { return };
        let Some(arrival) = &mut self.arrival else { return };
        if arrival.lacks & page == 0 {
            if model.broken == Some(Broken::TakesWhatItHas) {
                self.history.is_overwritten = true;
                return;
            }
            return self.destination_loses(model, link);
        }
        arrival.lacks &= !page;
        arrival.is_whole = arrival.lacks == 0 || model.broken == Some(Broken::SaysWholeTooEarly);
    }

    /// The last page has come.
    pub(crate) fn destination_is_whole(&mut self, model: &Model) {
        let Some(arrival) = &mut self.arrival else { return };
        arrival.is_whole = false;
        if model.broken == Some(Broken::SaysNothingOfAnEarlyWhole) && !arrival.has_the_machine() {
            return;
        }
        self.destination_handles(model, Event::Whole);
    }

    /// The machine starts anew: what it lacks is not needed any more. The source is told, and what is on its way is not taken.
    pub(crate) fn forget_pages(&mut self, model: &Model) {
        self.destination_handles(model, Event::Whole);
        let Some(arrival) = &mut self.arrival else { return };
        (arrival.lacks, arrival.is_whole, arrival.has_forgotten) = (0, false, true);
        if let Some(channel) = arrival.channel.take() {
            self.network.close(channel.link, Side::Destination);
        }
    }

    /// A connection broke at the destination, or its other end was closed.
    pub(crate) fn destination_loses(&mut self, model: &Model, link: usize) {
        self.network.close(link, Side::Destination);
        let Some(arrival) = &mut self.arrival else { return };
        let control = arrival.link.take_if(|control| *control == link).is_some();
        let channel = arrival.channel.take_if(|channel| channel.link == link).is_some();
        if (control || channel) && model.broken != Some(Broken::WaitsOnWithoutALink) {
            self.destination_handles(model, Event::LinkLost(String::new()));
        }
    }

    pub(crate) fn cancel_at_destination(&mut self, model: &Model) {
        self.destination_handles(model, Event::Cancel);
    }
}
