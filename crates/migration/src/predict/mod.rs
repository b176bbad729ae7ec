//! What a migration would be like that has not begun: how long by which mode, and which one would be taken.
//!
//! Pure code over the functions that a migration decides by ([`Pace`], [`needed`], the order of [`Means`]), so that what is foretold
//! and what is done cannot drift apart.

mod pattern;

use std::time::Duration;

use crate::{
    FixedCosts, Means, Params, Postcopy,
    by_when::{RESERVE, SLOWER},
    dirtying::{Course, JUDGED_AFTER, Pace, Position},
    page_cost,
    throttle::{AIM, needed},
};

pub use pattern::{Pattern, Seen};

/// What is known of a machine that runs where it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// All pages of its memory.
    pub pages: u64,
    /// Those that are zero, or were never touched: they are not sent as they are.
    pub empty: u64,
    /// How it dirties them; `None` if it does not.
    pub dirtying: Option<Pattern>,
    /// What a page takes packed as was agreed, of what it takes as it is; 1 where nothing is packed.
    pub packed: f64,
    /// Its vCPUs, 1 or more.
    pub vcpus: u8,
}

/// What is known of the way to the destination.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes that it takes in a second.
    pub bytes_per_second: f64,
    /// Whether what goes over it is encrypted.
    pub is_encrypted: bool,
}

/// A way to move a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Rounds of precopy, and nothing else.
    Precopy,
    /// Rounds, with a downtime longer than the limit at the end, as long as the user accepts.
    Downtime,
    /// Rounds, with vCPUs slowed down.
    Throttle,
    /// One round, or more where they may get somewhere; what was dirtied meanwhile follows the machine.
    Postcopy,
    /// All memory follows the machine.
    Immediate,
}

/// What a migration by one mode would be like.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The mode.
    pub mode: Mode,
    /// Whether it ends. If not, the figures are those of the first round.
    pub ends: bool,
    /// From its start to its end.
    pub total: Duration,
    /// How long the machine stands still.
    pub downtime: Duration,
    /// Bytes on the wire.
    pub bytes: f64,
    /// CPU time of both hosts together.
    pub cpu: Duration,
    /// Share of its work that the guest loses until the end, 0 to 1.
    pub loss: f64,
    /// Why it may not be taken as things are set; empty if it may.
    pub forbidden: &'static str,
}

/// What is foretold of a migration.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// By every mode, in the order of the harm they do.
    pub forecasts: Vec<Forecast>,
    /// The one that would be taken.
    pub choice: Mode,
    /// Why, in a sentence for people.
    pub reason: String,
}

/// Bytes on the wire for a page that is zero: a part of a run.
const EMPTY_PAGE_BYTES: f64 = 0.1;
/// Entry of a page in the table of its batch.
const ENTRY_BYTES: f64 = 20.0;
/// CPU seconds of both hosts for each byte on the wire: 0.58 s for 2 GiB in clear, 1.28 s encrypted, as was measured (README). Packing
/// takes more.
const CPU_PER_BYTE: f64 = 0.29 / (1 << 30) as f64;
const CIPHER_PER_BYTE: f64 = 0.35 / (1 << 30) as f64;
/// What the first write to a page costs a vCPU while the dirty log is on. From 0.5 µs, where a processor helps, to 5 µs.
const FIRST_WRITE: f64 = 2e-6;
/// What a vCPU waits for a page beside its bytes: the way through both hosts and back.
const WAIT: f64 = 200e-6;

impl Mode {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Downtime => "downtime",
            Self::Throttle => "throttle",
            Self::Postcopy => "postcopy",
            Self::Immediate => "immediate",
        }
    }

    fn of(means: Means) -> Self {
        match means {
            Means::Downtime => Self::Downtime,
            Means::Throttle => Self::Throttle,
            Means::Postcopy => Self::Postcopy,
        }
    }
}

/// What a migration of `machine` with these parameters over `link` would be like.
#[must_use]
pub fn predict(machine: &Machine, link: &Link, params: &Params, fixed: &FixedCosts) -> Prediction {
    let sight = Sight::new(machine, link, params, fixed);
    let forecasts = vec![
        sight.precopy(),
        sight.longer_downtime(),
        sight.throttled(),
        sight.postcopy(),
        sight.immediate(),
    ];
    let (choice, reason) = choose(&forecasts, params);
    Prediction { forecasts, choice, reason }
}

/// What follows from the facts, once and for all modes.
struct Sight<'a> {
    machine: &'a Machine,
    params: &'a Params,
    fixed: Duration,
    /// Bytes of a page that is sent.
    page_bytes: f64,
    /// CPU seconds of both hosts for each byte.
    cpu_per_byte: f64,
    /// Seconds and bytes of the first round.
    first: (f64, f64),
    /// Pages a second, when the machine is stopped.
    last_pass: f64,
    /// How the machine goes on; `None` if it dirties nothing.
    pace: Option<Pace>,
}

impl<'a> Sight<'a> {
    fn new(machine: &'a Machine, link: &Link, params: &'a Params, fixed: &FixedCosts) -> Self {
        let cpu_per_byte = CPU_PER_BYTE + if link.is_encrypted { CIPHER_PER_BYTE } else { 0.0 };
        let link = link.bytes_per_second.max(1.0);
        let limited = |limit: u64| if limit > 0 { link.min(limit as f64) } else { link };
        let page_bytes =
            page_cost::AS_IT_IS * machine.packed.clamp(1e-3, 1.0).max(ENTRY_BYTES / page_cost::AS_IT_IS);
        let full = machine.pages.saturating_sub(machine.empty) as f64;
        let bytes = full * page_bytes + machine.empty as f64 * EMPTY_PAGE_BYTES;
        let wire = limited(params.max_bandwidth) / page_bytes;
        let pace = |pattern: Pattern| Pace {
            working_set: pattern.working_set.min(machine.pages as f64),
            hazard: pattern.hazard,
            wire,
        };
        Self {
            machine,
            params,
            fixed: fixed.total(),
            page_bytes,
            cpu_per_byte,
            first: (bytes / limited(params.max_bandwidth), bytes),
            last_pass: limited(params.switchover_bandwidth) / page_bytes,
            pace: machine.dirtying.map(pace),
        }
    }

    fn precopy(&self) -> Forecast {
        self.by_rounds(Mode::Precopy, self.params.downtime_limit, 1.0, "")
    }

    fn longer_downtime(&self) -> Forecast {
        let most = self.params.by_when.as_ref().map_or(Duration::ZERO, |by_when| by_when.longest_downtime);
        let limit = self.params.downtime_limit.max(most);
        let forbidden = self.unless_means(
            Means::Downtime,
            most > self.params.downtime_limit,
            "whimbrel-downtime-max is not above downtime-limit",
        );
        self.by_rounds(Mode::Downtime, limit, 1.0, forbidden)
    }

    fn throttled(&self) -> Forecast {
        let most = self.params.throttling.max();
        let forbidden = self.unless_means(Means::Throttle, most > 0.0, "auto-converge is off");
        let wanted = self.pace.map_or(0.0, |pace| needed(&pace, AIM));
        let share = if most > 0.0 { wanted.min(most) } else { wanted };
        self.by_rounds(Mode::Throttle, self.params.downtime_limit, 1.0 - share, forbidden)
    }

    fn postcopy(&self) -> Forecast {
        let forbidden =
            self.unless_means(Means::Postcopy, self.params.postcopy.is_possible(), "postcopy-ram is off");
        let ((seconds, bytes), dirty) = (self.first, self.dirty_after_first(1.0));
        if self.params.postcopy != Postcopy::Auto || self.params.by_when.is_some() {
            return self.followed(Mode::Postcopy, dirty, (seconds, bytes), forbidden);
        }
        // By itself it comes to that when a second round has got nowhere.
        let left = self.pace.map_or(0.0, |pace| pace.at_the_end(Position { unsent: dirty, dirty }));
        let second = self.pace.map_or(0.0, |pace| dirty / pace.wire);
        let before = (seconds + second, bytes + dirty * self.page_bytes);
        self.followed(Mode::Postcopy, left, before, forbidden)
    }

    /// The seconds and pages of a second round that begins with so many dirty pages, up to where it is judged, and where it stands then.
    fn second_round(&self, dirty: f64) -> ((f64, f64), Position) {
        let Some(pace) = self.pace else { return ((0.0, 0.0), Position { unsent: dirty, dirty }) };
        let (takes, judged) = (dirty / pace.wire, JUDGED_AFTER.as_secs_f64());
        if takes > judged {
            let sent = pace.wire * judged;
            // Of a working set that is dirtied faster than it is sent about as much is dirty all the time.
            return ((judged, sent), Position { unsent: dirty - sent, dirty });
        }
        let left = pace.at_the_end(Position { unsent: dirty, dirty });
        ((takes, dirty), Position { unsent: left, dirty: left })
    }

    fn immediate(&self) -> Forecast {
        let forbidden = if self.params.postcopy == Postcopy::Immediate {
            ""
        } else {
            "whimbrel-postcopy is not immediate"
        };
        let full = self.machine.pages.saturating_sub(self.machine.empty) as f64;
        self.followed(Mode::Immediate, full, (0.0, 0.0), forbidden)
    }

    /// Why a means is not used: it is not possible, or a deadline's order leaves it out.
    fn unless_means(&self, means: Means, is_possible: bool, not_possible: &'static str) -> &'static str {
        match &self.params.by_when {
            _ if !is_possible => not_possible,
            Some(by_when) if !by_when.means.contains(&means) => "whimbrel-means leaves it out",
            _ => "",
        }
    }

    /// Rounds until what is left fits this limit, with vCPUs that run for the share `run` of their time from the second one on.
    fn by_rounds(&self, mode: Mode, limit: Duration, run: f64, forbidden: &'static str) -> Forecast {
        let enough = limit.saturating_sub(self.fixed).as_secs_f64() * self.last_pass;
        let (first, first_bytes) = self.first;
        let dirty = self.dirty_after_first(1.0);
        // What is taken from vCPUs is decided by the second round, which goes on at full speed until then.
        let (before, position) = if run < 1.0 {
            self.second_round(dirty)
        } else {
            ((0.0, 0.0), Position { unsent: dirty, dirty })
        };
        let course = match self.pace {
            Some(pace) => pace.at(run).course(position, enough),
            None => Some(Course::default()),
        };
        let ends = course.is_some() && limit >= self.fixed;
        let course = course.unwrap_or_default();
        let last = course.left / self.last_pass;
        let rounds = first + before.0 + course.seconds;
        let bytes = first_bytes + (before.1 + course.sent + course.left) * self.page_bytes;
        let total = rounds + last + self.fixed.as_secs_f64();
        let logged = self.pace.map_or(0.0, |pace| (pace.at(run).ratio() * pace.wire).min(1.0 / FIRST_WRITE));
        let taken = if rounds > 0.0 { (1.0 - run) * course.seconds / rounds } else { 0.0 };
        Forecast {
            mode,
            ends,
            total: seconds(total),
            downtime: seconds(last) + self.fixed,
            bytes,
            cpu: seconds(bytes * self.cpu_per_byte),
            loss: (taken + logged * FIRST_WRITE / f64::from(self.machine.vcpus.max(1))).clamp(0.0, 1.0),
            forbidden,
        }
    }

    /// So many pages follow the machine, after rounds of so many seconds and bytes.
    fn followed(&self, mode: Mode, pages: f64, before: (f64, f64), forbidden: &'static str) -> Forecast {
        let limit = self.params.max_postcopy_bandwidth;
        let unlimited = self.last_pass.max(1.0);
        let wire = if limit > 0 { unlimited.min(limit as f64 / self.page_bytes) } else { unlimited };
        let takes = pages / wire * SLOWER;
        // Of the pages that are missing and that the machine would write, it comes upon those that have not come before.
        let waits = self.pace.map_or(0.0, |pace| {
            let missing = pages.min(pace.working_set);
            missing * (1.0 - stays_clean(pace.hazard * takes)) * WAIT
        });
        let total = before.0 + self.fixed.as_secs_f64() + takes;
        let bytes = before.1 + pages * self.page_bytes;
        let lost = (waits / f64::from(self.machine.vcpus.max(1))).min(takes);
        Forecast {
            mode,
            ends: true,
            total: seconds(total),
            downtime: self.fixed,
            bytes,
            cpu: seconds(bytes * self.cpu_per_byte),
            loss: if total > 0.0 { lost / total } else { 0.0 },
            forbidden,
        }
    }

    /// Pages that are dirty when the first round is over: each could be dirtied again for as long as the round went on after it.
    fn dirty_after_first(&self, run: f64) -> f64 {
        self.pace.map_or(0.0, |pace| pace.working_set * (1.0 - stays_clean(pace.hazard * run * self.first.0)))
    }
}

/// Share of pages, sent evenly in a time, that are clean at its end, where each is dirtied `times` in all of it.
fn stays_clean(times: f64) -> f64 {
    if times < 1e-9 { 1.0 } else { (1.0 - (-times).exp()) / times }
}

/// The mode that would be taken, and why: as a migration decides.
fn choose(forecasts: &[Forecast], params: &Params) -> (Mode, String) {
    let of = |mode| forecasts.iter().find(|forecast| forecast.mode == mode);
    let in_time = |forecast: &Forecast| {
        forecast.ends
            && params
                .by_when
                .as_ref()
                .is_none_or(|by_when| forecast.total <= by_when.deadline.mul_f64(1.0 - RESERVE))
    };
    if params.postcopy == Postcopy::Immediate {
        return (Mode::Immediate, "whimbrel-postcopy is immediate".into());
    }
    if of(Mode::Precopy).is_some_and(in_time) {
        return (Mode::Precopy, "Rounds come to an end by themselves".into());
    }
    let order = match &params.by_when {
        Some(by_when) => by_when.means.iter().copied().map(Mode::of).collect(),
        None if params.throttling.max() > 0.0 => vec![Mode::Throttle],
        None if params.postcopy == Postcopy::Auto => vec![Mode::Postcopy],
        None => Vec::new(),
    };
    let allowed = |mode: &Mode| of(*mode).is_some_and(|forecast| forecast.forbidden.is_empty());
    if let Some(mode) = order.iter().copied().filter(allowed).find(|mode| of(*mode).is_some_and(in_time)) {
        let why = if of(Mode::Precopy).is_some_and(|forecast| forecast.ends) {
            "Rounds alone end later than the deadline"
        } else {
            "Rounds alone do not come to an end"
        };
        return (mode, format!("{why}; {} is the first means that is allowed and enough", mode.name()));
    }
    if params.by_when.is_some()
        && forecasts.iter().any(|forecast| forecast.ends && forecast.forbidden.is_empty())
    {
        return (
            Mode::Precopy,
            "No means that is allowed ends it by the deadline: all that are allowed would be used".into(),
        );
    }
    let would: Vec<_> = forecasts
        .iter()
        .filter(|forecast| forecast.ends && forecast.mode != Mode::Immediate)
        .map(|forecast| forecast.mode.name())
        .collect();
    (
        Mode::Precopy,
        format!(
            "It does not end as it is set: memory is dirtied faster than it is sent. These would end it: {}",
            would.join(", ")
        ),
    )
}

/// At most what a duration can hold, and nobody waits for.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}

#[cfg(test)]
mod tests;
