//! Where a migration stands, in QEMU's words.

/// Status of a migration, with the meaning that QEMU gives these names in `query-migrate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Status {
    /// None was started.
    #[default]
    None,
    /// Connecting and shaking hands.
    Setup,
    /// Rounds are being sent while the machine runs.
    Active,
    /// The machine is stopped and waits for the user to let it go on.
    PreSwitchover,
    /// The machine is stopped; the last pages and the device states are on their way.
    Device,
    /// A cancel was asked for and is being carried out.
    Cancelling,
    /// It was cancelled; the machine is at the source.
    Cancelled,
    /// It failed; the machine is at the source.
    Failed,
    /// The machine runs at the destination, and pages that it lacks are being sent.
    PostcopyActive,
    /// The same, and the link is lost: what needs a page that is missing waits, all else runs on.
    PostcopyPaused,
    /// The two sides have found each other again, and settle which pages are missing.
    PostcopyRecover,
    /// *Go* was said, and the destination has not been heard since: nobody runs the machine as far as the source
    /// knows, and the source keeps asking. Whimbrel's own status.
    Unknown,
    /// The machine runs at the destination.
    Completed,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The machine runs at the destination (or is paused there, if it was paused).
    Completed,
    /// The user cancelled; the machine is at the source.
    Cancelled,
    /// It failed for this reason; the machine is at the source.
    Failed(String),
}

impl Status {
    /// The name on the monitor.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Active => "active",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::PostcopyActive => "postcopy-active",
            Self::PostcopyPaused => "postcopy-paused",
            Self::PostcopyRecover => "postcopy-recover",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Completed => "completed",
        }
    }

    /// Whether the machine runs at the destination, and lacks pages.
    #[must_use]
    pub fn is_postcopy(self) -> bool {
        matches!(self, Self::PostcopyActive | Self::PostcopyPaused | Self::PostcopyRecover)
    }

    /// Whether an attempt is under way.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        !matches!(self, Self::None | Self::Cancelled | Self::Failed | Self::Completed)
    }
}

impl Outcome {
    /// The status in which an attempt that ended so is left.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Completed => Status::Completed,
            Self::Cancelled => Status::Cancelled,
            Self::Failed(_) => Status::Failed,
        }
    }
}
