//! What passed, and what was done.

use std::{collections::BTreeMap, fmt, time::Duration};

use parking_lot::Mutex;

use crate::{Connections, Fault, FrameName, Phase, Way};

/// A connection, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The control connection.
    Control,
    /// A source asks what became of a session.
    Ask,
    /// A page channel.
    Channel(u16),
    /// What a running machine waits for.
    Urgent,
}

/// A frame that passed, or some of one name in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Since the proxy was started.
    pub at: Duration,
    /// On which connection; `None` if that never became known.
    pub which: Option<Which>,
    /// Which way.
    pub way: Way,
    /// What; `None` for a record of TLS that is taken for no message in particular.
    pub name: Option<FrameName>,
    /// In which phase of the migration, if one has begun.
    pub phase: Option<Phase>,
    /// How many in a row.
    pub count: u32,
    /// Whether all of it was passed on.
    pub whole: bool,
}

/// A fault that struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    /// Since the proxy was started.
    pub at: Duration,
    /// What and where it was meant to.
    pub fault: Fault,
    /// On which connection it did.
    pub which: Option<Which>,
    /// At which frame; `None` among bytes that are no frame, and at a record of TLS that is taken for no message in particular.
    pub name: Option<FrameName>,
    /// The phase of the migration in which it struck; `None` among bytes that are no frame.
    pub phase: Option<Phase>,
}

/// Entries that are kept: the last tell what happened.
const MAX_PASSED: usize = 1000;
/// Entries among which one is looked for that a record of TLS can be counted with.
const RECORDS_TOGETHER: usize = 24;

#[derive(Debug, Default)]
pub(crate) struct Trace {
    passed: Mutex<Vec<Passed>>,
    /// Every name that came, however long ago, and whether all of such a frame was passed on.
    names: Mutex<BTreeMap<FrameName, bool>>,
    struck: Mutex<Vec<Struck>>,
}

impl Trace {
    pub(crate) fn pass(&self, new: Passed) {
        if let Some(name) = new.name {
            *self.names.lock().entry(name).or_default() |= new.whole;
        }
        let mut passed = self.passed.lock();
        let key = |passed: &Passed| (passed.which, passed.way, passed.name, passed.whole, passed.phase);
        // Records of several channels take turns, by the thousand.
        let mut latest = passed.iter_mut().rev().take(if new.name.is_none() { RECORDS_TOGETHER } else { 1 });
        if let Some(alike) = latest.find(|old| key(old) == key(&new)) {
            alike.count += 1;
            return;
        }
        if passed.len() == MAX_PASSED {
            passed.remove(0);
        }
        passed.push(new);
    }

    pub(crate) fn strike(&self, struck: Struck) {
        self.struck.lock().push(struck);
    }

    pub(crate) fn passed(&self) -> Vec<Passed> {
        self.passed.lock().clone()
    }

    pub(crate) fn has_passed(&self, name: FrameName) -> Option<bool> {
        self.names.lock().get(&name).copied()
    }

    pub(crate) fn struck(&self) -> Vec<Struck> {
        self.struck.lock().clone()
    }
}

impl Connections {
    /// Whether a connection is among them.
    #[must_use]
    pub fn include(self, which: Option<Which>) -> bool {
        match self {
            Self::Any => true,
            Self::Control => which == Some(Which::Control),
            Self::Ask => which == Some(Which::Ask),
            Self::Channels => matches!(which, Some(Which::Channel(_))),
            Self::Channel(number) => which == Some(Which::Channel(number)),
            Self::Urgent => which == Some(Which::Urgent),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.pad("control"),
            Self::Ask => f.pad("ask"),
            Self::Channel(number) => f.pad(&format!("channel{number}")),
            Self::Urgent => f.pad("urgent"),
        }
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = self.which.map_or_else(|| "?".to_owned(), |which| which.to_string());
        let arrow = if self.way == Way::ToDestination { "->" } else { "<-" };
        write!(f, "{:>9.1} ms  {which:<9} {arrow} ", self.at.as_secs_f64() * 1e3)?;
        match (self.name, self.phase) {
            (Some(name), _) => f.write_str(name.name())?,
            (None, Some(phase)) => write!(f, "encrypted, {}", phase.name())?,
            (None, None) => f.write_str("encrypted")?,
        }
        if self.count > 1 {
            write!(f, " x{}", self.count)?;
        }
        if self.whole { Ok(()) } else { f.write_str(" (not all of it)") }
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = self.which.map_or_else(|| "?".to_owned(), |which| which.to_string());
        write!(f, "{:>9.1} ms  {which:<9} !! {} ", self.at.as_secs_f64() * 1e3, self.fault)?;
        match (self.name, self.phase) {
            (Some(name), _) => write!(f, "(at {})", name.name()),
            (None, Some(phase)) => write!(f, "(encrypted, {})", phase.name()),
            (None, None) => f.write_str("(at bytes that are no frame)"),
        }
    }
}
