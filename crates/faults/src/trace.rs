//! What passed, and what was done.

use std::{fmt, time::Duration};

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
    /// What.
    pub name: FrameName,
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
    /// At which frame; `None` among bytes that are no frame.
    pub name: Option<FrameName>,
}

impl Struck {
    /// The phase of the migration in which it struck.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match self.which {
            Some(Which::Ask) => Some(Phase::Asking),
            _ => self.name.map(FrameName::phase),
        }
    }
}

/// Entries that are kept: the last tell what happened.
const MAX_PASSED: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Trace {
    passed: Mutex<Vec<Passed>>,
    struck: Mutex<Vec<Struck>>,
}

impl Trace {
    pub(crate) fn pass(&self, new: Passed) {
        let mut passed = self.passed.lock();
        let alike = |old: &&mut Passed| {
            (old.which, old.way, old.name, old.whole) == (new.which, new.way, new.name, new.whole)
        };
        if let Some(last) = passed.last_mut().filter(alike) {
            last.count += 1;
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
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.pad("control"),
            Self::Ask => f.pad("ask"),
            Self::Channel(number) => f.pad(&format!("channel{number}")),
        }
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = self.which.map_or_else(|| "?".to_owned(), |which| which.to_string());
        let arrow = if self.way == Way::ToDestination { "->" } else { "<-" };
        write!(f, "{:>9.1} ms  {which:<9} {arrow} {}", self.at.as_secs_f64() * 1e3, self.name.name())?;
        if self.count > 1 {
            write!(f, " x{}", self.count)?;
        }
        if self.whole { Ok(()) } else { f.write_str(" (not all of it)") }
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = self.which.map_or_else(|| "?".to_owned(), |which| which.to_string());
        let name = self.name.map_or("bytes that are no frame", FrameName::name);
        write!(f, "{:>9.1} ms  {which:<9} !! {} (at {name})", self.at.as_secs_f64() * 1e3, self.fault)
    }
}
