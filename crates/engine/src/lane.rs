use std::fmt;

/// A connection that carries pages that follow a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The page channel of this number.
    Channel(u16),
    /// The one for pages that the machine waits for.
    Urgent,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(index) => write!(f, "Page channel {index}"),
            Self::Urgent => f.write_str("The urgent connection"),
        }
    }
}
