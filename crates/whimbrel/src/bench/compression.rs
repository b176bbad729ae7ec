//! The same machine with `whimbrel-compression` as `off` and as `auto` in turns, by what its memory is filled with: what `auto` costs where
//! the network is fast.

use std::{fmt, fs, io, path::Path};

use serde::Serialize;

use super::{
    Bench, BenchError,
    side_by_side::{self, Figure, Pair},
    summary::Unit,
    trial::Sample,
};
use crate::rig::{Contender, Host};

/// As the guest's command line has them.
const FILLS: [&str; 2] = ["random", "text"];
/// As the parameter has them.
const CHOOSERS: [&str; 2] = ["off", "auto"];
/// Of noise, `auto` may take so many times what `off` takes.
const GOAL_TOTAL: f64 = 1.03;
const GOAL_CPU: f64 = 1.05;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Compressions {
    host: Host,
    memory_bytes: u64,
    rows: Vec<Row>,
}

/// What was measured of one machine.
#[derive(Debug, Serialize)]
struct Row {
    fill: &'static str,
    off: Vec<Sample>,
    auto: Vec<Sample>,
}

impl Bench {
    pub(super) fn compressions(&mut self) -> Result<Compressions, BenchError> {
        let rows = FILLS.into_iter().map(|fill| {
            fill.clone_into(&mut self.arguments.fill);
            self.compressing(fill)
        });
        let rows = rows.collect::<Result<_, _>>()?;
        Ok(Compressions { host: self.host.clone(), memory_bytes: self.arguments.memory.bytes(), rows })
    }

    fn compressing(&mut self, fill: &'static str) -> Result<Row, BenchError> {
        let mut row = Row { fill, off: Vec::new(), auto: Vec::new() };
        for repetition in 0..self.arguments.repetitions {
            let mut turns = CHOOSERS;
            turns.rotate_left(repetition as usize % 2);
            for chooser in turns {
                self.compression = Some(chooser);
                let sample = self.try_once(Contender::Whimbrel, self.arguments.first_case(), None)?;
                output::say!("{row}  {:>3}  {chooser:<6} {sample}", repetition + 1);
                if chooser == "auto" { &mut row.auto } else { &mut row.off }.push(sample);
            }
        }
        Ok(row)
    }
}

const TOTAL: Figure = ("total time", Unit::Milliseconds, |sample| Some(sample.total_ms));
const CPU: Figure =
    ("CPU time, both sides", Unit::Seconds, |sample| Some(sample.source_cpu + sample.destination_cpu));
const WIRE: Figure = ("MB on the wire", Unit::Number, |sample| Some(sample.transferred as f64 / 1e6));

impl Row {
    fn pair(&self) -> Pair<'_> {
        [&self.off, &self.auto]
    }
}

impl Compressions {
    /// Whether no guest found a fault.
    pub(super) fn is_intact(&self) -> bool {
        side_by_side::are_intact(self.rows.iter().map(Row::pair))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn print(&self) {
        let rows = self.rows.iter().map(|row| (row.to_string(), row.pair()));
        side_by_side::print(CHOOSERS, rows, &[TOTAL, CPU, WIRE], 3);
        for row in self.rows.iter().filter(|row| row.fill == "random") {
            for (figure, goal) in [(TOTAL, GOAL_TOTAL), (CPU, GOAL_CPU)] {
                let Some(ratio) = side_by_side::ratio(row.pair(), figure) else { continue };
                let verdict = if ratio <= goal { "met" } else { "NOT MET" };
                output::say!("Goal of noise, {}: {ratio:.3} of off's, at most {goal}: {verdict}", figure.0);
            }
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filled with {}", self.fill)
    }
}
