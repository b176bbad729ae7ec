use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ValueError, convert::written_as_text};

/// How it is found out which pages a guest writes: `bitmap`, `ring`, `ring=ENTRIES` or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DirtyLogKind {
    /// As is measured to be best: that is a bitmap.
    #[default]
    Auto,
    /// KVM keeps a bit for every page.
    Bitmap,
    /// KVM writes down the pages of each vCPU one after the other.
    Ring(RingEntries),
}

/// Pages that fit into the ring of one vCPU: a power of two from 1024 to 65536, 16 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEntries(u32);

impl RingEntries {
    /// What a ring has unless another number is given, and the most: 65536, which are 1 MiB for each vCPU.
    pub const MOST: Self = Self(65_536);
    const FEWEST: u32 = 1024;

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for DirtyLogKind {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::DirtyLog { typed: typed.into() };
        match typed.split_once('=') {
            None => match typed {
                "auto" => Ok(Self::Auto),
                "bitmap" => Ok(Self::Bitmap),
                "ring" => Ok(Self::Ring(RingEntries::MOST)),
                _ => Err(wrong()),
            },
            Some(("ring", entries)) => {
                let entries: u32 = entries.parse().map_err(|_| wrong())?;
                let possible = RingEntries::FEWEST..=RingEntries::MOST.0;
                if !possible.contains(&entries) || !entries.is_power_of_two() {
                    return Err(wrong());
                }
                Ok(Self::Ring(RingEntries(entries)))
            }
            Some(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for DirtyLogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bitmap => f.write_str("bitmap"),
            Self::Ring(RingEntries::MOST) => f.write_str("ring"),
            Self::Ring(RingEntries(entries)) => write!(f, "ring={entries}"),
        }
    }
}

written_as_text!(DirtyLogKind);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_written_as_it_is_read() {
        for typed in ["auto", "bitmap", "ring", "ring=1024", "ring=32768"] {
            assert_eq!(typed.parse::<DirtyLogKind>().unwrap().to_string(), typed);
        }
        assert_eq!("ring=65536".parse(), "ring".parse::<DirtyLogKind>());
    }

    #[test]
    fn a_ring_has_a_possible_number_of_entries() {
        for typed in
            ["", "ring=", "ring=0", "ring=512", "ring=1000", "ring=131072", "ring=-1024", "bitmap=4", "Ring"]
        {
            assert!(typed.parse::<DirtyLogKind>().is_err(), "{typed}");
        }
    }
}
