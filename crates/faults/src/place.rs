//! Where a fault strikes.

use std::{fmt, str::FromStr};

use crate::{FaultError, FrameName, Phase};

/// A position in the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which connections are watched. The first that comes to the moment has it.
    pub connections: Connections,
    /// When.
    pub moment: Moment,
}

/// Connections of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Connections {
    /// The control connection.
    Control,
    /// A connection on which a source asks what became of a session.
    Ask,
    /// The page channel of this number.
    Channel(u16),
    /// Every page channel.
    Channels,
    /// The connection for pages that a running machine waits for.
    Urgent,
    /// All.
    Any,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the source.
    ToDestination,
    /// From the destination.
    ToSource,
}

/// A moment in the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// When the `nth` frame of that name (from 1, counted over all connections that are watched) passes.
    Frame {
        /// Where at the frame.
        edge: Edge,
        /// Its name.
        name: FrameName,
        /// Which one.
        nth: u32,
    },
    /// Before the frame of this number, from 0, of either kind; on an encrypted connection, before the record.
    Number(Way, u64),
    /// Before the byte of this number, from 0.
    Byte(Way, u64),
    /// Before the byte of this number, from 0, of those that pass on a connection while the migration is in this phase.
    Phase(Way, Phase, u64),
}

/// Where at a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edge {
    /// Nothing of it was passed on.
    Before,
    /// All of it was passed on.
    After,
    /// Before its byte of this number. Past its end counting begins anew, so that any number is within.
    In(u64),
}

impl Way {
    /// The other way.
    #[must_use]
    pub fn back(self) -> Self {
        match self {
            Self::ToDestination => Self::ToSource,
            Self::ToSource => Self::ToDestination,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToDestination => "to-destination",
            Self::ToSource => "to-source",
        })
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Ask => f.write_str("ask"),
            Self::Channel(number) => write!(f, "channel{number}"),
            Self::Channels => f.write_str("channels"),
            Self::Urgent => f.write_str("urgent"),
            Self::Any => f.write_str("any"),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Number(way, number) => write!(f, "{way}:frame:{number}"),
            Self::Byte(way, number) => write!(f, "{way}:byte:{number}"),
            Self::Phase(way, phase, number) => write!(f, "{way}:{}:{number}", phase.name()),
            Self::Frame { edge, name, nth } => {
                let word = match edge {
                    Edge::Before => "before",
                    Edge::After => "after",
                    Edge::In(_) => "in",
                };
                write!(f, "{word}:{}", name.name())?;
                if nth != 1 {
                    write!(f, "#{nth}")?;
                }
                if let Edge::In(byte) = edge { write!(f, "+{byte}") } else { Ok(()) }
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.connections, self.moment)
    }
}

impl FromStr for Place {
    type Err = FaultError;

    fn from_str(typed: &str) -> Result<Self, FaultError> {
        let wrong = |problem| FaultError::new(typed, problem);
        let (connections, moment) = typed.split_once(':').ok_or_else(|| wrong("has no moment"))?;
        let connections = match connections {
            "control" => Connections::Control,
            "ask" => Connections::Ask,
            "channels" => Connections::Channels,
            "urgent" => Connections::Urgent,
            "any" => Connections::Any,
            other => {
                let number = other.strip_prefix("channel").and_then(number);
                let number = number.and_then(|number| u16::try_from(number).ok());
                Connections::Channel(number.ok_or_else(|| {
                    wrong("names no connection: control, ask, channel0 …, channels, urgent, or any")
                })?)
            }
        };
        let (word, rest) =
            moment.split_once(':').ok_or_else(|| wrong("has a moment that is not two words"))?;
        let moment = match word {
            "to-destination" => by_number(Way::ToDestination, rest),
            "to-source" => by_number(Way::ToSource, rest),
            "before" => by_name(rest, |byte| byte.is_none().then_some(Edge::Before)),
            "after" => by_name(rest, |byte| byte.is_none().then_some(Edge::After)),
            "in" => by_name(rest, |byte| byte.map(Edge::In)),
            _ => Err("has a moment that begins with none of before, after, in, to-destination, to-source"),
        };
        Ok(Self { connections, moment: moment.map_err(wrong)? })
    }
}

fn by_number(way: Way, typed: &str) -> Result<Moment, &'static str> {
    let problem = "has a moment that is neither frame:N nor byte:N nor PHASE:N";
    let (unit, typed) = typed.split_once(':').ok_or(problem)?;
    let number = number(typed).ok_or(problem)?;
    match unit {
        "frame" => Ok(Moment::Number(way, number)),
        "byte" => Ok(Moment::Byte(way, number)),
        _ => Phase::from_name(unit).map(|phase| Moment::Phase(way, phase, number)).ok_or(problem),
    }
}

fn by_name(typed: &str, edge: impl Fn(Option<u64>) -> Option<Edge>) -> Result<Moment, &'static str> {
    let (typed, byte) = match typed.split_once('+') {
        Some((typed, byte)) => (typed, Some(number(byte).ok_or("has a byte that is no number")?)),
        None => (typed, None),
    };
    let (name, nth) = match typed.split_once('#') {
        Some((name, nth)) => (name, number(nth).and_then(|nth| u32::try_from(nth).ok()).unwrap_or(0)),
        None => (typed, 1),
    };
    if nth == 0 {
        return Err("counts frames with something else than a number from 1");
    }
    let name = FrameName::from_name(name).ok_or("names a frame that does not exist")?;
    let edge = edge(byte).ok_or("needs '+BYTE' after 'in', and only there")?;
    Ok(Moment::Frame { edge, name, nth })
}

/// A number of digits alone: the parser of integers would take a sign.
pub(crate) fn number(typed: &str) -> Option<u64> {
    typed.bytes().all(|byte| byte.is_ascii_digit()).then(|| typed.parse().ok())?
}
