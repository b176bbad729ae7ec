use std::time::Duration;

/// What people can do about a migration that does not get to its end by itself. A program finds the words, as only it knows
/// what its parameters are called and how they are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// A switchover costs more than [`crate::Params::downtime_limit`] here, however little is left to send.
    RaiseDowntimeLimit {
        /// A limit that is high enough, as far as is known.
        enough: Duration,
    },
    /// Rounds are held to [`crate::Params::max_bandwidth`], and the last pass is not. If the network is faster, less downtime is foretold
    /// to whoever says so in [`crate::Params::switchover_bandwidth`], or raises the limit.
    TellSwitchoverBandwidth,
    /// Memory is dirtied as fast as it is sent: each of these would end it, and so would postcopy.
    DoesNotConverge {
        /// So much of vCPU time would have to be taken, in per cent ([`crate::Params::throttling`]).
        per_cent: u8,
        /// A downtime limit that is high enough.
        downtime: Duration,
    },
    /// It is not foretold to be over in time: means that would help are not allowed.
    AllowMore {
        /// Slowing vCPUs down is one of them.
        throttle: bool,
        /// Postcopy is one of them.
        postcopy: bool,
    },
}
