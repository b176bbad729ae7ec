//! Medians, ratios, and which goals they meet.

use std::{fs, io, path::Path, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use comparison::{Spread, spread};
use serde::Serialize;
use serde_json::json;

use super::{
    arguments::Arguments,
    bare_copy::{BareCopy, Copied},
    case::Case,
    trial::Sample,
};
use crate::rig::{ByteRate, Contender, Host, Memory};

/// All that was measured of one case.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    host: Host,
    qemu_version: String,
    repetitions: u32,
    memory_bytes: u64,
    work_bytes: u64,
    dirty_rate: u64,
    fill: String,
    cpus: u8,
    case: Case,
    whimbrel: Vec<Sample>,
    qemu: Vec<Sample>,
    pub(super) copies: Vec<BareCopy>,
}

/// One line of the comparison.
struct Figure {
    name: &'static str,
    unit: Unit,
    of: fn(&Sample) -> Option<f64>,
    /// The most that Whimbrel may take of what QEMU takes.
    goal: Option<fn(Case) -> f64>,
}

#[derive(Clone, Copy)]
pub(super) enum Unit {
    Microseconds,
    Milliseconds,
    Seconds,
    MegabytesPerSecond,
    Mebibytes,
    Number,
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "total time",
        unit: Unit::Milliseconds,
        of: |sample| Some(sample.total_ms),
        goal: Some(Case::total_goal),
    },
    Figure { name: "  set-up", unit: Unit::Milliseconds, of: |sample| Some(sample.setup_ms), goal: None },
    Figure {
        name: "CPU time, both sides",
        unit: Unit::Seconds,
        of: |sample| Some(sample.source_cpu + sample.destination_cpu),
        goal: Some(Case::cpu_goal),
    },
    Figure { name: "  source", unit: Unit::Seconds, of: |sample| Some(sample.source_cpu), goal: None },
    Figure {
        name: "  destination",
        unit: Unit::Seconds,
        of: |sample| Some(sample.destination_cpu),
        goal: None,
    },
    Figure { name: "  as it says itself", unit: Unit::Seconds, of: |sample| sample.own_cpu, goal: None },
    Figure {
        name: "downtime, as it says itself",
        unit: Unit::Milliseconds,
        of: |sample| Some(sample.downtime_ms),
        goal: Some(|_| 0.3),
    },
    Figure {
        name: "downtime, STOP → RESUME",
        unit: Unit::Milliseconds,
        of: |sample| sample.stop_to_resume_ms,
        goal: Some(|_| 0.3),
    },
    Figure {
        name: "downtime, as the guest felt it",
        unit: Unit::Milliseconds,
        of: |sample| Some(sample.gap_ms),
        goal: Some(|_| 0.3),
    },
    Figure {
        name: "longest gap in the rounds",
        unit: Unit::Milliseconds,
        of: |sample| Some(sample.gap_in_rounds_ms),
        goal: None,
    },
    Figure {
        name: "on the wire",
        unit: Unit::Mebibytes,
        of: |sample| Some(mebibytes(sample.transferred)),
        goal: None,
    },
    Figure {
        name: "dirty pages fetched",
        unit: Unit::Number,
        of: |sample| Some(sample.rounds as f64),
        goal: None,
    },
    Figure {
        name: "dirty rate held",
        unit: Unit::MegabytesPerSecond,
        of: |sample| Some(sample.rate_held as f64 / 1e6),
        goal: None,
    },
    Figure {
        name: "memory beyond the guest's",
        unit: Unit::Mebibytes,
        of: |sample| Some(mebibytes(sample.overhead_bytes)),
        goal: None,
    },
];

/// What set-up may take, whatever the memory and the number of channels, in milliseconds.
const SETUP_MS: f64 = 10.0;
/// What loading the machine may take, also while memory is still being prepared, in milliseconds.
const LOAD_MS: f64 = 5.0;
/// What the total time may be of that of a bare copy into memory that is as fresh.
const OF_BARE_COPY: f64 = 1.2;

/// What CPU time with encryption may be of that in clear and of the bare cipher together.
const OF_CLEAR_AND_CIPHER: f64 = 1.2;
/// How much longer the downtime may be with encryption, in milliseconds.
const DOWNTIME_MORE_MS: f64 = 2.0;

/// Memory of the VMM beyond the guest's: this, and 2 bits for each guest page.
const OVERHEAD: u64 = 30 << 20;

impl Summary {
    pub(super) fn new(arguments: &Arguments, case: Case, host: Host, qemu_version: &str) -> Self {
        Self {
            host,
            qemu_version: qemu_version.to_owned(),
            repetitions: arguments.repetitions,
            memory_bytes: arguments.memory.bytes(),
            work_bytes: arguments.work.bytes(),
            dirty_rate: arguments.rate.0,
            fill: arguments.fill.clone(),
            cpus: arguments.cpus.get(),
            case,
            whimbrel: Vec::new(),
            qemu: Vec::new(),
            copies: Vec::new(),
        }
    }

    pub(super) fn samples_mut(&mut self, contender: Contender) -> &mut Vec<Sample> {
        match contender {
            Contender::Whimbrel => &mut self.whimbrel,
            Contender::Qemu => &mut self.qemu,
        }
    }

    /// Whether no guest found a fault.
    pub(super) fn is_intact(&self) -> bool {
        self.whimbrel.iter().chain(&self.qemu).all(|sample| sample.complaints.is_empty())
    }

    pub(super) fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["median (least – most)", "Whimbrel", &self.qemu_version, "ratio", "goal", ""]);
        for figure in FIGURES {
            table.add_row(self.row(figure));
        }
        for column in table.column_iter_mut().skip(1).take(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        output::say!("\n{table}");
        self.print_overhead();
        self.print_copies();
        self.print_waits();
        self.print_forecasts();
        for sample in self.whimbrel.iter().chain(&self.qemu) {
            sample.complaints.iter().for_each(|complaint| output::say!("NOT INTACT: {complaint}"));
        }
        if self.is_intact() {
            output::say!(
                "Guests checked every page after every move: no faults, no line lost, clocks never backwards."
            );
        }
    }

    fn row(&self, figure: &Figure) -> [String; 6] {
        let (ours, theirs) = (spread(&self.whimbrel, figure.of), spread(&self.qemu, figure.of));
        let ratio = ours.zip(theirs).map(|(ours, theirs)| ours.median / theirs.median);
        let goal = figure.goal.map(|goal| goal(self.case));
        let verdict = match goal.zip(ratio) {
            Some((goal, ratio)) => verdict(ratio <= goal),
            None => "",
        };
        [
            figure.name.to_owned(),
            shown(ours, figure.unit),
            shown(theirs, figure.unit),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            goal.map_or_else(String::new, |goal| format!("≤ {goal:.2}")),
            verdict.to_owned(),
        ]
    }

    fn print_overhead(&self) {
        let limit = OVERHEAD + self.memory_bytes / 4096 / 4;
        let most = self.whimbrel.iter().map(|sample| sample.overhead_bytes).max().unwrap_or(0);
        output::say!(
            "Memory of Whimbrel's processes beyond the guest's: {} at most; the goal is under {}: {}",
            Memory(most),
            Memory(limit),
            verdict(most < limit)
        );
    }

    fn print_copies(&self) {
        for (name, of) in COPIES {
            let Some(seconds) = spread(&self.copies, |copy| Some(of(copy).seconds)) else { return };
            let Some(cpu) = spread(&self.copies, |copy| Some(of(copy).cpu_seconds)) else { return };
            let ours = spread(&self.whimbrel, |sample| Some(sample.total_ms / 1e3));
            let times = ours.map_or(f64::NAN, |ours| ours.median / seconds.median);
            // Only of a destination that has just started is memory as fresh.
            let goal = if name == FRESH && self.case.head_start.is_none() {
                format!("; the goal is {OF_BARE_COPY:.2} at most: {}", verdict(times <= OF_BARE_COPY))
            } else {
                String::new()
            };
            output::say!(
                "A bare copy over {} streams into {name}: {:.0} ms ({}), CPU {:.2} s. Whimbrel's total time is {times:.2} of that{goal}.",
                self.case.channels,
                seconds.median * 1e3,
                ByteRate((self.memory_bytes as f64 / seconds.median) as u64),
                cpu.median
            );
        }
    }

    /// What others wait for, where the destination has still to prepare its memory.
    fn print_waits(&self) {
        let print = |what: &str, goal: f64, waited: Option<Spread>| {
            let Some(spread) = waited else { return };
            let shown = shown(Some(spread), Unit::Milliseconds);
            output::say!(
                "{what} took {shown}; the goal is {goal} ms at most: {}",
                verdict(spread.most <= goal)
            );
        };
        print("Set-up", SETUP_MS, spread(&self.whimbrel, |sample| Some(sample.setup_ms)));
        print("Loading", LOAD_MS, spread(&self.whimbrel, |sample| sample.phases.as_ref()?.load_ms));
    }

    fn print_forecasts(&self) {
        let right = |sample: &&Sample| {
            let actual = sample.stop_to_resume_ms.unwrap_or(f64::NAN);
            sample.foretold_ms.is_some_and(|foretold| foretold <= 2.0 * actual && actual <= 2.0 * foretold)
        };
        let (right, all) = (self.whimbrel.iter().filter(right).count(), self.whimbrel.len());
        output::say!(
            "The downtime was foretold within a factor of 2 in {right} of {all} moves; the goal is 19 of 20: {}",
            verdict(right * 20 >= all * 19)
        );
    }

    /// What encryption costs, where this run has measured the same in clear.
    pub(super) fn print_encryption(&self, others: &[Self], bare_cipher_per_gib: Duration) {
        let Some(clear) = others.iter().find(|other| self.case.is_encrypted(other.case)) else { return };
        let cpu = |sample: &Sample| Some(sample.source_cpu + sample.destination_cpu);
        let gib = |sample: &Sample| Some(mebibytes(sample.transferred) / 1024.0);
        let per_gib = |summary: &Self| {
            Some(spread(&summary.whimbrel, cpu)?.median / spread(&summary.whimbrel, gib)?.median)
        };
        let downtime =
            |summary: &Self| Some(spread(&summary.whimbrel, |sample| sample.stop_to_resume_ms)?.median);
        let Some((encrypted, in_clear)) = per_gib(self).zip(per_gib(clear)) else { return };
        let cipher = bare_cipher_per_gib.as_secs_f64();
        let limit = (in_clear + cipher) * OF_CLEAR_AND_CIPHER;
        output::say!(
            "\n{}: {encrypted:.2} s of CPU time for a GiB, both sides, where it is {in_clear:.2} in clear and {cipher:.2} for the bare \
             cipher both ways; the goal is {limit:.2} at most: {}",
            self.case,
            verdict(encrypted <= limit)
        );
        if let Some((encrypted, in_clear)) = downtime(self).zip(downtime(clear)) {
            output::say!(
                "Downtime (STOP → RESUME) is {encrypted:.1} ms, and {in_clear:.1} in clear; the goal is {DOWNTIME_MORE_MS} ms more at \
                 most: {}",
                verdict(encrypted - in_clear <= DOWNTIME_MORE_MS)
            );
        }
    }

    /// The medians of each figure, and every sample.
    fn figures(&self) -> serde_json::Value {
        let medians: Vec<_> = FIGURES
            .iter()
            .map(|figure| {
                let median = |samples| spread(samples, figure.of).map(|spread| spread.median);
                let (whimbrel, qemu) = (median(&self.whimbrel), median(&self.qemu));
                json!({
                    "figure": figure.name.trim(),
                    "whimbrel": whimbrel,
                    "qemu": qemu,
                    "ratio": whimbrel.zip(qemu).map(|(ours, theirs)| ours / theirs),
                    "goal": figure.goal.map(|goal| goal(self.case)),
                })
            })
            .collect();
        json!({ "medians": medians, "run": self })
    }
}

/// Writes all figures of all cases.
pub(super) fn write(summaries: &[Summary], path: &Path) -> io::Result<()> {
    let cases: Vec<_> = summaries.iter().map(Summary::figures).collect();
    fs::write(path, serde_json::to_string_pretty(&json!({ "cases": cases }))? + "\n")
}

type Part = (&'static str, fn(&BareCopy) -> Copied);
const FRESH: &str = "fresh memory";
const COPIES: [Part; 2] = [(FRESH, |copy| copy.fresh), ("touched memory", |copy| copy.touched)];

pub(super) fn shown(spread: Option<Spread>, unit: Unit) -> String {
    let Some(Spread { least, median, most }) = spread else { return "-".to_owned() };
    match unit {
        Unit::Microseconds => format!("{median:.0} µs ({least:.0} – {most:.0})"),
        Unit::Milliseconds if most >= 100.0 => format!("{median:.0} ms ({least:.0} – {most:.0})"),
        Unit::Milliseconds => format!("{median:.1} ms ({least:.1} – {most:.1})"),
        Unit::Seconds => format!("{median:.2} s ({least:.2} – {most:.2})"),
        Unit::MegabytesPerSecond => format!("{median:.0} MB/s ({least:.0} – {most:.0})"),
        Unit::Mebibytes => format!("{median:.1} MiB ({least:.1} – {most:.1})"),
        Unit::Number => format!("{median:.0} ({least:.0} – {most:.0})"),
    }
}

pub(super) fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "NOT MET" }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
