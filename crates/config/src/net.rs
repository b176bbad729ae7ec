use std::{fmt, os::fd::RawFd, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{MacAddress, ValueError, convert::written_as_text, options::Options};

/// One network card of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    pub(crate) backend: NetBackend,
    pub(crate) mac: MacAddress,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetBackend {
    /// A tap interface of the host, by name.
    Tap(TapName),
    /// A tap that is already open, as a descriptor that the VMM inherits.
    Fd(TapFd),
}

/// One network card as typed: `tap=NAME[,mac=ADDRESS]` or `fd=N[,mac=ADDRESS]`, or a mapping with these keys in YAML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawNet {
    /// Name of a tap interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapName>,
    /// Descriptor of an open tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<TapFd>,
    /// Address of the card; derived from the name of the VM and the card's index where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
}

/// Name of a network interface: 1 to 15 bytes, without `/`, `:`, `%`, white space or control characters, not `.` or `..`
/// (the kernel's `dev_valid_name`, and no template of names).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TapName(String);

/// Number of a descriptor that the VMM inherits: 3 or more, since 0 to 2 are its standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "i32")]
pub struct TapFd(RawFd);

impl Net {
    /// What the card is connected to.
    #[must_use]
    pub fn backend(&self) -> &NetBackend {
        &self.backend
    }

    /// Its address. No two cards of a machine have the same.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.mac
    }
}

impl TapName {
    /// `IFNAMSIZ`, less the final NUL.
    const MAX_BYTES: usize = 15;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TapFd {
    /// The number. Whether it is open, and a tap, is for the VMM to find out.
    #[must_use]
    pub fn raw(self) -> RawFd {
        self.0
    }
}

impl FromStr for RawNet {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let options = Options::parse(typed, "tap fd mac", None)?;
        Ok(Self { tap: options.value("tap")?, fd: options.value("fd")?, mac: options.value("mac")? })
    }
}

impl FromStr for TapName {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
        if !(1..=Self::MAX_BYTES).contains(&typed.len())
            || typed.contains(forbidden)
            || matches!(typed, "." | "..")
        {
            return Err(ValueError::Text {
                what: "Interface name",
                typed: typed.into(),
                problem: "is not possible: write 1 to 15 characters without spaces, '/', ':' or '%'",
            });
        }
        Ok(Self(typed.into()))
    }
}

impl FromStr for TapFd {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        match typed.parse() {
            Ok(fd @ 3..) => Ok(Self(fd)),
            _ => Err(ValueError::Fd { typed: typed.into() }),
        }
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NetBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => write!(f, "tap '{name}'"),
            Self::Fd(fd) => write!(f, "descriptor {}", fd.raw()),
        }
    }
}

written_as_text!(TapName);

impl TryFrom<String> for TapFd {
    type Error = ValueError;

    fn try_from(typed: String) -> Result<Self, ValueError> {
        typed.parse()
    }
}

impl From<TapFd> for RawFd {
    fn from(fd: TapFd) -> Self {
        fd.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_on_a_tap_or_a_descriptor() {
        let net: RawNet = "tap=tap0,mac=02:00:00:00:00:01".parse().unwrap();
        assert_eq!(net.tap.unwrap().as_str(), "tap0");
        assert_eq!("fd=7".parse::<RawNet>().unwrap().fd.unwrap().raw(), 7);
    }

    #[test]
    fn names_and_descriptors_that_no_kernel_takes_are_refused() {
        for typed in [
            "tap0",
            "tap=",
            "tap=.",
            "tap=..",
            "tap=a/b",
            "tap=a b",
            "tap=a:1",
            "tap=tap%d",
            "tap=0123456789abcdef",
            "fd=",
            "fd=2",
            "fd=-1",
            "fd=2147483648",
            "fd=x",
            "tap=a,mac=01:00:5e:00:00:01",
            "tap=a,vhost=on",
        ] {
            assert!(typed.parse::<RawNet>().is_err(), "{typed:?}");
        }
    }
}
