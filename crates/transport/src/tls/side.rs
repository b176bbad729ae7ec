use super::Purpose;

/// Which side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that dials: a TLS client.
    Source,
    /// The one that is dialled: a TLS server.
    Destination,
}

impl Side {
    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// What its certificate must be for.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Source => Purpose::Client,
            Self::Destination => Purpose::Server,
        }
    }

    /// What it is called in names of files, and by TLS.
    pub(super) fn in_tls(self) -> &'static str {
        match self {
            Self::Source => "client",
            Self::Destination => "server",
        }
    }
}
