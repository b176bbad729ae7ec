//! Every figure of a run, by name.

use std::ops::Range;

use crate::{Run, Scenario, felt, scale::Plan};

/// One figure: its name, and how it is made of a run. `None` where it was not seen.
#[derive(Clone, Copy)]
pub struct Figure {
    /// In files: its words with `-`.
    pub name: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// How it is made.
    pub of: fn(&Run, &Plan) -> Option<f64>,
    /// Whether more of it is better; else less is.
    pub more_is_better: bool,
}

impl std::fmt::Debug for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Millions of bytes each second.
    MegabytesPerSecond,
    /// A number.
    Number,
    /// Percent.
    Percent,
}

/// What is looked at after a move is over, in milliseconds: what it did to users may show only then.
pub const AFTER_MS: f64 = 1500.0;

/// From the command until it is over, and the machine runs there.
pub const TOTAL: Figure = less("total-time", Unit::Seconds, |run, _| Some(run.over_ms() / 1e3));
/// Bytes on the wire by the total time.
pub const BANDWIDTH: Figure = more("bandwidth", Unit::MegabytesPerSecond, |run, _| {
    let wire = &run.trace.wire;
    Some((felt::at(wire, run.over_ms())? - felt::at(wire, 0.0)?) / run.over_ms() / 1e3)
});
/// What the first pass has of what the link gives.
pub const FIRST_PASS: Figure = more("first-pass", Unit::Percent, |run, plan| {
    if run.mode.is_postcopy() {
        return None;
    }
    let rate = felt::first_pass(&run.trace.wire, plan.memory as f64)?;
    Some(rate / plan.gives(run.scenario)? * 100.0)
});
/// From the source's STOP to the destination's RESUME.
pub const DOWNTIME: Figure =
    less("downtime", Unit::Milliseconds, |run, _| Some(run.resume_ms? - run.stop_ms?));
/// As the guest's own clocks have it.
pub const GAP: Figure = less("downtime-felt", Unit::Milliseconds, |run, _| run.gap_ms);
/// The longest time in which a CPU of the guest did not turn, in the whole move and after it.
pub const LONGEST_STOP: Figure = less("longest-stop", Unit::Milliseconds, |run, _| run.longest_stop_ms);
/// The longest freeze of both films.
pub const FREEZE: Figure = less("video-freeze", Unit::Milliseconds, |run, _| {
    let freeze = |film: Option<felt::Film>| film.map(|film| film.longest_freeze_ms);
    match (freeze(film_25(run)), freeze(film_60(run))) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
});
/// Frames that were late, of the film with 25 a second.
pub const LATE_25: Figure = less("frames-late-25", Unit::Number, |run, _| Some(film_25(run)?.late as f64));
/// Frames that never came, of the film with 25 a second.
pub const LOST_25: Figure = less("frames-lost-25", Unit::Number, |run, _| Some(film_25(run)?.lost as f64));
/// Frames that were late, of the film with 60 a second.
pub const LATE_60: Figure = less("frames-late-60", Unit::Number, |run, _| Some(film_60(run)?.late as f64));
/// Frames that never came, of the film with 60 a second.
pub const LOST_60: Figure = less("frames-lost-60", Unit::Number, |run, _| Some(film_60(run)?.lost as f64));
/// Pings of every second that were sent.
pub const PINGS_SENT: Figure = less("pings-sent", Unit::Number, |run, _| Some(pings_1s(run)?.sent as f64));
/// Pings of every second that were answered.
pub const PINGS_RECEIVED: Figure =
    less("pings-received", Unit::Number, |run, _| Some(pings_1s(run)?.received as f64));
/// Pings every 10 ms that were not answered.
pub const PINGS_LOST: Figure = less("pings-lost-10ms", Unit::Number, |run, _| {
    pings_10ms(run).map(|pings| (pings.sent - pings.received) as f64)
});
/// The longest time without an answer to pings every 10 ms.
pub const PING_GAP: Figure =
    less("ping-gap", Unit::Milliseconds, |run, _| Some(pings_10ms(run)?.longest_gap_ms));
/// The longest time in which a TCP stream did not go on.
pub const STALL: Figure =
    less("tcp-stall", Unit::Milliseconds, |run, _| felt::longest_stall(&run.trace.stream, &window(run)));
/// TCP segments that were sent again.
pub const RETRANSMISSIONS: Figure =
    less("tcp-retransmissions", Unit::Number, |run, _| run.trace.retransmissions.map(|count| count as f64));
/// What the guest did not do of its work.
pub const WORK_LOST: Figure =
    less("work-lost", Unit::Percent, |run, plan| Some(work(run, plan)?.lost_percent));
/// From the resume until the guest works as before.
pub const BACK: Figure = less("back-at-work", Unit::Milliseconds, |run, plan| work(run, plan)?.back_ms);

/// All of them.
pub const ALL: [Figure; 19] = [
    TOTAL,
    BANDWIDTH,
    FIRST_PASS,
    DOWNTIME,
    GAP,
    LONGEST_STOP,
    FREEZE,
    LATE_25,
    LOST_25,
    LATE_60,
    LOST_60,
    PINGS_SENT,
    PINGS_RECEIVED,
    PINGS_LOST,
    PING_GAP,
    STALL,
    RETRANSMISSIONS,
    WORK_LOST,
    BACK,
];

const fn less(name: &'static str, unit: Unit, of: fn(&Run, &Plan) -> Option<f64>) -> Figure {
    Figure { name, unit, of, more_is_better: false }
}

const fn more(name: &'static str, unit: Unit, of: fn(&Run, &Plan) -> Option<f64>) -> Figure {
    Figure { name, unit, of, more_is_better: true }
}

/// The time in which a user may have felt it.
#[must_use]
pub fn window(run: &Run) -> Range<f64> {
    0.0..run.over_ms() + AFTER_MS
}

/// What became of pings every second.
#[must_use]
pub fn pings_1s(run: &Run) -> Option<felt::Pings> {
    felt::pings(&run.trace.pings_1s, &window(run))
}

fn pings_10ms(run: &Run) -> Option<felt::Pings> {
    felt::pings(&run.trace.pings_10ms, &window(run))
}

fn work(run: &Run, plan: &Plan) -> Option<felt::Work> {
    felt::work(&run.trace.work, plan.dirty_rate(run.scenario) as f64, run.over_ms(), run.resume_ms)
}

fn film_25(run: &Run) -> Option<felt::Film> {
    felt::film(&run.trace.frames_25, 25.0, &window(run))
}

fn film_60(run: &Run) -> Option<felt::Film> {
    felt::film(&run.trace.frames_60, 60.0, &window(run))
}

impl Unit {
    /// A value in it, without its name.
    #[must_use]
    pub fn number(self, value: f64) -> String {
        match self {
            Self::Seconds => format!("{value:.2}"),
            Self::Milliseconds if value.abs() < 10.0 => format!("{value:.1}"),
            Self::Percent => format!("{value:.1}"),
            Self::Milliseconds | Self::MegabytesPerSecond | Self::Number => format!("{value:.0}"),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::MegabytesPerSecond => "MB/s",
            Self::Number => "",
            Self::Percent => "%",
        }
    }
}

/// What scenario and plan mean in plain numbers, as a sentence.
#[must_use]
pub fn scenario_sentence(plan: &Plan, scenario: Scenario) -> String {
    format!(
        "{scenario}: {:.0} MB/s dirtied, {:.0} MB/s of bandwidth, a first pass takes {:.1} s",
        plan.dirty_rate(scenario) as f64 / 1e6,
        plan.bandwidth(scenario) as f64 / 1e6,
        plan.first_pass_s(scenario)
    )
}
