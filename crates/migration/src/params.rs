//! What the user chose.

use std::time::Duration;

use crate::{ByWhen, Encodings, Throttling, WireRate};

/// Parameters of a migration. There will be more: begin with [`Params::default`], and set those that are to differ, as
/// `Params::default().channels(2)` or by assignment. Those marked *live* take effect while it runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Params {
    /// Bytes per second over all channels together, 0 for no limit. Live. Not applied to the last pass, when the
    /// machine is stopped.
    pub max_bandwidth: u64,
    /// Longest downtime at which the decision to switch over may be taken. Live.
    pub downtime_limit: Duration,
    /// Bytes per second to assume for the last pass, 0 for what the rounds were sent at. Those are held to
    /// [`Self::max_bandwidth`] and the last pass is not: where the network can do more, only the user can say how much. Live.
    pub switchover_bandwidth: u64,
    /// Page channels to ask for, 1 to [`wire::MAX_CHANNELS`].
    pub channels: u16,
    /// Stop before the last pass and wait for the user to let it go on.
    pub pause_before_switchover: bool,
    /// When the machine may run at the destination before all of its memory is there.
    pub postcopy: Postcopy,
    /// Bytes per second over all channels for pages that follow a machine that runs, 0 for no limit. Those that it waits for
    /// come without a limit. Live.
    pub max_postcopy_bandwidth: u64,
    /// Whether vCPUs may be slowed down for rounds to come to an end.
    pub throttling: Throttling,
    /// By when it is to be over.
    pub by_when: Option<ByWhen>,
    /// How pages are encoded to take less on the wire. What the destination lacks is not used.
    pub encodings: Encodings,
    /// Most bytes of memory that the kernel may pin, over all channels together, to send them without a copy; 0 to have them copied.
    pub zero_copy: u64,
    /// What to compare before the machine runs at the destination.
    pub digest: wire::Digest,
    /// How long beyond [`Self::downtime_limit`] the machine may be stopped in switchover before the attempt is given up and
    /// it runs on at the source.
    pub switchover_timeout: Duration,
    /// How long the destination may be silent before the attempt is given up.
    pub peer_timeout: Duration,
}

/// When the machine may run at the destination before all of its memory is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Postcopy {
    /// Never: all memory comes first.
    #[default]
    Off,
    /// When the user says so ([`crate::source::Event::StartPostcopy`]).
    OnRequest,
    /// That, or when rounds do not get anywhere.
    Auto,
    /// From the start: no round is sent before.
    Immediate,
}

impl Postcopy {
    /// Whether it can come to that at all.
    #[must_use]
    pub fn is_possible(self) -> bool {
        self != Self::Off
    }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_bandwidth: 0,
            downtime_limit: Duration::from_millis(300), // as QEMU
            switchover_bandwidth: 0,
            channels: 4,
            pause_before_switchover: false,
            postcopy: Postcopy::Off,
            max_postcopy_bandwidth: 0,
            throttling: Throttling::Off,
            by_when: None,
            encodings: Encodings::default(),
            zero_copy: 0,
            digest: wire::Digest::Off,
            switchover_timeout: Duration::from_secs(10),
            peer_timeout: Duration::from_secs(30),
        }
    }
}

/// Setters, each for the field of its name.
#[allow(missing_docs, reason = "the fields say it")]
impl Params {
    #[must_use]
    pub fn max_bandwidth(self, max_bandwidth: u64) -> Self {
        Self { max_bandwidth, ..self }
    }

    #[must_use]
    pub fn downtime_limit(self, downtime_limit: Duration) -> Self {
        Self { downtime_limit, ..self }
    }

    #[must_use]
    pub fn switchover_bandwidth(self, switchover_bandwidth: u64) -> Self {
        Self { switchover_bandwidth, ..self }
    }

    #[must_use]
    pub fn channels(self, channels: u16) -> Self {
        Self { channels, ..self }
    }

    #[must_use]
    pub fn pause_before_switchover(self, pause_before_switchover: bool) -> Self {
        Self { pause_before_switchover, ..self }
    }

    #[must_use]
    pub fn postcopy(self, postcopy: Postcopy) -> Self {
        Self { postcopy, ..self }
    }

    #[must_use]
    pub fn max_postcopy_bandwidth(self, max_postcopy_bandwidth: u64) -> Self {
        Self { max_postcopy_bandwidth, ..self }
    }

    #[must_use]
    pub fn throttling(self, throttling: Throttling) -> Self {
        Self { throttling, ..self }
    }

    #[must_use]
    pub fn by_when(self, by_when: Option<ByWhen>) -> Self {
        Self { by_when, ..self }
    }

    #[must_use]
    pub fn encodings(self, encodings: Encodings) -> Self {
        Self { encodings, ..self }
    }

    #[must_use]
    pub fn zero_copy(self, zero_copy: u64) -> Self {
        Self { zero_copy, ..self }
    }

    #[must_use]
    pub fn digest(self, digest: wire::Digest) -> Self {
        Self { digest, ..self }
    }

    #[must_use]
    pub fn switchover_timeout(self, switchover_timeout: Duration) -> Self {
        Self { switchover_timeout, ..self }
    }

    #[must_use]
    pub fn peer_timeout(self, peer_timeout: Duration) -> Self {
        Self { peer_timeout, ..self }
    }
}

impl Params {
    /// The speed to assume for the last pass, where the rounds were `measured`.
    #[must_use]
    pub fn switchover_rate(&self, measured: Option<WireRate>) -> Option<WireRate> {
        let given = WireRate { bytes_per_second: self.switchover_bandwidth as f64, held_back: false };
        if self.switchover_bandwidth > 0 { Some(given) } else { measured }
    }
}
