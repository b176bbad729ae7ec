//! The source's process: the machine that moves, and the thread that carries out what its state machine answers. It keeps to
//! the ways of the `engine` crate: one action after the other, events of an action after the actions that were due before.

use std::{collections::VecDeque, time::Duration};

use state::DeviceState;
use whimbrel_migration::{
    FixedCosts, Outcome, Params, Source, Status,
    source::{Action, Event},
};
use wire::{
    Agreed, BlockInfo, DeviceInfo, Features, Forward, Greeted, Hello, Message, PageCounts, SessionId,
};

use crate::{
    network::{Frame, Packet},
    plan::{Call, Moment, Side},
    world::{What, World},
};

/// Pages that a channel takes at once.
const CHUNK: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    Absent,
    Running,
    Paused,
    /// Stopped by the migration.
    Stopped,
}

/// The machine at the source.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) guest: Guest,
    /// Generation of each page; 0 is a zero page.
    pub(crate) pages: Vec<u64>,
    pub(crate) log: Vec<bool>,
    pub(crate) attempt: Option<Attempt>,
    /// Attempts that were started.
    pub(crate) attempts: u32,
    pub(crate) last: Option<Outcome>,
    pub(crate) stopped_at: Option<Duration>,
    pub(crate) frozen_until: Duration,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) began: Duration,
    pub(crate) source: Source,
    todo: VecDeque<Action>,
    busy: Option<(Duration, Option<Event>)>,
    inbox: VecDeque<Input>,
    pub(crate) control: Option<usize>,
    dial: u32,
    pub(crate) channels: Vec<usize>,
    set: Vec<bool>,
    work: Work,
    /// When *go* was sent; `None` again when the destination says that it did not run the machine.
    pub(crate) committed: Option<Duration>,
}

#[derive(Debug)]
enum Input {
    Event(Event),
    Dialled(u32, Result<usize, String>),
    Heard(u32, Result<Message, String>),
}

/// The round under way: what is left of it, and its sums.
#[derive(Debug, Default)]
struct Work {
    round: u32,
    last: bool,
    next: usize,
    done: usize,
    sums: Vec<(u64, u64)>,
}

enum Carried {
    Nothing,
    Event(Event),
    /// The thread is busy so long; then comes the event, if any.
    Busy(Duration, Option<Event>),
    Ended(Outcome),
}

pub(crate) fn devices() -> Vec<DeviceState> {
    let device =
        |id: &str, byte| DeviceState { id: id.into(), kind: "thing".into(), version: 1, body: vec![byte; 9] };
    vec![device("thing0", 1), device("thing1", 2), device("thing2", 3)]
}

/// What a destination of this release answers to a greeting.
fn greeted() -> Greeted {
    Greeted { agreed: Agreed { version: 1, features: Features::OURS }, release: "test".into() }
}

pub(crate) fn hash(pages: &[u64]) -> Vec<u64> {
    vec![pages.iter().fold(7, |hash: u64, page| (hash ^ page).wrapping_mul(0x0100_0000_01B3))]
}

impl World {
    pub(crate) fn start_attempt(&mut self) {
        if self.origin.guest == Guest::Absent || self.origin.attempt.is_some() {
            return;
        }
        self.origin.attempts += 1;
        let number = self.origin.attempts;
        let infos = devices()
            .into_iter()
            .map(|state| DeviceInfo::new(state.id, state.kind, state.version..=state.version));
        let hello = Hello {
            session: SessionId(u128::from(number).to_be_bytes()),
            channels: self.plan.channels,
            page_bytes: 4096,
            digest: self.digest(),
            blocks: vec![BlockInfo {
                name: "ram".into(),
                guest_address: 0,
                bytes: self.plan.pages as u64 * 4096,
            }],
            devices: infos.collect(),
            machine: devices().remove(0),
            postcopy: false,
        };
        let params = Params::default()
            .downtime_limit(if number == 1 { self.plan.downtime_limit } else { Duration::from_millis(300) })
            .channels(self.plan.channels)
            .pause_before_switchover(self.plan.wait.is_some())
            .digest(self.digest());
        let (source, actions) = Source::start(params, hello, FixedCosts::default());
        self.origin.attempt = Some(Attempt {
            number,
            began: self.now,
            source,
            todo: actions.into(),
            busy: None,
            inbox: VecDeque::new(),
            control: None,
            dial: 0,
            channels: Vec::new(),
            set: vec![true; self.plan.pages],
            work: Work::default(),
            committed: None,
        });
        // A user who sees no end of it cancels, and tries again with a longer downtime.
        let patience = Duration::from_secs(2) + 2 * self.plan.wait.unwrap_or_default();
        self.at(self.now + patience, What::LosePatience(number));
        self.at(self.now, What::Wake(Side::Source));
    }

    pub(crate) fn source_input(&mut self, event: Event) {
        if let Some(attempt) = &mut self.origin.attempt {
            attempt.inbox.push_back(Input::Event(event));
            self.at(self.now, What::Wake(Side::Source));
        }
    }

    pub(crate) fn source_dialled(&mut self, number: u32, dial: u32, link: Result<usize, String>) {
        if let Some(attempt) = self.origin.attempt.as_mut().filter(|attempt| attempt.number == number) {
            attempt.inbox.push_back(Input::Dialled(dial, link));
            self.at(self.now, What::Wake(Side::Source));
        } else if let Ok(link) = link {
            self.close(link, Side::Source);
        }
    }

    pub(crate) fn source_receives(&mut self, link: usize, packet: Packet) {
        let Some(attempt) = &mut self.origin.attempt else { return };
        if attempt.control != Some(link) {
            return;
        }
        let heard = match packet {
            Packet::Message(message) => Ok(message),
            Packet::Closed => Err("The other side closed the connection".into()),
            Packet::Frame(_) => unreachable!("the destination sends no pages"),
        };
        attempt.inbox.push_back(Input::Heard(attempt.dial, heard));
        self.at(self.now, What::Wake(Side::Source));
    }

    /// Runs the migration thread until it has nothing to do.
    pub(crate) fn run_source(&mut self) {
        loop {
            let now = self.now;
            if now < self.origin.frozen_until {
                return;
            }
            let Some(attempt) = &mut self.origin.attempt else { return };
            match attempt.busy.take() {
                Some((until, event)) if until > now => {
                    attempt.busy = Some((until, event));
                    return;
                }
                Some((_, Some(event))) => self.source_handles(event),
                Some((_, None)) | None => {
                    let Some(action) = attempt.todo.pop_front() else {
                        if self.source_idles() {
                            return;
                        }
                        continue;
                    };
                    if self.strikes(Side::Source, Moment::Does(name_of(&action))) {
                        continue;
                    }
                    self.source_acts(action);
                }
            }
        }
    }

    fn source_handles(&mut self, event: Event) {
        if let Event::Message(message) = &event
            && self.strikes(Side::Source, Moment::Hears(message.name()))
        {
            return;
        }
        let now = self.now;
        let Some(attempt) = &mut self.origin.attempt else { return };
        if matches!(event, Event::Message(Message::NotRunning { .. })) {
            attempt.committed = None;
        }
        let actions = attempt.source.handle(now - attempt.began, event);
        attempt.todo.extend(actions);
        if attempt.source.status() == Status::PreSwitchover
            && let Some(wait) = self.plan.wait
        {
            self.at(now + wait, What::Continue);
        }
    }

    /// Takes the next input, or notices a deadline. Returns whether there was nothing to do.
    fn source_idles(&mut self) -> bool {
        let now = self.now;
        let Some(attempt) = &mut self.origin.attempt else { return true };
        let Some(input) = attempt.inbox.pop_front() else {
            let Some(deadline) = attempt.source.deadline().map(|deadline| attempt.began + deadline) else {
                return true;
            };
            if deadline <= now {
                self.source_handles(Event::Tick);
                return false;
            }
            self.wake_at(deadline, Side::Source);
            return true;
        };
        match input {
            Input::Event(event) => self.source_handles(event),
            Input::Heard(number, _) if number != attempt.dial => {}
            Input::Dialled(number, Ok(link)) if number != attempt.dial => self.close(link, Side::Source),
            Input::Dialled(number, Err(_)) if number != attempt.dial => {}
            Input::Dialled(_, Ok(link)) => {
                attempt.control = Some(link);
                self.source_handles(Event::Connected(greeted()));
            }
            Input::Dialled(_, Err(reason)) | Input::Heard(_, Err(reason)) => {
                self.source_handles(Event::LinkLost(reason));
            }
            Input::Heard(_, Ok(message)) => self.source_handles(Event::Message(message)),
        }
        false
    }

    fn source_acts(&mut self, action: Action) {
        let now = self.now;
        let carried = self.carry_out_at_source(action);
        let Some(attempt) = &mut self.origin.attempt else { return };
        match carried {
            Carried::Nothing => {}
            Carried::Event(event) => self.source_handles(event),
            Carried::Busy(time, event) => {
                attempt.busy = Some((now + time, event));
                self.at(now + time, What::Wake(Side::Source));
            }
            Carried::Ended(outcome) => {
                self.source_disconnects();
                self.origin.attempt = None;
                self.origin.last = Some(outcome);
                self.at(now + Duration::from_millis(500), What::Attempt);
            }
        }
    }

    fn carry_out_at_source(&mut self, action: Action) -> Carried {
        let short = self.rng.micros(10, 900);
        let running = self.origin.guest == Guest::Running;
        let Some(attempt) = &mut self.origin.attempt else { return Carried::Nothing };
        match action {
            Action::Connect(_) => {
                attempt.dial += 1;
                let (number, dial) = (attempt.number, attempt.dial);
                self.dial(number, dial);
                Carried::Nothing
            }
            Action::Send(message) => {
                let Some(control) = attempt.control else { return Carried::Nothing };
                if message == Message::Go {
                    attempt.committed = Some(self.now);
                }
                match self.transmit(control, Side::Source, Packet::Message(message)) {
                    Ok(()) => Carried::Nothing,
                    Err(reason) => Carried::Event(Event::LinkLost(reason)),
                }
            }
            Action::Forward => self.carry_out_at_source(Action::Send(Message::Forward(Forward::default()))),
            Action::Prepare { channels } => self.prepare(channels),
            Action::SendRound { round, last } => {
                attempt.work =
                    Work { round, last, next: 0, done: 0, sums: vec![(0, 0); attempt.channels.len()] };
                let number = attempt.number;
                for channel in 0..self.plan.channels {
                    let starts = self.rng.micros(0, 300);
                    self.at(self.now + starts, What::SendStep { attempt: number, channel, chunk: None });
                }
                Carried::Nothing
            }
            Action::FetchDirty => {
                if self.fails(Call::Fetch) {
                    return Carried::Busy(short, Some(Event::MachineFailed("no log".into())));
                }
                let Some(attempt) = &mut self.origin.attempt else { return Carried::Nothing };
                attempt.set.clone_from(&self.origin.log);
                let pages = attempt.set.iter().filter(|dirty| **dirty).count() as u64;
                Carried::Busy(short, Some(Event::DirtyFetched { pages, running }))
            }
            Action::Stop => {
                if self.fails(Call::Stop) {
                    return Carried::Busy(short, Some(Event::MachineFailed("cannot stop".into())));
                }
                self.origin.guest = Guest::Stopped;
                self.origin.stopped_at = Some(self.now);
                Carried::Busy(short, Some(Event::Stopped { was_running: running }))
            }
            Action::SaveDevices => self.save_devices(short),
            Action::Resume { run } => self.take_back(run),
            Action::Disconnect => {
                self.source_disconnects();
                Carried::Nothing
            }
            Action::End(outcome) => Carried::Ended(outcome),
            Action::CutRound
            | Action::Throttle { .. }
            | Action::Limit(_)
            | Action::Divide { .. }
            | Action::Needed(_)
            | Action::Reopen { .. }
            | Action::Push => {
                unreachable!("all memory is sent before the machine runs")
            }
        }
    }

    fn prepare(&mut self, channels: u16) -> Carried {
        if self.fails(Call::Prepare) {
            return Carried::Event(Event::LinkLost("no channels".into()));
        }
        self.origin.log.fill(true);
        let Some(number) = self.origin.attempt.as_ref().map(|attempt| attempt.number) else {
            return Carried::Nothing;
        };
        for index in 0..channels {
            if !self.reachable() {
                return Carried::Event(Event::LinkLost("a channel cannot be opened".into()));
            }
            let link = self.open_link(false);
            let session = SessionId(u128::from(number).to_be_bytes());
            let _ = self.transmit(link, Side::Source, Packet::Frame(Frame::Hello { session, index }));
            if let Some(attempt) = &mut self.origin.attempt {
                attempt.channels.push(link);
            }
        }
        let time = self.rng.micros(100, 2000);
        Carried::Busy(time, Some(Event::Prepared))
    }

    fn save_devices(&mut self, short: Duration) -> Carried {
        if self.fails(Call::Save) {
            return Carried::Busy(short, Some(Event::MachineFailed("cannot save".into())));
        }
        for device in devices() {
            let Some(control) = self.origin.attempt.as_ref().and_then(|attempt| attempt.control) else {
                return Carried::Nothing;
            };
            if let Err(reason) =
                self.transmit(control, Side::Source, Packet::Message(Message::Device(device)))
            {
                return Carried::Event(Event::MachineFailed(reason));
            }
        }
        if self.lock == Some(Side::Source) {
            self.lock = None;
        }
        let devices = devices().len() as u32;
        Carried::Busy(short, Some(Event::Saved { devices }))
    }

    fn take_back(&mut self, run: bool) -> Carried {
        self.source_disconnects();
        if self.lock == Some(Side::Destination) {
            return Carried::Event(Event::Resumed(Err("the disk is in use".into())));
        }
        let Some(attempt) = &mut self.origin.attempt else { return Carried::Nothing };
        if attempt.committed.is_some() {
            self.violated = Some("the source took the machine back after go".into());
        }
        self.lock = Some(Side::Source);
        self.origin.stopped_at = None;
        if self.origin.guest == Guest::Stopped {
            self.origin.guest = if run { Guest::Running } else { Guest::Paused };
        }
        Carried::Event(Event::Resumed(Ok(())))
    }

    pub(crate) fn source_disconnects(&mut self) {
        let Some(attempt) = &mut self.origin.attempt else { return };
        attempt.dial += 1;
        let mut links = std::mem::take(&mut attempt.channels);
        links.extend(attempt.control.take());
        for link in links {
            self.close(link, Side::Source);
        }
    }

    /// A channel thread: takes pages and clears their bits, looks at them and sends them a moment later.
    pub(crate) fn send_step(&mut self, number: u32, channel: u16, chunk: Option<Vec<usize>>) {
        if self.now < self.origin.frozen_until {
            return self.at(self.origin.frozen_until, What::SendStep { attempt: number, channel, chunk });
        }
        let gap = self.rng.micros(20, 600);
        let Some(attempt) = self.origin.attempt.as_mut().filter(|attempt| attempt.number == number) else {
            return;
        };
        let Some(&link) = attempt.channels.get(usize::from(channel)) else { return };
        let (round, last, pages) = (attempt.work.round, attempt.work.last, attempt.set.len());
        let frame = match chunk {
            Some(chunk) => {
                let pages: Vec<_> = chunk.iter().map(|&page| (page, self.origin.pages[page])).collect();
                let zero = pages.iter().filter(|(_, generation)| *generation == 0).count() as u64;
                let sums = &mut attempt.work.sums[usize::from(channel)];
                *sums = (sums.0 + pages.len() as u64 - zero, sums.1 + zero);
                Frame::Pages { round, pages }
            }
            None if attempt.work.next < pages => {
                let first = attempt.work.next;
                attempt.work.next += CHUNK;
                let range = first..(first + CHUNK).min(pages);
                let chunk: Vec<_> = range.filter(|&page| attempt.set[page]).collect();
                if !last {
                    chunk.iter().for_each(|&page| self.origin.log[page] = false);
                }
                return self
                    .at(self.now + gap, What::SendStep { attempt: number, channel, chunk: Some(chunk) });
            }
            None => {
                let (raw, zero) = attempt.work.sums[usize::from(channel)];
                attempt.work.done += 1;
                Frame::End { round, last, raw, zero }
            }
        };
        let is_end = matches!(frame, Frame::End { .. });
        if let Err(reason) = self.transmit(link, Side::Source, Packet::Frame(frame)) {
            return self.source_input(Event::LinkLost(reason));
        }
        if !is_end {
            return self.at(self.now + gap, What::SendStep { attempt: number, channel, chunk: None });
        }
        self.count_round();
    }

    fn digest(&self) -> wire::Digest {
        if self.plan.digest { wire::Digest::Full } else { wire::Digest::Off }
    }

    fn count_round(&mut self) {
        let Some(attempt) = &self.origin.attempt else { return };
        if attempt.work.done == attempt.channels.len() {
            let sums = &attempt.work.sums;
            let mut pages = PageCounts::default();
            sums.iter().for_each(|(raw, zero)| {
                pages += PageCounts { raw: *raw, zero: *zero, ..PageCounts::default() }
            });
            let bytes = pages.raw * 4096 + 64;
            let digest = self.plan.digest.then(|| hash(&self.origin.pages));
            self.source_input(Event::RoundSent { bytes, pages, digest });
        }
    }
}

fn name_of(action: &Action) -> &'static str {
    match action {
        Action::Send(message) => message.name(),
        Action::Connect(_) => "Connect",
        Action::Prepare { .. } => "Prepare",
        Action::SendRound { .. } => "SendRound",
        Action::FetchDirty => "FetchDirty",
        Action::Stop => "Stop",
        Action::SaveDevices => "SaveDevices",
        Action::Resume { .. } => "Resume",
        Action::Disconnect => "Disconnect",
        Action::CutRound => "CutRound",
        Action::Throttle { .. } => "Throttle",
        Action::Limit(_) => "Limit",
        Action::Divide { .. } => "Divide",
        Action::Needed(_) => "Needed",
        Action::Reopen { .. } => "Reopen",
        Action::Forward => "Forward",
        Action::Push => "Push",
        Action::End(_) => "End",
    }
}
