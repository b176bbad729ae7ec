use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ValueError, convert::written_as_text};

/// The name of a VM: 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

/// What the guest reads as the serial number of a disk: 1 to 20 letters, digits, `-`, `_` or `.`.
///
/// The length is `VIRTIO_BLK_ID_BYTES` (virtio 1.2, section 5.2.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskSerial(String);

/// A kernel command line: at most 2047 bytes of text without control characters.
///
/// The limit is Linux's `COMMAND_LINE_SIZE` on x86, less the final NUL. What the VMM adds must fit beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandLine(String);

impl VmName {
    const MAX_BYTES: usize = 63;

    /// The name where none was given.
    #[must_use]
    pub fn unnamed() -> Self {
        Self("vm".into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DiskSerial {
    const MAX_BYTES: usize = 20;

    /// `disk0` for the first disk, and so on.
    #[must_use]
    pub fn numbered(index: usize) -> Self {
        // Twenty digits and the prefix do not fit, but there are never more than a few disks.
        Self(format!("disk{}", index % 1_000_000))
    }

    /// The serial as text, ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CommandLine {
    const MAX_BYTES: usize = 2047;

    /// The command line as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        if !is_word(typed, Self::MAX_BYTES) || !typed.starts_with(|first: char| first.is_ascii_alphanumeric())
        {
            return Err(ValueError::Text {
                what: "Name",
                typed: typed.into(),
                problem: "is not possible: write 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit",
            });
        }
        Ok(Self(typed.into()))
    }
}

impl FromStr for DiskSerial {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        if !is_word(typed, Self::MAX_BYTES) {
            return Err(ValueError::Text {
                what: "Disk serial",
                typed: typed.into(),
                problem: "is not possible: write 1 to 20 letters, digits, '-', '_' or '.'",
            });
        }
        Ok(Self(typed.into()))
    }
}

impl FromStr for CommandLine {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let problem = if typed.len() > Self::MAX_BYTES {
            "is longer than 2047 bytes: shorten it"
        } else if typed.chars().any(char::is_control) {
            "has control characters: write it on one line, with spaces between the words"
        } else {
            return Ok(Self(typed.into()));
        };
        let shown = typed.chars().take(80).collect();
        Err(ValueError::Text { what: "Command line", typed: shown, problem })
    }
}

fn is_word(typed: &str, max_bytes: usize) -> bool {
    (1..=max_bytes).contains(&typed.len())
        && typed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

written_as_text!(VmName DiskSerial CommandLine);

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DiskSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_that_begin_with_a_letter_or_digit() {
        for typed in ["a", "db-1.prod_x", "7", &"x".repeat(63)] {
            assert!(typed.parse::<VmName>().is_ok(), "{typed}");
        }
        for typed in ["", "-a", ".", "a b", "a/b", "ä", "a\n", "a\0", "\u{202e}a", &"x".repeat(64)] {
            assert!(typed.parse::<VmName>().is_err(), "{typed:?}");
        }
    }

    #[test]
    fn disk_serials_fit_the_20_bytes_of_virtio_blk() {
        assert!("x".repeat(20).parse::<DiskSerial>().is_ok());
        assert!("x".repeat(21).parse::<DiskSerial>().is_err());
        assert!("".parse::<DiskSerial>().is_err());
        assert!(DiskSerial::numbered(usize::MAX).as_str().len() <= 20);
    }

    #[test]
    fn a_command_line_is_one_line_that_fits_the_kernel() {
        assert!("console=ttyS0 root=/dev/vda quiet".parse::<CommandLine>().is_ok());
        assert!("".parse::<CommandLine>().is_ok());
        assert!("x".repeat(2048).parse::<CommandLine>().is_err());
        assert!("a\nb".parse::<CommandLine>().is_err());
        assert!("a\0b".parse::<CommandLine>().is_err());
    }
}
