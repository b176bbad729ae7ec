//! Virtual time, faults, and what must hold after every step.

use std::{collections::BTreeMap, time::Duration};

use whimbrel_migration::{Outcome, Status, source::Event};

use crate::{
    destination::Arrival,
    network::{Link, Packet},
    plan::{Blow, Call, Cut, Moment, Plan, Side, Trigger},
    rng::Rng,
    source::{Guest, Origin},
};

/// Virtual time after which a run counts as endless.
const ENDLESS: Duration = Duration::from_secs(900);
/// How long the machine may be stopped while it is the source's, when nothing takes long and everybody notices.
const STOPPED: Duration = Duration::from_secs(1);
/// The same when things take long: the switchover time-out, then the half minute until a destination that hears nothing
/// gives the disks back.
const STOPPED_LONG: Duration = Duration::from_secs(50);
/// How long the destination may hold the disk without the machine: it waits half a minute for *go*.
const HELD: Duration = Duration::from_secs(32);
/// How long the source may wait for the answer to *go* until it says that it does not know.
const CERTAIN: Duration = Duration::from_secs(6);

#[derive(Debug)]
pub(crate) enum What {
    Arrive { link: usize, to: Side, packet: Box<Packet> },
    Break { link: usize, to: Side },
    Dialled { attempt: u32, dial: u32, link: Result<(), String> },
    Wake(Side),
    SendStep { attempt: u32, channel: u16, chunk: Option<Vec<usize>> },
    Write,
    Attempt,
    Continue,
    LosePatience(u32),
    Return,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    AtSource,
    AtDestination,
    /// The side that had the machine was killed.
    Nowhere,
    /// The destination was killed after *go*: only people can tell.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    /// What is to come: by time, then by the order in which it was planned.
    queue: BTreeMap<(Duration, u64), What>,
    order: u64,
    alarms: [Option<Duration>; 2],
    pub(crate) links: Vec<Link>,
    pub(crate) origin: Origin,
    pub(crate) arrival: Arrival,
    /// Who holds the lock of the disk.
    pub(crate) lock: Option<Side>,
    /// What must not be, seen by those who were there.
    pub(crate) violated: Option<String>,
    pub(crate) steps: u64,
    faults: Vec<(Trigger, Blow)>,
    fails: Option<Call>,
    /// The machine was started at the destination.
    pub(crate) ran_there: bool,
    /// What the faults take by themselves.
    excused: Duration,
    stalled_until: Duration,
    parted_until: Duration,
    returns: bool,
    tracing: bool,
}

impl World {
    /// Lives through the plan; an error says what was wrong, and when.
    pub(crate) fn run(plan: Plan) -> Result<(End, u64), String> {
        let mut world = Self::new(plan);
        world.live().map_err(|wrong| format!("at {:?}: {wrong}; {:?}", world.now, world.plan))?;
        let end = world.end().map_err(|wrong| format!("in the end: {wrong}; {world:#?}"))?;
        Ok((end, world.steps))
    }

    fn new(plan: Plan) -> Self {
        let origin = Origin {
            guest: if plan.paused { Guest::Paused } else { Guest::Running },
            pages: (0..plan.pages as u64).map(|page| if page % 3 == 0 { 0 } else { page }).collect(),
            log: vec![false; plan.pages],
            attempt: None,
            attempts: 0,
            last: None,
            stopped_at: None,
            frozen_until: Duration::ZERO,
        };
        Self {
            now: Duration::ZERO,
            rng: Rng::new(plan.seed ^ 0xABCD),
            queue: BTreeMap::new(),
            order: 0,
            alarms: [None; 2],
            links: Vec::new(),
            origin,
            arrival: Arrival::new(Duration::ZERO, 0, plan.pages),
            lock: Some(Side::Source),
            violated: None,
            steps: 0,
            faults: plan.faults.clone(),
            fails: plan.fails,
            ran_there: false,
            excused: Duration::ZERO,
            stalled_until: Duration::ZERO,
            parted_until: Duration::ZERO,
            returns: false,
            tracing: std::env::var_os("SIMULATION_TRACE").is_some(),
            plan,
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.at(Duration::ZERO, What::Write);
        self.at(Duration::from_millis(5), What::Attempt);
        let mut quiet_until = None;
        while let Some(((time, order), what)) = self.queue.pop_first() {
            if self.now > ENDLESS {
                return Err("it does not come to an end".into());
            }
            self.now = time;
            if self.tracing && !matches!(what, What::Write | What::Wake(_)) {
                eprintln!("{time:?} {what:?}");
            }
            self.happens(order, what);
            self.must_hold()?;
            // What is still on its way may change a settled world; give it a minute.
            match (self.is_settled(), quiet_until) {
                (true, None) => quiet_until = Some(self.now + Duration::from_secs(60)),
                (true, Some(until)) if self.now > until => return Ok(()),
                (true, Some(_)) => {}
                (false, _) => quiet_until = None,
            }
        }
        Ok(())
    }

    fn happens(&mut self, order: u64, what: What) {
        match what {
            What::Arrive { link, to, packet } => {
                let time = self.stalled_until.max(self.links[link].stalled_until);
                if self.now < time {
                    // With its old order, so that nothing is overtaken.
                    self.queue.insert((time, order), What::Arrive { link, to, packet });
                } else {
                    self.arrive(link, to, *packet);
                }
            }
            What::Break { link, to } => self.notice(link, to),
            What::Dialled { attempt, dial, link } => {
                let answered = link.and_then(|()| {
                    if self.reachable() { Ok(self.open_link(true)) } else { Err("nobody answers".into()) }
                });
                self.source_dialled(attempt, dial, answered);
            }
            What::Wake(Side::Source) => self.run_source(),
            What::Wake(Side::Destination) => {
                self.place();
                self.run_destination();
            }
            What::SendStep { attempt, channel, chunk } => self.send_step(attempt, channel, chunk),
            What::Write => self.write(),
            What::Attempt => self.attempt(),
            What::Continue => self.source_input(Event::Continue),
            What::LosePatience(number) => {
                if self.origin.attempt.as_ref().is_some_and(|attempt| attempt.number == number) {
                    self.source_input(Event::Cancel);
                }
            }
            What::Return => {
                self.returns = false;
                self.arrival = Arrival::new(self.now, self.arrival.life + 1, self.plan.pages);
            }
        }
    }

    /// What the user does when no attempt is under way: try, until the machine has moved or there is nowhere to go.
    fn attempt(&mut self) {
        let hopeless = !self.arrival.alive && !self.returns;
        if self.origin.last != Some(Outcome::Completed) && !hopeless {
            self.start_attempt();
        }
    }

    fn write(&mut self) {
        if self.is_settled() {
            return;
        }
        let runs = self.origin.guest == Guest::Running;
        let pause = if runs { self.plan.write_every } else { Duration::from_millis(100) };
        self.at(self.now + pause, What::Write);
        if runs {
            let page = self.rng.below(self.plan.pages as u64) as usize;
            self.origin.pages[page] = if self.rng.one_in(5) { 0 } else { self.rng.next() };
            self.origin.log[page] = true;
        }
    }

    pub(crate) fn at(&mut self, time: Duration, what: What) {
        self.order += 1;
        self.queue.insert((time, self.order), what);
    }

    /// Sets the alarm of a side that sleeps, unless it is set to that time already.
    pub(crate) fn wake_at(&mut self, time: Duration, side: Side) {
        let alarm = &mut self.alarms[side as usize];
        if alarm.replace(time) != Some(time) {
            self.at(time, What::Wake(side));
        }
    }

    pub(crate) fn dial(&mut self, attempt: u32, dial: u32) {
        let parted = self.now < self.parted_until;
        let takes = if parted { Duration::from_secs(8) } else { self.rng.micros(50, 3000) };
        let link = if parted { Err("nobody answers".into()) } else { Ok(()) };
        self.at(self.now + takes, What::Dialled { attempt, dial, link });
    }

    pub(crate) fn reachable(&self) -> bool {
        self.arrival.alive && self.now >= self.parted_until
    }

    /// Whether a call of the machine fails now; each plan has one failure at most.
    pub(crate) fn fails(&mut self, call: Call) -> bool {
        let fails = self.fails == Some(call);
        if fails {
            self.fails = None;
        }
        fails
    }

    /// A step begins: lets faults strike that were waiting for it. Returns whether the side was killed by one.
    pub(crate) fn strikes(&mut self, side: Side, moment: Moment) -> bool {
        self.steps += 1;
        if self.tracing {
            eprintln!("{:?} step {}: {side:?} {moment:?}", self.now, self.steps);
        }
        let steps = self.steps;
        let due = |trigger: &Trigger| match *trigger {
            Trigger::Step(step) => step == steps,
            Trigger::At(at, of) => (at, of) == (side, moment),
        };
        let mut killed = false;
        while let Some(index) = self.faults.iter().position(|(trigger, _)| due(trigger)) {
            let (_, blow) = self.faults.remove(index);
            if self.tracing {
                eprintln!("{:?} {blow:?}", self.now);
            }
            self.strike(blow);
            killed |= match side {
                Side::Source => matches!(blow, Blow::KillSource { .. }),
                Side::Destination => matches!(blow, Blow::KillDestination { .. }),
            };
        }
        killed
    }

    fn strike(&mut self, blow: Blow) {
        let links = 0..self.links.len();
        let (control, pages): (Vec<_>, Vec<_>) = links.clone().partition(|&link| self.links[link].is_control);
        match blow {
            Blow::KillSource { silent } => {
                if silent {
                    links.for_each(|link| self.cut(link, Cut::Never));
                }
                self.kill(Side::Source);
            }
            Blow::KillDestination { back } => {
                self.kill(Side::Destination);
                if let Some(back) = back {
                    self.returns = true;
                    self.at(self.now + back, What::Return);
                }
            }
            Blow::CutControl(how) => control.into_iter().for_each(|link| self.cut(link, how)),
            Blow::CutChannel(how) => {
                if let Some(&link) = pages.last() {
                    self.cut(link, how);
                }
            }
            Blow::CutAll(how) => links.for_each(|link| self.cut(link, how)),
            Blow::Partition(time) => {
                self.parted_until = self.now + time;
                self.excused += time;
                links.for_each(|link| self.cut(link, Cut::Slow));
            }
            Blow::Stall(time) => {
                self.stalled_until = self.now + time;
                self.excused += time;
            }
            Blow::StallLinks(time) => {
                self.excused += time;
                links.for_each(|link| self.links[link].stalled_until = self.now + time);
            }
            Blow::Freeze(side, time) => {
                let frozen = match side {
                    Side::Source => &mut self.origin.frozen_until,
                    Side::Destination => &mut self.arrival.frozen_until,
                };
                *frozen = self.now + time;
                self.excused += time;
                self.at(self.now + time, What::Wake(side));
            }
            Blow::Cancel => self.source_input(Event::Cancel),
            Blow::CancelDestination => self.cancel_at_destination(),
        }
    }

    fn kill(&mut self, side: Side) {
        for link in 0..self.links.len() {
            self.close(link, side);
        }
        if self.lock == Some(side) {
            self.lock = None;
        }
        match side {
            Side::Source => {
                self.origin.guest = Guest::Absent;
                self.origin.attempt = None;
            }
            Side::Destination => {
                self.arrival.alive = false;
                self.arrival.guest = Guest::Absent;
            }
        }
    }

    fn must_hold(&mut self) -> Result<(), String> {
        if let Some(violated) = self.violated.take() {
            return Err(violated);
        }
        let (here, there) = (self.origin.guest, self.arrival.guest);
        if here == Guest::Running && there != Guest::Absent {
            return Err(format!("two machines: {here:?} at the source, {there:?} at the destination"));
        }
        if here == Guest::Running && self.lock != Some(Side::Source) {
            return Err("the machine runs at the source without its disk".into());
        }
        if here == Guest::Running && self.ran_there {
            return Err("the machine runs at the source after it ran at the destination".into());
        }
        self.destination_must_hold()?;
        let Some(attempt) = &self.origin.attempt else { return Ok(()) };
        let may_run = attempt.source.side().may_run();
        if here == Guest::Running && !may_run {
            return Err("the machine runs at the source, which may not run it".into());
        }
        let status = attempt.source.status();
        let stopped = self.origin.stopped_at.map_or(Duration::ZERO, |at| self.now - at);
        let limit = if self.plan.is_quick() { STOPPED } else { STOPPED_LONG + self.excused };
        let limit = limit + self.plan.wait.unwrap_or_default();
        if may_run && stopped > limit {
            return Err(format!("the machine has been stopped for {stopped:?}"));
        }
        let awaited = attempt.committed.map_or(Duration::ZERO, |at| self.now - at);
        let is_awake = self.now >= self.origin.frozen_until;
        if is_awake && awaited > CERTAIN && status != Status::Unknown {
            return Err(format!(
                "nobody has known for {awaited:?} who runs the machine, the source says {status:?}"
            ));
        }
        Ok(())
    }

    /// What must hold of the destination by itself.
    fn destination_must_hold(&self) -> Result<(), String> {
        let there = self.arrival.guest;
        if there != Guest::Absent && self.lock != Some(Side::Destination) {
            return Err("the machine is at the destination without its disk".into());
        }
        if there != Guest::Absent && !self.arrival.state.side().may_run() {
            return Err("the machine is at the destination, which may not have it".into());
        }
        let held = self.now - self.arrival.locked_at;
        if self.lock == Some(Side::Destination)
            && !self.arrival.state.side().may_run()
            && held > HELD + self.excused
        {
            return Err(format!("the destination has held the disk for {held:?}"));
        }
        Ok(())
    }

    /// Whether nothing will happen any more by itself.
    fn is_settled(&self) -> bool {
        let there =
            !self.arrival.alive || self.arrival.guest != Guest::Absent || !self.arrival.state.is_busy();
        let hopeless = !self.arrival.alive && !self.returns;
        let here = match &self.origin.attempt {
            _ if self.origin.guest == Guest::Absent => true,
            Some(attempt) => self.is_past_knowing() && attempt.source.status() == Status::Unknown,
            None => self.origin.last == Some(Outcome::Completed) || (hopeless && self.origin.last.is_some()),
        };
        here && there && !self.returns
    }

    /// *Go* was said, and the destination that could tell what became of it is gone.
    fn is_past_knowing(&self) -> bool {
        let committed = self.origin.attempt.as_ref().is_some_and(|attempt| attempt.committed.is_some());
        committed && (!self.arrival.alive || (self.arrival.life > 0 && self.arrival.guest == Guest::Absent))
    }

    fn end(&self) -> Result<End, String> {
        let (here, there) = (self.origin.guest, self.arrival.guest);
        let wanted = if self.plan.paused { Guest::Paused } else { Guest::Running };
        match (here, there) {
            (Guest::Absent | Guest::Stopped, there) if there == wanted => Ok(End::AtDestination),
            (here, Guest::Absent) if here == wanted => {
                if self.arrival.alive {
                    Err("the machine did not move".into())
                } else {
                    Ok(End::AtSource)
                }
            }
            (Guest::Absent, Guest::Absent) => Ok(End::Nowhere),
            (Guest::Stopped, Guest::Absent) if self.is_past_knowing() => Ok(End::Unknown),
            (Guest::Stopped, Guest::Absent)
                if self.origin.last == Some(Outcome::Completed)
                    && (!self.arrival.alive || self.arrival.life > 0) =>
            {
                Ok(End::Nowhere)
            }
            _ => Err(format!("{here:?} at the source, {there:?} at the destination")),
        }
    }
}
