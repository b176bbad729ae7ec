//! The destination's process: the thread that carries out what its state machine answers, and the channels that place
//! pages. It keeps to the ways of the `engine` crate.

use std::{collections::VecDeque, time::Duration};

use whimbrel_migration::{
    Destination,
    destination::{Action, Event},
    handover::DestinationSide,
};
use wire::{Hello, Message, PageCounts, Refuse, SessionId};

use crate::{
    network::{Frame, Packet},
    plan::{Call, Moment, Side},
    source::{Guest, devices, hash},
    world::{What, World},
};

/// One life of the destination's process.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) alive: bool,
    pub(crate) life: u32,
    began: Duration,
    pub(crate) state: Destination,
    number: u32,
    link: Option<usize>,
    /// Whether messages on the link are read yet, and for which attempt.
    reading: Option<u32>,
    incoming: Option<Incoming>,
    todo: VecDeque<Action>,
    busy: Option<(Duration, Effect)>,
    inbox: VecDeque<Input>,
    /// What arrived on links that nobody reads yet.
    unread: Vec<(usize, Packet)>,
    /// Links whose first frame was seen.
    introduced: Vec<usize>,
    pub(crate) memory: Vec<u64>,
    pub(crate) guest: Guest,
    pub(crate) frozen_until: Duration,
    /// When it took the lock of the disk.
    pub(crate) locked_at: Duration,
    loaded: bool,
}

/// The page channels of an attempt.
#[derive(Debug)]
struct Incoming {
    hello: Box<Hello>,
    channels: Vec<Channel>,
    done: u16,
    raw: u64,
    zero: u64,
}

#[derive(Debug)]
struct Channel {
    link: usize,
    index: u16,
    queue: VecDeque<Packet>,
    round: u32,
    /// At the end of its round, which is the last one or not.
    waits: Option<bool>,
    done: bool,
    raw: u64,
    zero: u64,
}

#[derive(Debug)]
enum Input {
    Source(usize, Box<Hello>),
    Channel(usize, SessionId, u16),
    Question(usize, SessionId),
    Heard(u32, Result<Message, String>),
    ChannelDone(u32, Result<(), String>),
    Cancel,
}

/// What becomes true when the thread is no longer busy.
#[derive(Debug)]
enum Effect {
    Event(Event),
    Loaded,
    Started { run: bool },
    Discarded,
}

impl Arrival {
    pub(crate) fn new(now: Duration, life: u32, pages: usize) -> Self {
        Self {
            alive: true,
            life,
            began: now,
            state: Destination::default(),
            number: 0,
            link: None,
            reading: None,
            incoming: None,
            todo: VecDeque::new(),
            busy: None,
            inbox: VecDeque::new(),
            unread: Vec::new(),
            introduced: Vec::new(),
            memory: vec![0; pages],
            guest: Guest::Absent,
            frozen_until: Duration::ZERO,
            locked_at: Duration::ZERO,
            loaded: false,
        }
    }
}

impl World {
    pub(crate) fn destination_receives(&mut self, link: usize, packet: Packet) {
        let arrival = &mut self.arrival;
        let input = if arrival.link == Some(link)
            && let Some(number) = arrival.reading
        {
            Input::Heard(number, heard(packet))
        } else if let Some(incoming) = &mut arrival.incoming
            && let Some(channel) = incoming.channels.iter_mut().find(|channel| channel.link == link)
        {
            channel.queue.push_back(packet);
            return self.place();
        } else if arrival.introduced.contains(&link) {
            return arrival.unread.push((link, packet));
        } else {
            arrival.introduced.push(link);
            match packet {
                Packet::Message(Message::Hello(hello)) => Input::Source(link, Box::new(hello)),
                Packet::Message(Message::Ask { session }) => Input::Question(link, session),
                Packet::Frame(Frame::Hello { session, index }) => Input::Channel(link, session, index),
                _ => return self.close(link, Side::Destination),
            }
        };
        self.destination_input(input);
    }

    pub(crate) fn cancel_at_destination(&mut self) {
        self.destination_input(Input::Cancel);
    }

    fn destination_input(&mut self, input: Input) {
        if self.arrival.alive {
            self.arrival.inbox.push_back(input);
            self.at(self.now, What::Wake(Side::Destination));
        }
    }

    /// Runs the migration thread until it has nothing to do.
    pub(crate) fn run_destination(&mut self) {
        while self.arrival.alive && self.now >= self.arrival.frozen_until {
            match self.arrival.busy.take() {
                Some((until, effect)) if until > self.now => {
                    self.arrival.busy = Some((until, effect));
                    return;
                }
                Some((_, effect)) => self.takes_effect(effect),
                None => {
                    let Some(action) = self.arrival.todo.pop_front() else {
                        if self.destination_idles() {
                            return;
                        }
                        continue;
                    };
                    if !self.strikes(Side::Destination, Moment::Does(name_of(&action))) {
                        self.carry_out_at_destination(action);
                    }
                }
            }
        }
    }

    fn takes_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Event(event) => self.destination_handles(event),
            Effect::Loaded => {
                if self.lock == Some(Side::Source) {
                    return self.destination_handles(Event::MachineFailed("the disk is in use".into()));
                }
                self.lock = Some(Side::Destination);
                self.arrival.locked_at = self.now;
                self.arrival.loaded = true;
                self.destination_handles(Event::Loaded);
            }
            Effect::Started { run } => {
                if !self.arrival.loaded {
                    self.violated = Some("a machine runs that was not loaded".into());
                }
                if self.arrival.memory != self.origin.pages {
                    self.violated = Some(format!(
                        "memory differs: {:?} at the destination, {:?} at the source",
                        self.arrival.memory, self.origin.pages
                    ));
                }
                self.ran_there = true;
                self.arrival.guest = if run { Guest::Running } else { Guest::Paused };
                self.destination_handles(Event::Started);
            }
            Effect::Discarded => {
                self.arrival.memory.fill(0);
                self.arrival.loaded = false;
                if self.lock == Some(Side::Destination) {
                    self.lock = None;
                }
            }
        }
    }

    fn destination_handles(&mut self, event: Event) {
        if let Event::Message(message) = &event
            && self.strikes(Side::Destination, Moment::Hears(message.name()))
            && !self.arrival.alive
        {
            return;
        }
        let time = self.now - self.arrival.began;
        let actions = self.arrival.state.handle(time, event);
        self.arrival.todo.extend(actions);
    }

    /// Takes the next input, or notices a deadline. Returns whether there was nothing to do.
    fn destination_idles(&mut self) -> bool {
        let Some(input) = self.arrival.inbox.pop_front() else {
            let Some(deadline) = self.arrival.state.deadline() else { return true };
            let deadline = self.arrival.began + deadline;
            if deadline <= self.now {
                self.destination_handles(Event::Tick);
                return false;
            }
            self.wake_at(deadline, Side::Destination);
            return true;
        };
        let number = self.arrival.number;
        match input {
            Input::Source(link, hello) => self.source_came(link, *hello),
            Input::Channel(link, session, index) => self.channel_came(link, session, index),
            Input::Question(link, session) => self.question_came(link, session),
            Input::Heard(other, _) | Input::ChannelDone(other, _) if other != number => {}
            Input::Heard(_, Ok(message)) => self.destination_handles(Event::Message(message)),
            Input::Heard(_, Err(reason)) | Input::ChannelDone(_, Err(reason)) => {
                self.destination_handles(Event::LinkLost(reason));
            }
            Input::ChannelDone(_, Ok(())) => {
                let Some(incoming) = &mut self.arrival.incoming else { return false };
                incoming.done += 1;
                if incoming.done == incoming.hello.channels {
                    let pages =
                        PageCounts { raw: incoming.raw, zero: incoming.zero, ..PageCounts::default() };
                    self.destination_handles(Event::AllReceived(pages));
                }
            }
            Input::Cancel => self.destination_handles(Event::Cancel),
        }
        false
    }

    fn source_came(&mut self, link: usize, hello: Hello) {
        if self.arrival.state.is_busy() {
            let refuse = Message::Refuse(Refuse { reasons: vec!["busy".into()] });
            let _ = self.transmit(link, Side::Destination, Packet::Message(refuse));
            return self.close(link, Side::Destination);
        }
        self.arrival.number += 1;
        self.arrival.link = Some(link);
        self.arrival.reading = None;
        self.destination_handles(Event::Message(Message::Hello(hello)));
    }

    fn question_came(&mut self, link: usize, session: SessionId) {
        if self.strikes(Side::Destination, Moment::Hears("Ask")) && !self.arrival.alive {
            return;
        }
        let time = self.now - self.arrival.began;
        let (answer, actions) = self.arrival.state.asked(time, session);
        let stays = matches!(answer, Message::Running(_));
        let sent = self.transmit(link, Side::Destination, Packet::Message(answer));
        if stays && sent.is_ok() {
            if let Some(old) = self.arrival.link.replace(link) {
                self.close(old, Side::Destination);
            }
            self.read_link();
        } else {
            self.close(link, Side::Destination);
        }
        self.arrival.todo.extend(actions);
    }

    fn channel_came(&mut self, link: usize, session: SessionId, index: u16) {
        let current = self.arrival.state.session();
        let Some(incoming) = &mut self.arrival.incoming else { return self.close(link, Side::Destination) };
        let known = incoming.channels.iter().any(|channel| channel.index == index);
        if session != current || index >= incoming.hello.channels || known {
            return self.close(link, Side::Destination);
        }
        let (unread, rest) =
            std::mem::take(&mut self.arrival.unread).into_iter().partition(|(of, _)| *of == link);
        self.arrival.unread = rest;
        let unread: Vec<(usize, Packet)> = unread;
        incoming.channels.push(Channel {
            link,
            index,
            queue: unread.into_iter().map(|(_, packet)| packet).collect(),
            round: 0,
            waits: None,
            done: false,
            raw: 0,
            zero: 0,
        });
        let all = incoming.channels.len() == usize::from(incoming.hello.channels);
        self.place();
        if all {
            self.destination_handles(Event::ChannelsOpen);
        }
    }

    fn read_link(&mut self) {
        let number = self.arrival.number;
        self.arrival.reading = Some(number);
        let Some(link) = self.arrival.link else { return };
        let (unread, rest) =
            std::mem::take(&mut self.arrival.unread).into_iter().partition(|(of, _)| *of == link);
        self.arrival.unread = rest;
        let unread: Vec<(usize, Packet)> = unread;
        let inputs = unread.into_iter().map(|(_, packet)| Input::Heard(number, heard(packet)));
        self.arrival.inbox.extend(inputs);
    }

    fn carry_out_at_destination(&mut self, action: Action) {
        let short = self.rng.micros(10, 1500);
        match action {
            Action::Check(hello) => {
                let failed = self.fails(Call::Check);
                let reads = wire::reads(&hello.devices, &hello.devices);
                if !failed {
                    self.arrival.incoming =
                        Some(Incoming { hello, channels: Vec::new(), done: 0, raw: 0, zero: 0 });
                }
                let checked = if failed { Err(vec!["another machine".into()]) } else { Ok(reads) };
                self.occupy(short, Effect::Event(Event::Checked(checked)));
            }
            Action::Send(message) => {
                let Some(link) = self.arrival.link else { return };
                if let Err(reason) = self.transmit(link, Side::Destination, Packet::Message(message)) {
                    self.destination_handles(Event::LinkLost(reason));
                }
            }
            Action::OpenChannels { .. } => self.read_link(),
            Action::Load { states, digest, .. } => {
                let whole =
                    states == devices() && digest.is_none_or(|digest| digest == hash(&self.arrival.memory));
                let effect = if !whole || self.fails(Call::Load) {
                    Effect::Event(Event::MachineFailed("cannot load".into()))
                } else {
                    Effect::Loaded
                };
                let time = if self.plan.slow_host && self.rng.one_in(5) {
                    self.rng.millis(100, 13_000)
                } else {
                    short
                };
                self.occupy(time, effect);
            }
            Action::Run { run } => {
                let failed = Effect::Event(Event::MachineFailed("cannot start".into()));
                let effect = if self.fails(Call::Run) { failed } else { Effect::Started { run } };
                let time = if self.plan.slow_host && self.rng.one_in(5) {
                    self.rng.millis(100, 8_000)
                } else {
                    short
                };
                self.occupy(time, effect);
            }
            Action::Discard { .. } => {
                self.arrival.number += 1;
                self.destination_disconnects();
                self.occupy(short, Effect::Discarded);
            }
            Action::End => self.destination_disconnects(),
            Action::Deliver(_) => {
                assert_eq!(self.arrival.state.side(), DestinationSide::Owner);
            }
            Action::Note(_) | Action::Part | Action::List => {
                unreachable!("all memory comes before the machine runs")
            }
        }
    }

    fn occupy(&mut self, time: Duration, effect: Effect) {
        self.arrival.busy = Some((self.now + time, effect));
        self.at(self.now + time, What::Wake(Side::Destination));
    }

    fn destination_disconnects(&mut self) {
        let mut links: Vec<_> = self.arrival.link.take().into_iter().collect();
        self.arrival.reading = None;
        links.extend(
            self.arrival
                .incoming
                .take()
                .into_iter()
                .flat_map(|incoming| incoming.channels.into_iter().map(|channel| channel.link)),
        );
        for link in links {
            self.close(link, Side::Destination);
        }
    }

    /// The channel threads: place what came, and wait for each other at the end of every round.
    pub(crate) fn place(&mut self) {
        if self.now < self.arrival.frozen_until {
            return;
        }
        let number = self.arrival.number;
        let Some(incoming) = &mut self.arrival.incoming else { return };
        let mut reports = Vec::new();
        loop {
            for channel in &mut incoming.channels {
                while channel.waits.is_none() && !channel.done {
                    let Some(packet) = channel.queue.pop_front() else { break };
                    let Some(placed) = channel.take(packet, &mut self.arrival.memory) else {
                        channel.done = true;
                        reports.push(Err("a channel broke".to_owned()));
                        break;
                    };
                    incoming.raw += placed.0;
                    incoming.zero += placed.1;
                }
            }
            let waiting = incoming.channels.iter().filter(|channel| channel.waits.is_some()).count();
            if waiting < usize::from(incoming.hello.channels) {
                break;
            }
            for channel in &mut incoming.channels {
                channel.done = channel.waits.take() == Some(true);
                (channel.round, channel.raw, channel.zero) = (channel.round + 1, 0, 0);
                reports.extend(channel.done.then_some(Ok(())));
            }
        }
        for report in reports {
            self.destination_input(Input::ChannelDone(number, report));
        }
    }
}

impl Channel {
    /// Places a packet; `None` if the channel cannot go on.
    fn take(&mut self, packet: Packet, memory: &mut [u64]) -> Option<(u64, u64)> {
        match packet {
            Packet::Frame(Frame::Pages { round, pages }) if round == self.round => {
                let zero = pages.iter().filter(|(_, generation)| *generation == 0).count() as u64;
                let raw = pages.len() as u64 - zero;
                pages.into_iter().for_each(|(page, generation)| memory[page] = generation);
                (self.raw, self.zero) = (self.raw + raw, self.zero + zero);
                Some((raw, zero))
            }
            Packet::Frame(Frame::End { round, last, raw, zero })
                if (round, raw, zero) == (self.round, self.raw, self.zero) =>
            {
                self.waits = Some(last);
                Some((0, 0))
            }
            _ => None,
        }
    }
}

fn heard(packet: Packet) -> Result<Message, String> {
    match packet {
        Packet::Message(message) => Ok(message),
        Packet::Closed => Err("The other side closed the connection".into()),
        Packet::Frame(_) => Err("a page on the control connection".into()),
    }
}

fn name_of(action: &Action) -> &'static str {
    match action {
        Action::Send(message) => message.name(),
        Action::Check(_) => "Check",
        Action::OpenChannels { .. } => "OpenChannels",
        Action::Load { .. } => "Load",
        Action::Run { .. } => "Run",
        Action::Discard { .. } => "Discard",
        Action::Note(_) => "Note",
        Action::Deliver(_) => "Deliver",
        Action::Part => "Part",
        Action::List => "List",
        Action::End => "End",
    }
}
