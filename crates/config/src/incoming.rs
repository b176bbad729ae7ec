use std::{fmt, str::FromStr};

use address::Address;
use serde::{Deserialize, Serialize};

use crate::{ValueError, convert::written_as_text};

/// How a VM that is to be migrated in gets to know where from (`--incoming`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Incoming {
    /// It listens here as soon as it has started.
    At(Address),
    /// It waits for the monitor command `migrate-incoming`.
    Defer,
}

impl FromStr for Incoming {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        if typed == "defer" { Ok(Self::Defer) } else { Ok(Self::At(typed.parse()?)) }
    }
}

impl fmt::Display for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Defer => f.write_str("defer"),
        }
    }
}

written_as_text!(Incoming);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incoming_may_be_deferred() {
        assert_eq!("defer".parse::<Incoming>().unwrap(), Incoming::Defer);
        let address = "tcp:[::1]:1".parse().unwrap();
        assert_eq!("tcp:[::1]:1".parse::<Incoming>().unwrap(), Incoming::At(address));
        assert!("deferred".parse::<Incoming>().is_err());
    }
}
