//! The same machine with either dirty log in turns, by how much of its memory it dirties and by how many vCPUs: what `--dirty-log auto` is
//! chosen from.

use std::{fmt, fs, io, path::Path};

use comfy_table::{CellAlignment, Table, presets};
use comparison::spread;
use config::{CpuCount, MemorySize};
use serde::Serialize;

use super::{
    Bench, BenchError,
    summary::{Unit, shown},
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

type Figure = (&'static str, Unit, fn(&Sample) -> Option<f64>);

const FIGURES: [Figure; 6] = [
    ("total time", Unit::Milliseconds, |sample| Some(sample.total_ms)),
    ("downtime", Unit::Milliseconds, |sample| Some(sample.downtime_ms)),
    ("longest gap while memory is copied", Unit::Milliseconds, |sample| Some(sample.gap_in_rounds_ms)),
    ("CPU time of the source", Unit::Seconds, |sample| Some(sample.source_cpu)),
    ("MB on the wire", Unit::Number, |sample| Some(sample.transferred as f64 / 1e6)),
    ("MB/s that the guest dirtied", Unit::Number, |sample| Some(sample.rate_held as f64 / 1e6)),
];

impl DirtyLogs {
    /// Whether no guest found a fault.
    pub(super) fn is_intact(&self) -> bool {
        let mut samples = self.rows.iter().flat_map(|row| row.bitmap.iter().chain(&row.ring));
        samples.all(|sample| sample.complaints.is_empty())
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["median (least – most)", "bitmap", "ring", "ratio"]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in &self.rows {
            table.add_row([row.to_string()]);
            for (name, unit, of) in FIGURES {
                let (bitmap, ring) = (spread(&row.bitmap, of), spread(&row.ring, of));
                let ratio = ring.zip(bitmap).map(|(ring, bitmap)| ring.median / bitmap.median);
                table.add_row([
                    format!("  {name}"),
                    shown(bitmap, unit),
                    shown(ring, unit),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                ]);
            }
        }
        output::say!("\n{table}");
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vCPU, {} % dirtied", self.cpus, self.dirtied)
    }
}
