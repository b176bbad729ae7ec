use std::{fmt, os::fd::RawFd, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{TapFd, ValueError, convert::written_as_text, options::Options};

/// Where a process has the device from that makes userfaultfds, which it may not open itself: `fd=N`, a descriptor of
/// `/dev/userfaultfd` that it inherits. N is 3 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserfaultDevice(TapFd);

impl UserfaultDevice {
    /// The number. Whether it is open, and that device, is for the VMM to find out.
    #[must_use]
    pub fn raw(self) -> RawFd {
        self.0.raw()
    }
}

impl FromStr for UserfaultDevice {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let fd = Options::parse(typed, "fd", None)?.value("fd")?;
        fd.map(Self).ok_or_else(|| ValueError::Fd { typed: typed.into() })
    }
}

impl fmt::Display for UserfaultDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd={}", self.raw())
    }
}

written_as_text!(UserfaultDevice);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_a_descriptor_beyond_the_standard_streams() {
        let device: UserfaultDevice = "fd=5".parse().unwrap();
        assert_eq!((device.raw(), device.to_string()), (5, "fd=5".into()));
        for typed in ["", "fd=", "fd=2", "path=/dev/userfaultfd"] {
            assert!(typed.parse::<UserfaultDevice>().is_err(), "{typed}");
        }
    }
}
