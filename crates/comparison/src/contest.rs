use std::fmt;

use serde::{Deserialize, Serialize};

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// This.
    Whimbrel,
    /// What it is measured against.
    Qemu,
}

/// How a machine is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Precopy over one channel.
    Generic,
    /// Precopy over [`Mode::CHANNELS`] channels.
    Multifd,
    /// The machine runs at the destination at once, and pages that it waits for overtake the others.
    PostcopyPreempt,
    /// Nothing is set: what the hypervisor does by itself. Only Whimbrel's; QEMU's is its generic mode.
    Default,
    /// As `Multifd`, encrypted by TLS.
    MultifdTls,
}

impl Contender {
    /// Both, ours first.
    pub const BOTH: [Self; 2] = [Self::Whimbrel, Self::Qemu];
}

impl Mode {
    /// Channels of multifd.
    pub const CHANNELS: u8 = 5;

    /// Those of every scenario.
    pub const COMMON: [Self; 4] = [Self::PostcopyPreempt, Self::Multifd, Self::Generic, Self::Default];

    /// Those and the encrypted one.
    pub const ALL: [Self; 5] =
        [Self::PostcopyPreempt, Self::Multifd, Self::Generic, Self::Default, Self::MultifdTls];

    /// Whether `contender` is measured in it.
    #[must_use]
    pub fn is_of(self, contender: Contender) -> bool {
        self != Self::Default || contender == Contender::Whimbrel
    }

    /// Whether memory follows the machine.
    #[must_use]
    pub fn is_postcopy(self) -> bool {
        self == Self::PostcopyPreempt
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Whimbrel => "Whimbrel",
            Self::Qemu => "QEMU",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Generic => "generic",
            Self::Multifd => "multifd",
            Self::PostcopyPreempt => "postcopy-preempt",
            Self::Default => "default",
            Self::MultifdTls => "multifd with TLS",
        })
    }
}
