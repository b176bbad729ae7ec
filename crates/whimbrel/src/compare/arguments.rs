use std::path::PathBuf;

use clap::builder::ArgPredicate;
use comparison::{Scenario, scale::Scale};

/// Compare migration with QEMU's in three scenarios, as the guest and its users feel it.
///
/// Moves the same guest with Whimbrel and with QEMU in turns, in every mode of both, over a link between two hosts
/// that are network namespaces (as root; else over a paced proxy), while pings, two films and a TCP stream go on.
/// Prints tables; the page has a time line of every move. docs/compare.md says what each figure is.
///
/// Exit status: 0 if everything was measured and no guest found a fault in its memory, 1 if not, or if --against
/// found something that has become worse, 2 if it could not begin, 130 if it was interrupted.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each is measured, 1 to 1000 [default: 3, with --quick 1]
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3, hide_default_value = true, default_value_if("quick", ArgPredicate::Equals("true".into()), "1"), value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) repetitions: u32,

    /// How much smaller than at full size: of bandwidth and dirty rate, and of the time of a first pass [default:
    /// what fits this host]
    #[arg(long, value_name = "BANDWIDTH[,TIME]")]
    pub(super) scale: Option<Scale>,

    /// Scenarios: S1, S2, S3
    #[arg(long, value_name = "NAME,…", default_value = "S1,S2,S3", default_value_if("quick", ArgPredicate::Equals("true".into()), "S1,S3"), value_delimiter = ',', value_parser = scenario)]
    pub(super) scenarios: Vec<Scenario>,

    /// Longest downtime that both are asked for, in milliseconds: 1 to 2000000
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    pub(super) downtime_limit: u64,

    /// Guest memory in pages of 4 KiB instead of huge pages of 2 MiB
    #[arg(long)]
    pub(super) small_pages: bool,

    /// Whether it works at all: one repetition of S1 and S3, a quarter of the time, no goals. Under five minutes on
    /// two cores
    #[arg(long)]
    pub(super) quick: bool,

    /// Say what has become worse than in this file of an earlier --json, by more than the noise
    #[arg(long, value_name = "FILE")]
    pub(super) against: Option<PathBuf>,

    /// Measure nothing, and show what this file of an earlier --json has
    #[arg(long, value_name = "FILE")]
    pub(super) from: Option<PathBuf>,

    /// Write every sample to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Write a page with all tables and time lines to this file
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// Write the tables to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    pub(super) markdown: Option<PathBuf>,

    /// Write the time line of one move to this file, as SVG: Whimbrel's default mode in the last scenario
    #[arg(long, value_name = "FILE")]
    pub(super) picture: Option<PathBuf>,

    /// The VMM's program [default: whimbrel-vmm beside this program]
    #[arg(long, value_name = "FILE")]
    pub(super) vmm: Option<PathBuf>,

    /// QEMU's program
    #[arg(long, value_name = "FILE", default_value = "qemu-system-x86_64")]
    pub(super) qemu: PathBuf,
}

fn scenario(text: &str) -> Result<Scenario, String> {
    let is_it = |scenario: &Scenario| scenario.to_string().eq_ignore_ascii_case(text);
    Scenario::ALL.into_iter().find(is_it).ok_or_else(|| "not S1, S2 or S3".to_owned())
}
