use std::path::{Path, PathBuf};

use clap::ValueEnum;
use faults::Fault;

/// Migrate a busy machine over and over while something goes wrong each time, and count what came of it.
///
/// Starts VMMs on this host with a guest that dirties memory and a disk and checks all of it, and migrates it through a proxy
/// that cuts, stalls, delays, damages, freezes and kills, each time something else. After each attempt exactly one side must
/// run the guest, the guest must be whole, and the next migration must succeed.
///
/// Exit status: 0 if all that held, 1 if something did not, 2 if it could not begin.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long, in minutes; fractions are fine [default: 10, if --attempts is not given]
    #[arg(long, value_name = "N", conflicts_with = "attempts")]
    pub(super) minutes: Option<f64>,

    /// How many attempts
    #[arg(long, value_name = "N")]
    pub(super) attempts: Option<u64>,

    /// What chance begins with: the same seed makes the same attempts [default: the time]
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,

    /// One attempt again, by the seed that was printed for it
    #[arg(long, value_name = "SEED", value_parser = parse_seed, conflicts_with_all = ["minutes", "attempts", "seed"])]
    pub(super) repeat: Option<u64>,

    /// What goes wrong in every attempt, instead of chance; can be given several times (see 'whimbrel proxy --help')
    #[arg(long = "fault", value_name = "FAULT")]
    pub(super) faults: Vec<Fault>,

    /// Guests that are moved at the same time: 1 to 16
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) pairs: u8,

    /// Whether the digest of memory is compared. What a flipped bit does to a page that is not encrypted, nothing else finds
    #[arg(long, value_name = "WHEN", default_value_t = Digest::Needed)]
    pub(super) digest: Digest,

    /// Which migrations are encrypted. By chance: a third of those whose faults can be told on encrypted connections
    #[arg(long, value_name = "WHEN", default_value_t = Choice::Chance)]
    pub(super) tls: Choice,

    /// Which migrations have the machine run before its memory is there. By chance: a third of those in which no bit is flipped that
    /// nothing would find
    #[arg(long, value_name = "WHEN", default_value_t = Choice::Chance)]
    pub(super) postcopy: Choice,

    /// Weight of harm that takes half a minute to be noticed; that of others is 20 to 140
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) slow: u32,

    /// Write what happened to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// The VMM's program [default: whimbrel-vmm beside this program]
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,

    /// Keep the logs of the VMMs and what the guests said in this folder, which must not have those of an earlier soak
    #[arg(long, value_name = "DIR")]
    pub(super) keep_logs: Option<PathBuf>,

    /// Say what passed in every attempt, not only in those that went wrong
    #[arg(long)]
    pub(super) verbose: bool,
}

/// When a digest of memory is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Digest {
    /// If bits are flipped in clear, and else by chance.
    Needed,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Which migrations have a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Choice {
    /// By chance, a third of them.
    Chance,
    /// Always.
    On,
    /// Never.
    Off,
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chance => "chance",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Needed => "needed",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl Arguments {
    pub(super) fn vmm(&self) -> Option<&Path> {
        self.vmm.as_deref()
    }
}

/// Seeds of attempts are printed in hex.
fn parse_seed(typed: &str) -> Result<u64, String> {
    u64::from_str_radix(typed.trim_start_matches("0x"), 16)
        .map_err(|_| "it is no seed as printed, such as 1f00c0ffee000001".to_owned())
}
