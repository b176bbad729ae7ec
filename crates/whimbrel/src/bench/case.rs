use std::{fmt, str::FromStr, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

/// What is moved how: each case is measured and summed up by itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Case {
    /// Connections that carry pages.
    pub(super) channels: u8,
    /// How long the destination has listened when the migration begins.
    #[serde(rename = "head_start_seconds")]
    pub(super) head_start: HeadStart,
    /// Whether connections are encrypted.
    #[serde(rename = "tls")]
    pub(super) encryption: Encryption,
}

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Encryption {
    /// They are not.
    #[default]
    Off,
    /// With TLS.
    On,
}

/// Seconds from 0 to 60: what a destination has to prepare it may have done by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct HeadStart(f64);

/// More than any destination needs.
const LONGEST: f64 = 60.0;

impl Case {
    /// The most that Whimbrel's total time may be of QEMU's.
    pub(super) fn total_goal(self) -> f64 {
        match self.encryption {
            Encryption::On => 0.6,
            Encryption::Off if self.head_start.is_none() => 0.8,
            Encryption::Off => 0.6,
        }
    }

    /// The most that Whimbrel's CPU time may be of QEMU's.
    pub(super) fn cpu_goal(self) -> f64 {
        match self.encryption {
            Encryption::On => 0.6,
            Encryption::Off => 0.75,
        }
    }

    /// Whether `other` is the same but for encryption, which this one has.
    pub(super) fn is_encrypted(self, other: Self) -> bool {
        self == Self { encryption: Encryption::On, ..other } && other.encryption == Encryption::Off
    }
}

impl HeadStart {
    pub(super) fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }

    pub(super) fn is_none(self) -> bool {
        self.0 == 0.0
    }
}

impl FromStr for HeadStart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(seconds) if (0.0..=LONGEST).contains(&seconds) => Ok(Self(seconds)),
            _ => Err(format!("not a number of seconds from 0 to {LONGEST}")),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.channels == 1 { "" } else { "s" };
        write!(f, "{} channel{plural}, destination ", self.channels)?;
        match self.head_start {
            none if none.is_none() => write!(f, "just started"),
            HeadStart(seconds) => write!(f, "up for {seconds} s"),
        }?;
        if self.encryption == Encryption::On { write!(f, ", encrypted") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_start_is_a_number_of_seconds() {
        let parse = |text: &str| text.parse::<HeadStart>();
        assert_eq!(parse("0.3").map(HeadStart::duration), Ok(Duration::from_millis(300)));
        assert!(parse("0").is_ok_and(HeadStart::is_none));
        for wrong in ["-1", "61", "NaN", "inf", "soon", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_case_says_what_is_measured() {
        let encryption = Encryption::Off;
        let case = |channels, head_start| {
            Case { channels, head_start: HeadStart(head_start), encryption }.to_string()
        };
        assert_eq!(case(4, 0.0), "4 channels, destination just started");
        assert_eq!(case(1, 1.0), "1 channel, destination up for 1 s");
    }
}
