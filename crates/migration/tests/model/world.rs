//! Both sides, the network, the disk and the people: every step that any of them can take.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use stateright::Property;
use whimbrel_migration::{
    Postcopy,
    custody::SourcePages,
    source::{State, Verdict},
};

use crate::{
    arrival::{Arrival, There},
    broken::Broken,
    claims,
    network::{Network, Side},
    origin::{Guest, Origin},
    source::{Duty, Input, View},
    words::{Packet, Pages, Word},
};

/// What is to be explored.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Migrations that the operator starts.
    pub(crate) attempts: u8,
    /// Times that the destination's process is killed, and started again.
    pub(crate) kills: u8,
    /// Rounds after the first that the machine needs at most.
    pub(crate) rounds: u32,
    /// Whether the source's process may be killed.
    pub(crate) source_dies: bool,
    /// Whether the machine has a disk with a lock.
    pub(crate) locks: bool,
    /// Whether others want the disk too.
    pub(crate) others: bool,
    /// Whether the operator pauses and resumes the machine at the source.
    pub(crate) pauses: bool,
    /// Whether the operator is asked before the switchover.
    pub(crate) asks_before_switchover: bool,
    /// Whether vCPUs are slowed down.
    pub(crate) throttles: bool,
    /// Whether pages may follow the machine.
    pub(crate) postcopy: Postcopy,
    /// How many there are then, at least one.
    pub(crate) pages: u8,
    /// How often a source loses a destination that lacks pages before links hold.
    pub(crate) partings: u8,
    /// Whether the operator breaks the link while they do, and says when to go on.
    pub(crate) parts: bool,
    /// Whether the machine may start anew there, so that it needs none of them any more.
    pub(crate) forgets: bool,
    /// The rule that does not hold.
    pub(crate) broken: Option<Broken>,
    /// Worlds that were seen to settle when they are left alone.
    pub(crate) settled: Mutex<HashSet<u64>>,
    pub(crate) decided: Mutex<HashMap<Before, After>>,
}

pub(crate) type Before = (View, u8, Input);
pub(crate) type After = (View, Vec<Duty>);

/// All there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// `None` after it was killed: the machine died with it.
    pub(crate) origin: Option<Origin>,
    /// `None` after it was killed, until it is started again.
    pub(crate) arrival: Option<Arrival>,
    pub(crate) network: Network,
    pub(crate) lock: Lock,
    /// Sessions so far.
    pub(crate) sessions: u8,
    /// Lives of the destination that are over.
    kills: u8,
    pub(crate) history: History,
}

/// What the claims have to remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct History {
    /// The machine was started at the destination.
    pub(crate) ran_there: bool,
    /// How often *go* was said in the attempt under way.
    pub(crate) goes: u8,
    /// Nobody can tell what became of the last session any more: the destination that knew was killed.
    pub(crate) is_forgotten: bool,
    /// The machine is paused because an operator wanted that, or because it could not have its disk for long.
    pub(crate) paused: bool,
    /// A page came to a machine that had it, and was taken.
    pub(crate) is_overwritten: bool,
    /// How often the source lost a destination that lacks pages.
    pub(crate) partings: u8,
}

/// Who holds the lock of the disk. The kernel lets go of it when its holder dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lock {
    Free,
    Held(Side),
    /// Another program has it.
    Others,
}

/// How something goes that a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum How {
    Well,
    Fails,
    /// A second way to go well, or to fail.
    Otherwise,
}

/// One step of anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    OperatorStarts,
    OperatorCancels,
    OperatorContinues,
    OperatorCancelsAtDestination,
    OperatorPauses,
    OperatorResumes,
    OperatorStartsPostcopy,
    OperatorParts,
    OperatorRecovers,
    /// Resets the machine at the destination, or ends it.
    OperatorResetsAtDestination,
    /// Says who has the machine, having looked.
    OperatorDecides(Verdict),
    SourceDoes(How),
    SourceConnects,
    SourceDoesNotConnect,
    SourceHears,
    SourceFinishesRound,
    SourceSendsPage,
    SourceLoses(usize),
    SourceIsLate,
    SourceHearsNothingForLong,
    DestinationDoes(How),
    DestinationIsVisited(usize),
    DestinationHears(usize),
    DestinationHasAll,
    DestinationTakesPage(usize),
    DestinationIsWhole,
    DestinationLoses(usize),
    DestinationIsLate,
    SourceDies,
    DestinationDies,
    DestinationReturns,
    OthersTakeTheDisk,
    OthersLeaveTheDisk,
}

impl Lock {
    pub(crate) fn is_free_for(self, side: Side) -> bool {
        matches!(self, Self::Free) || self == Self::Held(side)
    }

    pub(crate) fn release(&mut self, side: Side) {
        if *self == Self::Held(side) {
            *self = Self::Free;
        }
    }
}

/// A thread that panics ends the exploration.
pub(crate) const NO_PANIC: &str = "no thread has panicked";

impl Model {
    pub(crate) fn all_pages(&self) -> Pages {
        (1 << self.pages.max(1)) - 1
    }

    /// What is left out of a [`View`] must not decide anything: the same event in the same view has the same answer.
    pub(crate) fn has_decided(&self, before: &Before, after: &After) {
        let mut decided = self.decided.lock().expect(NO_PANIC);
        let known = decided.entry(before.clone()).or_insert_with(|| after.clone());
        assert_eq!(known, after, "the source decides {before:?} by something that the model leaves out");
    }

    fn first(&self, guest: Guest) -> World {
        World {
            origin: Some(Origin::new(guest)),
            arrival: Some(Arrival::new()),
            network: Network::default(),
            lock: if self.locks { Lock::Held(Side::Source) } else { Lock::Free },
            sessions: 0,
            kills: 0,
            history: History { paused: guest == Guest::Paused, ..History::default() },
        }
    }
}

impl stateright::Model for Model {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![self.first(Guest::Running)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        world.steps_of_people(self, steps);
        world.steps_of_people_with_postcopy(self, steps);
        world.steps_of_source(self, steps);
        world.steps_of_destination(self, steps);
        world.steps_of_fate(self, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.take(self, step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        claims::of(self)
    }
}

impl World {
    fn steps_of_people(&self, model: &Model, steps: &mut Vec<Step>) {
        let Some(origin) = &self.origin else { return };
        if origin.has_the_machine() && origin.attempt.is_none() && self.sessions < model.attempts {
            steps.push(Step::OperatorStarts);
        }
        if origin.is_idle() {
            steps.push(Step::OperatorCancels);
            if model.asks_before_switchover {
                steps.push(Step::OperatorContinues);
            }
        }
        if origin.is_unknown() {
            let looks = model.broken != Some(Broken::DecidesWithoutLooking);
            if !looks || self.never_ran_there_and_never_will() {
                steps.push(Step::OperatorDecides(Verdict::TakeBack));
            }
            if self.history.ran_there {
                steps.push(Step::OperatorDecides(Verdict::LetGo));
            }
        }
        if self.arrival.as_ref().is_some_and(|arrival| arrival.is_idle() && arrival.destination.is_busy()) {
            steps.push(Step::OperatorCancelsAtDestination);
        }
        if model.pauses && origin.guest == Guest::Running {
            steps.push(Step::OperatorPauses);
        }
        if origin.guest == Guest::Paused
            && (!model.locks
                || self.lock.is_free_for(Side::Source)
                || model.broken == Some(Broken::RunsByCommandWithoutTheLock))
        {
            steps.push(Step::OperatorResumes);
        }
    }

    fn steps_of_people_with_postcopy(&self, model: &Model, steps: &mut Vec<Step>) {
        let Some(origin) = self.origin.as_ref().filter(|origin| origin.is_idle()) else { return };
        let Some(attempt) = &origin.attempt else { return };
        if model.postcopy == Postcopy::OnRequest && !attempt.source.wants_postcopy() {
            steps.push(Step::OperatorStartsPostcopy);
        }
        let waits = |state: &State| matches!(state, State::Parted { retry_at: None, .. });
        if model.parts
            && self.may_part(model)
            && attempt.source.status().is_postcopy()
            && !waits(attempt.source.state())
        {
            steps.push(Step::OperatorParts);
        }
        if waits(attempt.source.state()) {
            steps.push(Step::OperatorRecovers);
        }
        let looks = model.broken != Some(Broken::LetsGoOfPagesWithoutLooking);
        if attempt.source.status().is_postcopy() && (!looks || !self.destination_has()) {
            steps.push(Step::OperatorDecides(Verdict::LetGo));
        }
    }

    fn steps_of_source(&self, model: &Model, steps: &mut Vec<Step>) {
        steps.extend(self.ways_of_duty(model).iter().map(|how| Step::SourceDoes(*how)));
        let Some(attempt) = self.origin.as_ref().and_then(|origin| origin.attempt.as_ref()) else { return };
        // Also between two actions: what could not be sent is noticed at once.
        let breaks = |link: &usize| self.may_part(model) || self.network.is_drained(*link, Side::Source);
        steps.extend(attempt.control.filter(breaks).map(Step::SourceLoses));
        if !attempt.todo.is_empty() {
            return;
        }
        if attempt.dialling {
            steps.push(Step::SourceDoesNotConnect);
            if self.is_listening() && self.network.has_room() {
                steps.push(Step::SourceConnects);
            }
        }
        if attempt.control.is_some_and(|control| self.network.next(control, Side::Source).is_some()) {
            steps.push(Step::SourceHears);
        }
        if let Some(channel) = attempt.channel.filter(breaks).filter(|_| attempt.is_watched(model)) {
            steps.push(Step::SourceLoses(channel));
        }
        if attempt.round.is_some() {
            steps.push(Step::SourceFinishesRound);
        }
        if self.can_send_a_page() {
            steps.push(Step::SourceSendsPage);
        }
        // One ping at a time: more say nothing new.
        let pings = attempt.source.pings();
        let pinged = attempt.control.is_some_and(|control| {
            self.network.is_on_its_way(control, Side::Destination, Packet::Word(Word::Ping))
                || self.network.is_on_its_way(control, Side::Source, Packet::Word(Word::Pong))
        });
        let waits = matches!(attempt.source.state(), State::Recovering { .. }) && !self.may_part(model);
        if attempt.source.has_deadline() && !(pings && pinged) && !waits {
            steps.push(Step::SourceIsLate);
        }
        if pings && self.may_part(model) {
            steps.push(Step::SourceHearsNothingForLong);
        }
    }

    /// Whether a source may lose a destination that lacks pages once more.
    fn may_part(&self, model: &Model) -> bool {
        self.history.partings < model.partings || !self.is_needed()
    }

    fn is_needed(&self) -> bool {
        let attempt = self.origin.as_ref().and_then(|origin| origin.attempt.as_ref());
        attempt.is_some_and(|attempt| attempt.source.pages() == SourcePages::Needed)
    }

    fn may_break_there(&self, model: &Model, link: usize) -> bool {
        self.may_part(model) || self.network.is_drained(link, Side::Destination)
    }

    fn steps_of_destination(&self, model: &Model, steps: &mut Vec<Step>) {
        steps.extend(self.ways_of_chore(model).iter().map(|how| Step::DestinationDoes(*how)));
        let Some(arrival) = &self.arrival else { return };
        if !arrival.is_idle() {
            // What could not be sent is noticed between two actions.
            let lost = arrival.link.filter(|&link| self.may_break_there(model, link));
            return steps.extend(lost.map(Step::DestinationLoses));
        }
        for link in self.network.numbers().filter(|&link| self.network.is_open(link, Side::Destination)) {
            let next = self.network.next(link, Side::Destination);
            let channel = arrival.channel.filter(|channel| channel.link == link);
            if !self.network.is_introduced(link) {
                if next.is_some() {
                    steps.push(Step::DestinationIsVisited(link));
                }
            } else if channel.is_none() {
                let heard = arrival.link == Some(link) || model.broken == Some(Broken::HearsThePast);
                if next.is_some() && heard {
                    steps.push(Step::DestinationHears(link));
                }
            } else {
                match next {
                    Some(Packet::Page(_)) if arrival.is_awaiting_pages() => {
                        steps.push(Step::DestinationTakesPage(link));
                    }
                    Some(Packet::LastRound) => steps.push(Step::DestinationHasAll),
                    _ => {}
                }
            }
            let watched = channel.is_none_or(|channel| !channel.done || arrival.is_awaiting_pages());
            if watched && self.may_break_there(model, link) {
                steps.push(Step::DestinationLoses(link));
            }
        }
        if arrival.is_whole {
            steps.push(Step::DestinationIsWhole);
        }
        if model.forgets && arrival.has_the_machine() && arrival.lacks != 0 {
            steps.push(Step::OperatorResetsAtDestination);
        }
        if arrival.destination.deadline().is_some() && (!arrival.has_the_machine() || self.may_part(model)) {
            steps.push(Step::DestinationIsLate);
        }
    }

    fn steps_of_fate(&self, model: &Model, steps: &mut Vec<Step>) {
        if model.source_dies && self.origin.is_some() {
            steps.push(Step::SourceDies);
        }
        if self.arrival.is_none() {
            steps.push(Step::DestinationReturns);
        } else if self.kills < model.kills {
            steps.push(Step::DestinationDies);
        }
        if model.others && self.lock == Lock::Free {
            steps.push(Step::OthersTakeTheDisk);
        }
        if self.lock == Lock::Others {
            steps.push(Step::OthersLeaveTheDisk);
        }
    }

    pub(crate) fn take(&mut self, model: &Model, step: Step) {
        match step {
            Step::OperatorStarts => self.start(model),
            Step::OperatorCancels => self.source_handles(model, Input::Cancel),
            Step::OperatorContinues => self.source_handles(model, Input::Continue),
            Step::OperatorCancelsAtDestination => self.cancel_at_destination(model),
            Step::OperatorPauses => self.pause(),
            Step::OperatorResumes => self.run_by_command(model),
            Step::OperatorStartsPostcopy => self.source_handles(model, Input::StartPostcopy),
            Step::OperatorParts => self.source_handles(model, Input::Pause),
            Step::OperatorRecovers => self.source_handles(model, Input::Recover),
            Step::OperatorResetsAtDestination => self.forget_pages(model),
            Step::OperatorDecides(verdict) => self.source_handles(model, Input::Decided(verdict)),
            Step::SourceDoes(how) => self.do_duty(model, how),
            Step::SourceConnects => self.dialled(model, true),
            Step::SourceDoesNotConnect => self.dialled(model, false),
            Step::SourceHears => self.source_hears(model),
            Step::SourceFinishesRound => self.finish_round(model),
            Step::SourceSendsPage => self.send_a_page(),
            Step::SourceLoses(link) => self.source_loses(model, link),
            Step::SourceIsLate => self.source_handles(model, Input::Tick),
            Step::SourceHearsNothingForLong => self.source_handles(model, Input::Silence),
            Step::DestinationDoes(how) => self.do_chore(model, how),
            Step::DestinationIsVisited(link) => self.visited(model, link),
            Step::DestinationHears(link) => self.destination_hears(model, link),
            Step::DestinationHasAll => self.destination_has_all(model),
            Step::DestinationTakesPage(link) => self.destination_takes_page(model, link),
            Step::DestinationIsWhole => self.destination_is_whole(model),
            Step::DestinationLoses(link) => self.destination_loses(model, link),
            Step::DestinationIsLate => self.destination_ticks(model),
            Step::SourceDies => {
                self.origin = None;
                self.lock.release(Side::Source);
                self.network.close_all(Side::Source);
            }
            Step::DestinationDies => self.kill_destination(),
            Step::DestinationReturns => self.arrival = Some(Arrival::new()),
            Step::OthersTakeTheDisk => self.lock = Lock::Others,
            Step::OthersLeaveTheDisk => self.lock = Lock::Free,
        }
    }

    fn kill_destination(&mut self) {
        // What it said before it died is still heard, unless it is lost.
        let told = self.network.numbers().any(|link| self.is_farewell_on(link));
        let knew = self.arrival.take().is_some_and(|arrival| arrival.knows == Some(self.sessions));
        self.history.is_forgotten |= knew && !told;
        self.kills += 1;
        self.lock.release(Side::Destination);
        self.network.close_all(Side::Destination);
    }

    fn pause(&mut self) {
        if let Some(origin) = &mut self.origin {
            origin.guest = Guest::Paused;
            self.history.paused = true;
        }
    }

    fn run_by_command(&mut self, model: &Model) {
        let Some(origin) = &mut self.origin else { return };
        origin.guest = Guest::Running;
        self.history.paused = false;
        if model.locks && self.lock == Lock::Free {
            self.lock = Lock::Held(Side::Source);
        }
    }

    /// What happens next when nobody interferes, nothing fails and everything that was sent arrives, and time passes only
    /// when nothing else can happen.
    pub(crate) fn step_in_peace(&self, model: &Model) -> Option<Step> {
        let mut steps = Vec::new();
        self.steps_of_people_with_postcopy(model, &mut steps);
        self.steps_of_source(model, &mut steps);
        self.steps_of_destination(model, &mut steps);
        self.steps_of_fate(model, &mut steps);
        let lost = |link, at| self.network.is_drained(link, at);
        let rank = |step: &Step| match *step {
            Step::SourceDoes(How::Well) | Step::DestinationDoes(How::Well) => Some(0),
            Step::OthersLeaveTheDisk => Some(1),
            Step::SourceHears | Step::DestinationHears(_) | Step::DestinationHasAll => Some(2),
            Step::SourceSendsPage | Step::DestinationTakesPage(_) | Step::DestinationIsWhole => Some(2),
            Step::DestinationIsVisited(_) | Step::SourceConnects | Step::SourceFinishesRound => Some(3),
            Step::SourceLoses(link) if lost(link, Side::Source) => Some(4),
            Step::DestinationLoses(link) if lost(link, Side::Destination) => Some(4),
            // What cannot go well for now.
            Step::SourceDoes(How::Fails) | Step::DestinationDoes(How::Fails) => Some(5),
            Step::SourceDoesNotConnect => Some(6),
            Step::OperatorRecovers => Some(6),
            // Pings are answered where both sides hold the connection.
            Step::SourceHearsNothingForLong if self.is_needed() && self.is_linked() => None,
            Step::SourceHearsNothingForLong => Some(7),
            Step::SourceIsLate => Some(8),
            Step::DestinationIsLate => Some(9),
            _ => None,
        };
        steps
            .into_iter()
            .filter_map(|step| Some((rank(&step)?, step)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, step)| step)
    }

    fn is_linked(&self) -> bool {
        let attempt = self.origin.as_ref().and_then(|origin| origin.attempt.as_ref());
        let control = attempt.and_then(|attempt| attempt.control);
        control.is_some() && self.arrival.as_ref().is_some_and(|arrival| arrival.link == control)
    }

    /// What an operator sees who looks at the destination.
    fn never_ran_there_and_never_will(&self) -> bool {
        let vacant = |arrival: &Arrival| !arrival.destination.is_busy() && arrival.guest == There::Nothing;
        !self.history.ran_there && self.arrival.as_ref().is_none_or(vacant)
    }

    pub(crate) fn destination_has(&self) -> bool {
        self.arrival.as_ref().is_some_and(Arrival::has_the_machine)
    }

    pub(crate) fn source_has(&self) -> bool {
        self.origin.as_ref().is_some_and(Origin::has_the_machine)
    }

    pub(crate) fn there(&self) -> There {
        self.arrival.as_ref().map_or(There::Nothing, |arrival| arrival.guest)
    }
}
