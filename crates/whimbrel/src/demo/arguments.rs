use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use config::{CpuCount, MemorySize};

use crate::rig::ByteRate;

/// Watch a busy machine move between two processes and back.
///
/// Starts two VMMs on this host, boots a guest that dirties memory at a set rate and keeps checking all of it, and moves it
/// A → B → A over TCP while it runs; then once more by postcopy, where it runs before its memory is there. At the end stands what
/// happened, and whether everything held.
///
/// Exit status: 0 if everything held, 1 if something did not, 2 if the demo could not begin.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Size of guest memory
    #[arg(short, long, value_name = "SIZE", default_value = "1G")]
    pub(super) memory: MemorySize,

    /// Working set of the guest: the part of its memory that it dirties [default: a quarter, 256M at most]
    #[arg(long, value_name = "SIZE")]
    pub(super) work: Option<MemorySize>,

    /// Bytes that the guest dirties each second, with K, M or G (powers of 1000)
    #[arg(long, value_name = "RATE", default_value = "100M")]
    pub(super) rate: ByteRate,

    /// Number of vCPUs: 1 to 64
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) cpus: CpuCount,

    /// What guest memory is filled with
    #[arg(long, value_name = "KIND", default_value_t = Fill::Random)]
    pub(super) fill: Fill,

    /// Number of moves: 1 to 100
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) hops: u32,

    /// Number of further moves, in which the machine runs before its memory is there: 0 to 100 [default: 2, if this host allows it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(super) postcopy: Option<u32>,

    /// Connections that carry pages: 1 to 64 [default: the VMM's choice]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) channels: Option<u8>,

    /// Limit of the bandwidth, in bytes per second with K, M or G (powers of 1000); 0 for none
    #[arg(long, value_name = "RATE", default_value = "0")]
    pub(super) bandwidth: ByteRate,

    /// Milliseconds that the guest may stand still: 1 to 2000000
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    pub(super) downtime_limit: u64,

    /// Do not encrypt
    #[arg(long)]
    pub(super) clear: bool,

    /// The VMM's program [default: whimbrel-vmm beside this program]
    #[arg(long, value_name = "FILE")]
    pub(super) vmm: Option<PathBuf>,

    /// Plain lines, as when the output is no terminal or NO_COLOR is set
    #[arg(long)]
    plain: bool,

    /// Keep the logs of the VMMs and what the guest said in this folder
    #[arg(long, value_name = "DIR")]
    pub(super) keep_logs: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn plain(&self) -> bool {
        self.plain
    }

    pub(super) fn vmm(&self) -> Option<&Path> {
        self.vmm.as_deref()
    }
}

/// What memory is filled with: the words of the workload guest's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Fill {
    /// Zeros that were never written
    Zero,
    /// One word in 32, zeros between
    Sparse,
    /// Words of a small vocabulary
    Text,
    /// Noise
    Random,
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "zero",
            Self::Sparse => "sparse",
            Self::Text => "text",
            Self::Random => "random",
        })
    }
}
