//! The same machine with either dirty log in turns, by how much of its memory it dirties and by how many vCPUs: what `--dirty-log auto` is
//! chosen from.

use std::{fmt, fs, io, path::Path};

use config::{CpuCount, MemorySize};
use serde::Serialize;

use super::{
    Bench, BenchError,
    side_by_side::{self, Figure, Pair},
    summary::Unit,
    trial::Sample,
};
use crate::rig::{Contender, Host};

/// vCPUs that write.
const CPUS: [&str; 2] = ["1", "2"];
/// Hundredths of memory that are dirtied all the time.
const SHARES: [u64; 2] = [1, 50];
/// As the VMM's flag has them.
const LOGS: [&str; 2] = ["bitmap", "ring"];
/// Memory is given in multiples of this.
const GRANULE: u64 = 2 << 20;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct DirtyLogs {
    host: Host,
    memory_bytes: u64,
    dirty_rate: u64,
    rows: Vec<Row>,
}

/// What was measured of one machine.
#[derive(Debug, Serialize)]
struct Row {
    cpus: u8,
    /// Of its memory, in per cent.
    dirtied: u64,
    bitmap: Vec<Sample>,
    ring: Vec<Sample>,
}

impl Bench {
    pub(super) fn dirty_logs(&mut self) -> Result<DirtyLogs, BenchError> {
        let mut rows = Vec::new();
        for cpus in CPUS.iter().filter_map(|cpus| cpus.parse::<CpuCount>().ok()) {
            for dirtied in SHARES {
                let work = (self.arguments.memory.bytes() / 100 * dirtied).next_multiple_of(GRANULE);
                let Ok(work) = format!("{}M", work >> 20).parse::<MemorySize>() else { continue };
                (self.arguments.cpus, self.arguments.work) = (cpus, work);
                rows.push(self.dirtying(dirtied)?);
            }
        }
        Ok(DirtyLogs {
            host: self.host.clone(),
            memory_bytes: self.arguments.memory.bytes(),
            dirty_rate: self.arguments.rate.0,
            rows,
        })
    }

    fn dirtying(&mut self, dirtied: u64) -> Result<Row, BenchError> {
        let mut row = Row { cpus: self.arguments.cpus.get(), dirtied, bitmap: Vec::new(), ring: Vec::new() };
        for repetition in 0..self.arguments.repetitions {
            let mut turns = LOGS;
            turns.rotate_left(repetition as usize % 2);
            for log in turns {
                self.dirty_log = Some(log);
                let sample = self.try_once(Contender::Whimbrel, self.arguments.first_case(), None)?;
                output::say!("{row}  {:>3}  {log:<6} {sample}", repetition + 1);
                if log == "ring" { &mut row.ring } else { &mut row.bitmap }.push(sample);
            }
        }
        Ok(row)
    }
}

const FIGURES: [Figure; 6] = [
    ("total time", Unit::Milliseconds, |sample| Some(sample.total_ms)),
    ("downtime", Unit::Milliseconds, |sample| Some(sample.downtime_ms)),
    ("longest gap while memory is copied", Unit::Milliseconds, |sample| Some(sample.gap_in_rounds_ms)),
    ("CPU time of the source", Unit::Seconds, |sample| Some(sample.source_cpu)),
    ("MB on the wire", Unit::Number, |sample| Some(sample.transferred as f64 / 1e6)),
    ("MB/s that the guest dirtied", Unit::Number, |sample| Some(sample.rate_held as f64 / 1e6)),
];

impl Row {
    fn pair(&self) -> Pair<'_> {
        [&self.bitmap, &self.ring]
    }
}

impl DirtyLogs {
    /// Whether no guest found a fault.
    pub(super) fn is_intact(&self) -> bool {
        side_by_side::are_intact(self.rows.iter().map(Row::pair))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn print(&self) {
        let rows = self.rows.iter().map(|row| (row.to_string(), row.pair()));
        side_by_side::print(LOGS, rows, &FIGURES, 2);
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vCPU, {} % dirtied", self.cpus, self.dirtied)
    }
}
