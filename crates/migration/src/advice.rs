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
}
