//! What a run will meet, drawn from its seed.

use std::time::Duration;

use crate::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// Something a side does or hears; the moment before it is when a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Does(&'static str),
    Hears(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Before the step with this number.
    Step(u64),
    /// Before this side does or hears this for the first time.
    At(Side, Moment),
}

/// How the ends of a connection learn that it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// At once.
    Fast,
    /// By the time-outs of TCP.
    Slow,
    /// Never: only the migration's own time-outs help.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// `kill -9` of the source, or (`silent`) its host loses power. The machine is gone with it.
    KillSource { silent: bool },
    /// `kill -9` of the destination; it may be started again, empty.
    KillDestination { back: Option<Duration> },
    /// The control connection breaks.
    CutControl(Cut),
    /// One page channel breaks.
    CutChannel(Cut),
    /// Every connection breaks.
    CutAll(Cut),
    /// Nothing gets through for a while, and connections break.
    Partition(Duration),
    /// Nothing gets through for a while, but nothing is lost.
    Stall(Duration),
    /// The same, for the connections that are open now; new ones are not affected.
    StallLinks(Duration),
    /// A process is stopped for a while (SIGSTOP); its kernel still accepts connections and bytes.
    Freeze(Side, Duration),
    /// The user cancels at the source.
    Cancel,
    /// The user cancels at the destination.
    CancelDestination,
}

impl Blow {
    /// Whether it is over in no time, and both sides notice at once.
    fn is_quick(self) -> bool {
        match self {
            Self::KillSource { silent } => !silent,
            Self::CutControl(cut) | Self::CutChannel(cut) | Self::CutAll(cut) => cut == Cut::Fast,
            Self::KillDestination { .. } | Self::Cancel | Self::CancelDestination => true,
            Self::Partition(_) | Self::Stall(_) | Self::StallLinks(_) | Self::Freeze(..) => false,
        }
    }
}

/// What a machine may fail to do, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Prepare,
    Fetch,
    Stop,
    Save,
    Check,
    Load,
    Run,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) pages: usize,
    pub(crate) channels: u16,
    pub(crate) downtime_limit: Duration,
    pub(crate) write_every: Duration,
    /// The machine is paused from the start.
    pub(crate) paused: bool,
    /// Pause before switchover, and how long the user takes to let it go on.
    pub(crate) wait: Option<Duration>,
    pub(crate) digest: bool,
    pub(crate) fails: Option<Call>,
    /// Loading and starting the machine take seconds now and then.
    pub(crate) slow_host: bool,
    pub(crate) faults: Vec<(Trigger, Blow)>,
}

const LABELS: &[(Side, Moment)] = &[
    (Side::Source, Moment::Does("Stop")),
    (Side::Source, Moment::Does("SaveDevices")),
    (Side::Source, Moment::Does("Complete")),
    (Side::Source, Moment::Hears("Ready")),
    (Side::Source, Moment::Does("Go")),
    (Side::Source, Moment::Hears("Running")),
    (Side::Source, Moment::Does("Bye")),
    (Side::Source, Moment::Does("Ask")),
    (Side::Source, Moment::Does("Resume")),
    (Side::Source, Moment::Does("Abort")),
    (Side::Source, Moment::Hears("NotRunning")),
    (Side::Destination, Moment::Hears("Complete")),
    (Side::Destination, Moment::Does("Load")),
    (Side::Destination, Moment::Does("Ready")),
    (Side::Destination, Moment::Hears("Go")),
    (Side::Destination, Moment::Does("Run")),
    (Side::Destination, Moment::Does("Running")),
    (Side::Destination, Moment::Hears("Ask")),
    (Side::Destination, Moment::Hears("Bye")),
    (Side::Destination, Moment::Hears("Abort")),
    (Side::Destination, Moment::Does("Discard")),
];

/// Every kind of fault.
pub(crate) const BLOWS: &[Blow] = &[
    Blow::KillSource { silent: false },
    Blow::KillSource { silent: true },
    Blow::KillDestination { back: None },
    Blow::KillDestination { back: Some(Duration::from_millis(1500)) },
    Blow::CutControl(Cut::Fast),
    Blow::CutControl(Cut::Slow),
    Blow::CutControl(Cut::Never),
    Blow::CutChannel(Cut::Fast),
    Blow::CutChannel(Cut::Slow),
    Blow::CutChannel(Cut::Never),
    Blow::CutAll(Cut::Fast),
    Blow::CutAll(Cut::Slow),
    Blow::CutAll(Cut::Never),
    Blow::Partition(Duration::from_secs(3)),
    Blow::Partition(Duration::from_secs(40)),
    Blow::Stall(Duration::from_secs(2)),
    Blow::Stall(Duration::from_secs(14)),
    Blow::StallLinks(Duration::from_secs(7)),
    Blow::StallLinks(Duration::from_secs(40)),
    Blow::Freeze(Side::Source, Duration::from_secs(45)),
    Blow::Freeze(Side::Destination, Duration::from_secs(8)),
    Blow::Freeze(Side::Destination, Duration::from_secs(45)),
    Blow::Cancel,
    Blow::CancelDestination,
];

impl Plan {
    /// A small busy machine and no faults.
    pub(crate) fn calm(seed: u64) -> Self {
        Self {
            seed,
            pages: 12,
            channels: 2,
            downtime_limit: Duration::from_millis(300),
            write_every: Duration::from_millis(3),
            paused: false,
            wait: None,
            digest: false,
            fails: None,
            slow_host: false,
            faults: Vec::new(),
        }
    }

    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let faults = (0..rng.below(4)).map(|_| {
            let trigger = if rng.one_in(2) {
                let (side, moment) = rng.pick(LABELS);
                Trigger::At(side, moment)
            } else {
                Trigger::Step(rng.below(160))
            };
            (trigger, rng.pick(BLOWS))
        });
        let faults = faults.collect();
        Self {
            seed,
            pages: 1 + rng.below(24) as usize,
            channels: 1 + rng.below(4) as u16,
            downtime_limit: Duration::from_millis(rng.pick(&[300, 50, 8, 1])),
            write_every: rng.micros(1000, 9000),
            paused: rng.one_in(6),
            wait: rng.one_in(5).then(|| rng.pick(&[Duration::from_millis(40), Duration::from_secs(70)])),
            digest: rng.one_in(2),
            fails: rng.one_in(4).then(|| {
                use Call::*;
                rng.pick(&[Prepare, Fetch, Stop, Save, Check, Load, Run])
            }),
            slow_host: rng.one_in(3),
            faults,
        }
    }

    /// Whether nothing happens that takes long.
    pub(crate) fn is_quick(&self) -> bool {
        !self.slow_host && self.faults.iter().all(|(_, blow)| blow.is_quick())
    }

    pub(crate) fn with(mut self, trigger: Trigger, blow: Blow) -> Self {
        self.faults.push((trigger, blow));
        self
    }
}
