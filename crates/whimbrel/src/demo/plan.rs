use std::{path::PathBuf, time::Duration};

use config::{CpuCount, MemorySize};

use super::{
    DemoError,
    arguments::{Arguments, Fill},
    screen::Screen,
};
use crate::rig::{
    ByteRate, HUGE_PAGE, HugePages, Memory, available_memory, find_vmm, userfaults_may_be_heard,
};

/// What will be done: possible, as far as can be known before it is tried.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) vmm: PathBuf,
    pub(super) memory: MemorySize,
    pub(super) work: Memory,
    pub(super) rate: ByteRate,
    pub(super) cpus: CpuCount,
    pub(super) fill: Fill,
    /// Moves by rounds of precopy.
    precopies: u32,
    /// Moves after them, by postcopy.
    postcopies: u32,
    /// Whether the user did not say how many, and the host allows none.
    postcopy_is_left_out: bool,
    pub(super) channels: Option<u8>,
    /// 0 for none.
    pub(super) bandwidth: ByteRate,
    pub(super) downtime_limit: Duration,
    /// Whether moves are not encrypted.
    pub(super) clear: bool,
    pub(super) keep_logs: Option<PathBuf>,
    /// Given back when the plan is dropped, after the machines.
    huge_pages: Option<HugePages>,
}

/// What was asked for is not possible.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    /// The guest has no room for its working set.
    #[error(
        "A working set of {work} does not fit into a guest with {memory}: the guest needs {own} for itself. Give it more with \
         --memory, or less to do with --work"
    )]
    Work { work: Memory, memory: Memory, own: Memory },
    /// The host has no room for two machines.
    #[error(
        "Two machines with {memory} need {needed} of memory, and {available} are available: try a smaller --memory"
    )]
    Memory { memory: Memory, needed: Memory, available: Memory },
    /// The kernel does not say how much memory there is.
    #[error("Cannot learn how much memory this host has")]
    Host(#[from] std::io::Error),
}

/// Memory that the guest keeps for its image, tables and stacks: 4 MiB and one part in 256 (a generation for each page) are
/// more than it takes.
const GUEST_OWN: u64 = 4 << 20;
const GUEST_OWN_PART: u64 = 256;
/// The working set, if the guest has four times as much.
const DEFAULT_WORK: u64 = 256 << 20;
/// What a VMM needs beside guest memory, and what the host should keep.
const MARGIN: u64 = 256 << 20;
/// Milliseconds between two reports of the guest. Often enough to tell a gap at the switchover from one before, seldom enough
/// not to keep the guest busy with writing.
const REPORT_MS: u32 = 250;
/// Moves by postcopy, unless the user says how many: there and back.
const POSTCOPIES: u32 = 2;

impl Plan {
    /// Checks what can be checked, and takes the huge pages.
    pub(super) fn new(arguments: &Arguments) -> Result<Self, DemoError> {
        let vmm = find_vmm(arguments.vmm())?;
        let memory = arguments.memory.bytes();
        let work = arguments.work.map_or(DEFAULT_WORK.min(memory / 4), MemorySize::bytes);
        let own = GUEST_OWN + memory / GUEST_OWN_PART;
        if work > memory.saturating_sub(own) {
            let [work, memory, own] = [work, memory, own].map(Memory);
            return Err(PlanError::Work { work, memory, own }.into());
        }
        // Two machines are there at a time: the one that leaves, and the place that it moves to.
        let both = memory.saturating_mul(2);
        let may_hear_faults = userfaults_may_be_heard();
        let huge_pages = HugePages::reserve(both).map_err(PlanError::Host)?;
        let available = available_memory().map_err(PlanError::Host)?;
        if huge_pages.is_none() && available < both.saturating_add(MARGIN) {
            let [memory, needed, available] = [memory, both + MARGIN, available].map(Memory);
            return Err(PlanError::Memory { memory, needed, available }.into());
        }
        Ok(Self {
            vmm,
            memory: arguments.memory,
            work: Memory(work),
            rate: arguments.rate,
            cpus: arguments.cpus,
            fill: arguments.fill,
            precopies: arguments.hops,
            postcopies: arguments.postcopy.unwrap_or(if may_hear_faults { POSTCOPIES } else { 0 }),
            postcopy_is_left_out: arguments.postcopy.is_none() && !may_hear_faults,
            channels: arguments.channels,
            bandwidth: arguments.bandwidth,
            downtime_limit: Duration::from_millis(arguments.downtime_limit),
            clear: arguments.clear,
            keep_logs: arguments.keep_logs.clone(),
            huge_pages,
        })
    }

    /// What `--memory-backing` the machines get.
    pub(super) fn backing(&self) -> &'static str {
        if self.huge_pages.is_some() { "hugetlb" } else { "anonymous" }
    }

    /// The guest's command line.
    pub(super) fn command_line(&self) -> String {
        format!(
            "work={}K rate={} fill={} cpus={} report={REPORT_MS}",
            self.work.0 >> 10,
            self.rate.0,
            self.fill,
            self.cpus
        )
    }

    /// Moves in all.
    pub(super) fn hops(&self) -> u32 {
        self.precopies + self.postcopies
    }

    /// Whether the machine runs before its memory is there, after this move.
    pub(super) fn is_by_postcopy(&self, hop: u32) -> bool {
        hop > self.precopies
    }

    /// Where the machine is before its first move and after each of them: A, B, A, …
    pub(super) fn place(&self, hop: u32) -> &'static str {
        if hop.is_multiple_of(2) { "A" } else { "B" }
    }

    /// Tells the user.
    pub(super) fn tell(&self, screen: &Screen) {
        let way: Vec<_> = (0..=self.hops()).map(|hop| self.place(hop)).collect();
        let way = if self.hops() <= 6 {
            way.join(" → ")
        } else {
            format!("A → B → A …, {} times", self.hops())
        };
        let postcopy = match self.postcopies {
            0 => String::new(),
            1 => ", the last time by postcopy".to_owned(),
            times => format!(", the last {times} times by postcopy"),
        };
        screen.title(&format!("A busy machine moves {way}{postcopy}"));
        let plural = if self.cpus == CpuCount::ONE { "" } else { "s" };
        let backing = match &self.huge_pages {
            None => "anonymous memory (too few free huge pages)".to_owned(),
            Some(pages) if pages.added_bytes() == 0 => "2 MiB huge pages".to_owned(),
            Some(pages) => format!(
                "2 MiB huge pages ({} of them borrowed from the host for the demo)",
                pages.added_bytes() / HUGE_PAGE
            ),
        };
        let memory = Memory(self.memory.bytes());
        screen.fact("machine", &format!("{memory}, {} vCPU{plural}, {backing}", self.cpus));
        let fill = match self.fill {
            Fill::Zero => "memory all zero",
            Fill::Sparse => "memory sparse",
            Fill::Text => "memory full of text",
            Fill::Random => "memory full of noise",
        };
        screen.fact(
            "guest",
            &format!("dirties {} in {}, {fill}; checks every page, always", self.rate, self.work),
        );
        let channels = match self.channels {
            Some(1) => "1 channel".to_owned(),
            Some(channels) => format!("{channels} channels"),
            None => "channels by number of CPUs".to_owned(),
        };
        let bandwidth = match self.bandwidth {
            ByteRate(0) => "no bandwidth limit".to_owned(),
            limit => format!("at most {limit}"),
        };
        if self.postcopy_is_left_out {
            screen.fact(
                "postcopy",
                "left out: userfaultfd is not to be had here (docs/postcopy.md says what it takes)",
            );
        }
        let limit = self.downtime_limit.as_millis();
        screen.fact("way", &format!("TCP on loopback, {channels}, {bandwidth}, downtime limit {limit} ms"));
    }
}
