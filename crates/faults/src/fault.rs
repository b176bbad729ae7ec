//! What is done to a migration: faults and their text.
//!
//! ```text
//! FAULT      := WHAT "@" CONNECTION ":" MOMENT
//! WHAT       := "cut" | "reset" | "half-cut" | "cut-all" | "reset-all"
//!             | "stall=" TIME | "stall-all=" TIME | "black-hole" | "black-hole-all"
//!             | "delay=" TIME | "flip=" BIT
//!             | "kill=" SIDE | "freeze=" SIDE ":" TIME | "outage=" TIME
//! CONNECTION := "control" | "ask" | "channel" N | "channels" | "urgent" | "any"
//! MOMENT     := ("before" | "after") ":" FRAME | "in:" FRAME "+" BYTE
//!             | ("to-destination" | "to-source") ":" ("frame" | "byte" | PHASE) ":" N
//! FRAME      := NAME ["#" N]        the Nth of that name, the first if nothing is said
//! PHASE      := "handshake" | "rounds" | "switchover" | "hand-over" | "postcopy" | "release"
//!             | "asking"
//! SIDE       := "source" | "destination"
//! TIME       := N ("ms" | "s")
//! ```

use std::{fmt, str::FromStr, time::Duration};

use crate::{Moment, Place, place::number};

/// What happens, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What.
    pub what: What,
    /// Where.
    pub place: Place,
}

/// What happens to a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The connection is closed in both directions, as by a process that ends.
    Cut,
    /// The connection is reset in both directions (a unix socket, which cannot be, is closed).
    Reset,
    /// The way on which the fault strikes is closed, the other stays open.
    HalfCut,
    /// All connections are closed.
    CutAll,
    /// All connections are reset.
    ResetAll,
    /// Nothing passes on this connection for so long; nothing is lost.
    Stall(Duration),
    /// Nothing passes on any connection for so long.
    StallAll(Duration),
    /// Nothing passes on this connection any more, and nobody is told.
    BlackHole,
    /// Nothing passes on any connection any more. New ones are fine.
    BlackHoleAll,
    /// From here on each frame on this way of this connection takes so much longer.
    Delay(Duration),
    /// This bit, 0 to 7, of the next byte is turned over.
    Flip(u8),
    /// The process is killed (SIGKILL), and has ended before anything else passes.
    Kill(Side),
    /// The process is stopped (SIGSTOP) for so long.
    Freeze(Side, Duration),
    /// All connections are reset, and for so long every new one is.
    Outage(Duration),
}

/// A side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where the machine comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// A text that is no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{typed}' {problem}: a fault is written as cut@control:before:go or flip=3@channel0:in:pages#2+4100"
)]
pub struct FaultError {
    typed: String,
    problem: &'static str,
}

impl FaultError {
    pub(crate) fn new(typed: &str, problem: &'static str) -> Self {
        Self { typed: typed.chars().take(200).collect(), problem }
    }
}

/// The longest time that can be asked for: an hour.
const MAX_MILLIS: u64 = 3_600_000;

impl What {
    /// The kind of harm, without its figures.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::HalfCut => "half-cut",
            Self::CutAll => "cut-all",
            Self::ResetAll => "reset-all",
            Self::Stall(_) => "stall",
            Self::StallAll(_) => "stall-all",
            Self::BlackHole => "black-hole",
            Self::BlackHoleAll => "black-hole-all",
            Self::Delay(_) => "delay",
            Self::Flip(_) => "flip",
            Self::Kill(Side::Source) => "kill=source",
            Self::Kill(Side::Destination) => "kill=destination",
            Self::Freeze(Side::Source, _) => "freeze=source",
            Self::Freeze(Side::Destination, _) => "freeze=destination",
            Self::Outage(_) => "outage",
        }
    }
}

impl What {
    /// Whose process it is done to, if it is done to one.
    #[must_use]
    pub fn victim(self) -> Option<Side> {
        match self {
            Self::Kill(side) | Self::Freeze(side, _) => Some(side),
            _ => None,
        }
    }
}

impl Fault {
    /// Whether it can strike on encrypted connections too, of whose frames few can be told.
    #[must_use]
    pub fn strikes_encrypted(&self) -> bool {
        match self.place.moment {
            Moment::Frame { name, .. } => name.is_told_encrypted(),
            Moment::Number(..) | Moment::Byte(..) | Moment::Phase(..) => true,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match *self {
            Self::Stall(time) | Self::StallAll(time) | Self::Delay(time) | Self::Outage(time) => {
                write!(f, "={}", Time(time))
            }
            Self::Freeze(_, time) => write!(f, ":{}", Time(time)),
            Self::Flip(bit) => write!(f, "={bit}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.what, self.place)
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(typed: &str) -> Result<Self, FaultError> {
        let (what, place) =
            typed.split_once('@').ok_or_else(|| FaultError::new(typed, "has no '@' before its place"))?;
        Ok(Self { what: what.parse()?, place: place.parse()? })
    }
}

impl FromStr for What {
    type Err = FaultError;

    fn from_str(typed: &str) -> Result<Self, FaultError> {
        let wrong = |problem| FaultError::new(typed, problem);
        let (word, value) = match typed.split_once('=') {
            Some((word, value)) => (word, Some(value)),
            None => (typed, None),
        };
        let timed = || value.and_then(time).ok_or_else(|| wrong("needs a time, such as 250ms or 2s"));
        let plain = match word {
            "cut" => Self::Cut,
            "reset" => Self::Reset,
            "half-cut" => Self::HalfCut,
            "cut-all" => Self::CutAll,
            "reset-all" => Self::ResetAll,
            "black-hole" => Self::BlackHole,
            "black-hole-all" => Self::BlackHoleAll,
            "stall" => return Ok(Self::Stall(timed()?)),
            "stall-all" => return Ok(Self::StallAll(timed()?)),
            "delay" => return Ok(Self::Delay(timed()?)),
            "outage" => return Ok(Self::Outage(timed()?)),
            "flip" => {
                let bit = value.and_then(number).filter(|bit| *bit < 8);
                return Ok(Self::Flip(bit.ok_or_else(|| wrong("needs a bit from 0 to 7"))? as u8));
            }
            "kill" => {
                let side = value.and_then(side);
                return Ok(Self::Kill(side.ok_or_else(|| wrong("needs a side: source or destination"))?));
            }
            "freeze" => {
                let both = value.and_then(|value| value.split_once(':'));
                let both = both.and_then(|(who, long)| Some((side(who)?, time(long)?)));
                let (side, time) = both.ok_or_else(|| wrong("needs a side and a time, such as source:2s"))?;
                return Ok(Self::Freeze(side, time));
            }
            _ => return Err(wrong("is nothing that can be done")),
        };
        if value.is_some() { Err(wrong("takes no '='")) } else { Ok(plain) }
    }
}

fn side(typed: &str) -> Option<Side> {
    match typed {
        "source" => Some(Side::Source),
        "destination" => Some(Side::Destination),
        _ => None,
    }
}

fn time(typed: &str) -> Option<Duration> {
    let millis = match typed.strip_suffix("ms") {
        Some(digits) => number(digits)?,
        None => number(typed.strip_suffix('s')?)?.checked_mul(1000)?,
    };
    (millis <= MAX_MILLIS).then(|| Duration::from_millis(millis))
}

/// A time as it is typed.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) { write!(f, "{}s", millis / 1000) } else { write!(f, "{millis}ms") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Draw, Random};

    #[test]
    fn faults_read_as_they_are_written() {
        for text in [
            "cut@control:before:go",
            "reset-all@any:to-source:byte:900",
            "half-cut@channels:after:pages#12",
            "flip=7@channel3:in:last-round-end+18",
            "freeze=destination:250ms@ask:before:running",
            "kill=source@control:after:ready",
            "stall=2s@control:in:device#3+40",
            "outage=1500ms@control:after:go",
            "black-hole@channel0:to-destination:frame:7",
            "flip=2@channels:to-destination:switchover:900",
            "cut@control:to-source:hand-over:0",
        ] {
            let fault: Fault = text.parse().unwrap();
            assert_eq!(fault.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_fault_is_refused_with_a_reason() {
        for (text, reason) in [
            ("cut", "no '@'"),
            ("cut@control", "no moment"),
            ("cut@control:before", "not two words"),
            ("cut@control:before:dinner", "does not exist"),
            ("cut@control:before:go+3", "only there"),
            ("cut@control:in:go", "needs '+BYTE'"),
            ("cut@control:before:go#0", "from 1"),
            ("cut@channelx:before:pages", "names no connection"),
            ("cut@channel70000:before:pages", "names no connection"),
            ("cut=3@control:before:go", "takes no '='"),
            ("flip=8@control:before:go", "0 to 7"),
            ("stall@control:before:go", "needs a time"),
            ("stall=+1s@control:before:go", "needs a time"),
            ("stall=99999999999999999999s@control:before:go", "needs a time"),
            ("freeze=source@control:before:go", "a side and a time"),
            ("kill=me@control:before:go", "needs a side"),
            ("explode@control:before:go", "nothing that can be done"),
            ("cut@any:to-source:bit:3", "neither frame:N nor byte:N"),
            ("cut@any:to-source:rounds:x", "nor PHASE:N"),
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_fault_that_can_be_drawn_survives_its_text(seed: u64) {
            for encrypted in [false, true] {
                let draw = Draw { encrypted, ..Draw::default() };
                for fault in draw.faults(&mut Random::new(seed)) {
                    prop_assert_eq!(fault.to_string().parse(), Ok(fault));
                }
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}", tail in "(cut|flip=1|stall=)?@(any|channel1):(in|before|to-source):.{0,12}") {
            let _ = text.parse::<Fault>();
            let _ = tail.parse::<Fault>();
        }
    }
}
