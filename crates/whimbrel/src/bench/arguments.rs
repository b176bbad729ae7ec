use std::path::PathBuf;

use clap::builder::ArgPredicate;
use config::{CpuCount, MemorySize};

use super::case::{Case, Encryption, HeadStart};
use crate::rig::{BitRate, ByteRate};

/// Measure migration side by side with QEMU.
///
/// Moves the same guest with Whimbrel and with QEMU in turns, on this host, with the same means of measuring, and copies as
/// many bytes over loopback without any of it. Prints medians, ratios, and which goals they meet.
///
/// Exit status: 0 if everything was measured and no guest found a fault in its memory, 1 if not, 2 if it could not begin.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each is measured, 1 to 1000; with --downtime 20 unless it is said
    #[arg(short = 'n', long, value_name = "N", default_value_t = 7, default_value_if("downtime", "true", "20"), value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) repetitions: u32,

    /// Size of guest memory
    #[arg(short, long, value_name = "SIZE", default_value = "2G")]
    pub(super) memory: MemorySize,

    /// Working set of the guest
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    pub(super) work: MemorySize,

    /// Bytes that the guest dirties each second, with K, M or G (powers of 1000); with --link 20M unless it is said
    #[arg(
        long,
        value_name = "RATE",
        default_value = "200M",
        default_value_if("link", ArgPredicate::IsPresent, "20M")
    )]
    pub(super) rate: ByteRate,

    /// What guest memory is filled with: zero, sparse, text or random
    #[arg(long, value_name = "KIND", default_value = "random", value_parser = ["zero", "sparse", "text", "random"])]
    pub(super) fill: String,

    /// Number of vCPUs: 1 to 64
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) cpus: CpuCount,

    /// Connections that carry pages; QEMU's multifd channels: 1 to 64. Each of a list is measured
    #[arg(long, value_name = "N,…", default_value = "4", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=64))]
    channels: Vec<u8>,

    /// Seconds that the destination has listened when the migration begins: 0 to 60. Each of a list is measured
    #[arg(long, value_name = "SECONDS,…", default_value = "0,1", value_delimiter = ',')]
    head_start: Vec<HeadStart>,

    /// Whether connections are encrypted: off, on, or both in one run (off,on), which also says what it costs
    #[arg(long, value_name = "WHICH,…", default_value = "off", value_delimiter = ',')]
    tls: Vec<Encryption>,

    /// Measure the control plane of a fleet instead: 1,000 machines on 40 nodes, then 10,000 on 200, as objects alone
    #[arg(long, conflicts_with_all = ["downtime", "profile"])]
    pub(super) fleet: bool,
    /// With --fleet: measure nothing, and leave the machines in this directory, which `controlplane --dir` then serves
    #[arg(long, hide = true, value_name = "DIR", requires = "fleet")]
    pub(super) leave: Option<PathBuf>,

    /// Longest downtime that both are asked for, in milliseconds [default: 300, with --downtime 30]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    pub(super) downtime_limit: Option<u64>,

    /// Measure the downtime and its parts instead: busy, with nothing dirty, and with more and more vCPUs. Of lists, the first
    /// of each counts
    #[arg(long, conflicts_with = "profile")]
    pub(super) downtime: bool,

    /// Measure postcopy instead: pages of 4 KiB and of 2 MiB, one and two vCPUs that write all over their memory, with an idle link
    /// too. Of lists, the first of each counts
    #[arg(long, conflicts_with_all = ["downtime", "profile", "tls"])]
    pub(super) postcopy: bool,

    /// Measure moves of Whimbrel over a link that carries so many bits per second instead (1Mbit to 400Gbit), in clear and encrypted in
    /// turns. Each of a list is measured; of others, the first counts. Needs root
    #[arg(long, value_name = "RATE,…", value_delimiter = ',', conflicts_with_all = ["profile", "downtime", "postcopy"])]
    pub(super) link: Vec<BitRate>,

    /// Measure moves of Whimbrel with a bitmap and with dirty rings in turns instead: one and two vCPUs that write a hundredth and half of
    /// memory. Of lists, the first of each counts; --work and --cpus say nothing
    #[arg(long, conflicts_with_all = ["profile", "downtime", "postcopy", "link", "fleet"])]
    pub(super) dirty_log: bool,

    /// Measure moves of Whimbrel with whimbrel-compression off and auto in turns instead: memory of noise, and of text. Of lists, the first
    /// of each counts; --fill says nothing
    #[arg(long, conflicts_with_all = ["profile", "downtime", "postcopy", "link", "fleet", "dirty_log"])]
    pub(super) compression: bool,

    /// Guest memory in pages of 4 KiB (memfd) instead of huge pages of 2 MiB
    #[arg(long, conflicts_with_all = ["postcopy", "fleet"])]
    pub(super) small_pages: bool,

    /// The VMM's program [default: whimbrel-vmm beside this program]
    #[arg(long, value_name = "FILE")]
    pub(super) vmm: Option<PathBuf>,

    /// QEMU's program
    #[arg(long, value_name = "FILE", default_value = "qemu-system-x86_64")]
    pub(super) qemu: PathBuf,

    /// Write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Profile one move of each with perf instead of comparing, and keep the recordings in this folder. Of lists, the first of
    /// each counts
    #[arg(long, value_name = "DIR")]
    pub(super) profile: Option<PathBuf>,
}

impl Arguments {
    /// What is measured, one after the other.
    pub(super) fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &channels in &self.channels {
            for &head_start in &self.head_start {
                cases.extend(self.tls.iter().map(|&encryption| Case { channels, head_start, encryption }));
            }
        }
        cases
    }

    /// Where only one is measured.
    pub(super) fn first_case(&self) -> Case {
        Case {
            channels: self.channels.first().copied().unwrap_or(1),
            head_start: self.head_start.first().copied().unwrap_or_default(),
            encryption: self.tls.first().copied().unwrap_or_default(),
        }
    }

    /// Longest downtime that both are asked for, in milliseconds.
    pub(super) fn downtime_limit_ms(&self) -> u64 {
        self.downtime_limit.unwrap_or(if self.downtime { 30 } else { 300 })
    }
}
