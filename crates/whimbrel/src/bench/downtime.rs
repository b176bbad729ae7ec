//! The downtime and its parts: busy, with nothing dirty, and with more and more vCPUs.

use std::{fs, io, path::Path};

use comfy_table::{CellAlignment, Table, presets};
use comparison::spread;
use config::CpuCount;
use monitor::types::DowntimePhases;
use serde::Serialize;

use super::{
    Bench, BenchError, order,
    summary::{Unit, shown, verdict},
    trial::Sample,
};
use crate::rig::{ByteRate, Contender, Host};

/// vCPUs of which all but one sleep.
const CPUS: [&str; 3] = ["2", "8", "32"];
/// How often everything but the busy guest is measured.
const FEW: u32 = 5;
/// Of twenty runs, this many must keep the limit.
const KEPT_OF_20: usize = 19;
/// What a switchover may take with nothing to send, in milliseconds.
const FIXED_MS: f64 = 5.0;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Downtimes {
    host: Host,
    qemu_version: String,
    limit_ms: u64,
    busy: Pair,
    nothing_dirty: Pair,
    by_cpus: Vec<(u8, Pair)>,
}

/// The same, measured of both.
#[derive(Debug, Default, Serialize)]
struct Pair {
    whimbrel: Vec<Sample>,
    qemu: Vec<Sample>,
}

type Phase = (&'static str, fn(&DowntimePhases) -> Option<f64>);
const PHASES: [Phase; 6] = [
    ("  stop", |phases| phases.stop_ms),
    ("  last pages", |phases| phases.last_pages_ms),
    ("  save (beside the last pages)", |phases| phases.save_ms),
    ("  load", |phases| phases.load_ms),
    ("  hand-over", |phases| phases.hand_over_ms),
    ("  start", |phases| phases.start_ms),
];

impl Bench {
    pub(super) fn downtimes(&mut self) -> Result<Downtimes, BenchError> {
        let repetitions = self.arguments.repetitions;
        let busy = self.pair("busy", repetitions)?;
        self.arguments.rate = ByteRate(0);
        let nothing_dirty = self.pair("nothing dirty", FEW.min(repetitions))?;
        let mut by_cpus = Vec::new();
        for count in CPUS.iter().filter_map(|count| count.parse::<CpuCount>().ok()) {
            self.arguments.cpus = count;
            by_cpus.push((count.get(), self.pair(&format!("{count} vCPUs"), FEW.min(repetitions))?));
        }
        Ok(Downtimes {
            host: self.host.clone(),
            qemu_version: self.contenders.qemu_version().to_owned(),
            limit_ms: self.arguments.downtime_limit_ms(),
            busy,
            nothing_dirty,
            by_cpus,
        })
    }

    fn pair(&self, what: &str, repetitions: u32) -> Result<Pair, BenchError> {
        let mut pair = Pair::default();
        for repetition in 0..repetitions {
            for contender in order(repetition) {
                let sample = self.try_once(contender, self.arguments.first_case(), None)?;
                output::say!("{what:<13} {:>3}  {contender:<9} {sample}", repetition + 1);
                match contender {
                    Contender::Whimbrel => pair.whimbrel.push(sample),
                    Contender::Qemu => pair.qemu.push(sample),
                }
            }
        }
        Ok(pair)
    }
}

impl Downtimes {
    /// Whether no guest found a fault.
    pub(super) fn is_intact(&self) -> bool {
        self.pairs()
            .all(|pair| pair.whimbrel.iter().chain(&pair.qemu).all(|sample| sample.complaints.is_empty()))
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        [&self.busy, &self.nothing_dirty].into_iter().chain(self.by_cpus.iter().map(|(_, pair)| pair))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["median (least – most)", "Whimbrel", &self.qemu_version]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self.busy.add_to(&mut table, "busy");
        self.nothing_dirty.add_to(&mut table, "nothing dirty");
        for (cpus, pair) in &self.by_cpus {
            pair.add_to(&mut table, &format!("nothing dirty, {cpus} vCPUs"));
        }
        output::say!("\n{table}");
        self.print_bars();
    }

    fn print_bars(&self) {
        let limit = self.limit_ms as f64;
        for (contender, samples) in
            [(Contender::Whimbrel, &self.busy.whimbrel), (Contender::Qemu, &self.busy.qemu)]
        {
            let kept = samples.iter().filter(|sample| sample.gap_ms <= limit).count();
            output::say!(
                "{contender}: the guest's longest gap was within {limit} ms in {kept} of {} runs; the goal is {KEPT_OF_20} of 20: {}",
                samples.len(),
                verdict(kept * 20 >= samples.len() * KEPT_OF_20)
            );
        }
        let fixed = |samples: &[Sample]| spread(samples, |sample| sample.stop_to_resume_ms);
        for (contender, samples) in
            [(Contender::Whimbrel, &self.nothing_dirty.whimbrel), (Contender::Qemu, &self.nothing_dirty.qemu)]
        {
            let Some(spread) = fixed(samples) else { continue };
            output::say!(
                "{contender}: the fixed part, with nothing dirty, is {}; the goal is {FIXED_MS} ms: {}",
                shown(Some(spread), Unit::Milliseconds),
                verdict(spread.median <= FIXED_MS)
            );
        }
    }
}

impl Pair {
    fn add_to(&self, table: &mut Table, name: &str) {
        let both = |of: fn(&Sample) -> Option<f64>| {
            [&self.whimbrel, &self.qemu].map(|samples| shown(spread(samples, of), Unit::Milliseconds))
        };
        let [ours, theirs] = both(|sample| sample.stop_to_resume_ms);
        table.add_row([format!("{name}: STOP → RESUME"), ours, theirs]);
        let [ours, theirs] = both(|sample| Some(sample.gap_ms));
        table.add_row(["  as the guest felt it".to_owned(), ours, theirs]);
        for (phase, of) in PHASES {
            let phases = spread(&self.whimbrel, |sample| of(sample.phases.as_ref()?));
            if phases.is_some() {
                table.add_row([phase.to_owned(), shown(phases, Unit::Milliseconds), "-".to_owned()]);
            }
        }
    }
}
