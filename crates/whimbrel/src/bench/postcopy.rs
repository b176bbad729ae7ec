//! The same machine by postcopy with both: what it does to a guest that writes all over its memory.

use std::{fmt, fs, io, path::Path, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use comparison::spread;
use config::CpuCount;
use monitor::types::FaultsInfo;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Bench, BenchError,
    cpu::Vcpus,
    order,
    summary::{Unit, shown, verdict},
    trial::{self, LOOK_EVERY, PATIENCE, TrialError, start, wait_until},
    waits::{Waits, back_at_speed},
};
use crate::rig::{
    Backing, Contender, End, Felt, Host, Machine, Witness, checked_since_arrival, held_rate, listen, micros,
};

/// vCPUs that write.
const CPUS: [&str; 2] = ["1", "2"];
/// How long only what the guest waits for is sent, where the link is to be idle otherwise.
const IDLE: Duration = Duration::from_secs(4);
/// Bytes each second that follow the machine meanwhile: next to none.
const IDLE_BANDWIDTH: u64 = 4096;
/// Reports that the guest gives before it is moved.
const REPORTS_AT_REST: usize = 40;

/// How memory follows, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Postcopy from the start, as fast as it goes.
    Pushed,
    /// Postcopy from the start; at first only what the guest waits for is sent.
    Asked,
    /// Precopy of a guest that does not write: what a move takes at least.
    Precopy,
}

/// One move, measured. Times in milliseconds unless said otherwise.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    /// From the command until the source is needed no more.
    total_ms: f64,
    /// From the source's STOP to the destination's RESUME, by the host's clock.
    stop_to_resume_ms: Option<f64>,
    /// The longest gap that the guest felt around the switchover.
    gap_ms: f64,
    /// CPU seconds of both sides, but for vCPUs.
    cpu_seconds: f64,
    /// Bytes on the wire.
    transferred: u64,
    /// From RESUME until the guest wrote nine tenths of what it wrote before.
    back_ms: Option<f64>,
    /// How long the guest waited for pages, as it felt it.
    waits: Waits,
    /// How long it waited by the destination's own figures.
    faults: Option<FaultsInfo>,
    complaints: Vec<String>,
}

/// The same machine, moved by both.
#[derive(Debug, Serialize)]
struct Row {
    backing: Backing,
    cpus: u8,
    way: Way,
    whimbrel: Vec<Sample>,
    qemu: Vec<Sample>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Follows {
    host: Host,
    qemu_version: String,
    memory_bytes: u64,
    rows: Vec<Row>,
}

impl Bench {
    pub(super) fn postcopies(&mut self) -> Result<Follows, BenchError> {
        let mut rows = Vec::new();
        for backing in [Backing::Memfd, Backing::Hugetlb] {
            for count in CPUS.iter().filter_map(|count| count.parse::<CpuCount>().ok()) {
                (self.backing, self.arguments.cpus) = (backing, count);
                for way in [Way::Pushed, Way::Asked, Way::Precopy] {
                    // Asked for one by one, huge pages are what they are with the other.
                    if way == Way::Asked && backing == Backing::Hugetlb {
                        continue;
                    }
                    rows.push(self.row(way)?);
                }
            }
        }
        Ok(Follows {
            host: self.host.clone(),
            qemu_version: self.contenders.qemu_version().to_owned(),
            memory_bytes: self.arguments.memory.bytes(),
            rows,
        })
    }

    fn row(&mut self, way: Way) -> Result<Row, BenchError> {
        self.follows = Some(if way == Way::Precopy { "rate=0" } else { "rate=max" });
        let (backing, cpus) = (self.backing, self.arguments.cpus.get());
        let mut row = Row { backing, cpus, way, whimbrel: Vec::new(), qemu: Vec::new() };
        for repetition in 0..self.arguments.repetitions {
            for contender in order(repetition) {
                // Only Whimbrel's own precopy says how long postcopy may take.
                if way == Way::Precopy && contender == Contender::Qemu {
                    continue;
                }
                let sample = self.follow(contender, way).map_err(|error| match error {
                    TrialError::Interrupted(interrupted) => BenchError::Interrupted(interrupted),
                    error => BenchError::Trial { contender, source: Box::new(error) },
                })?;
                output::say!("{row}  {:>3}  {contender:<9} {sample}", repetition + 1);
                match contender {
                    Contender::Whimbrel => row.whimbrel.push(sample),
                    Contender::Qemu => row.qemu.push(sample),
                }
            }
        }
        Ok(row)
    }

    fn follow(&self, contender: Contender, way: Way) -> Result<Sample, TrialError> {
        let mut source = start(self, contender, End::Source)?;
        let mut witness = Witness::new(source.serial());
        wait_until(self, &mut witness, "the filling of memory", Witness::filled)?;
        let rested = witness.reports().len() + REPORTS_AT_REST;
        wait_until(self, &mut witness, "reports", |witness| witness.reports().len() >= rested)?;
        let mut destination = start(self, contender, End::Destination)?;
        for machine in [&mut source, &mut destination] {
            set_up(self, contender, way, machine)?;
        }
        witness.listen()?;
        let begun_at = witness.reports().len();
        let (mut source_vcpus, destination_before) =
            (Vcpus::of(&mut source)?, Vcpus::of(&mut destination)?.spent());
        let source_before = source_vcpus.spent();
        let port = listen(super::HOST, &mut destination)?.ok_or(TrialError::NoPort)?;
        self.interrupt.sleep(self.arguments.first_case().head_start.duration())?;
        source.execute("migrate", json!({ "uri": format!("tcp:{}:{port}", super::HOST) }))?;
        if contender == Contender::Qemu && way != Way::Precopy {
            start_postcopy(self, &mut source)?;
        }
        if way == Way::Asked {
            destination.events().wait_for("RESUME", PATIENCE);
            self.interrupt.sleep(IDLE)?;
            let unlimited = json!({ "max-postcopy-bandwidth": 0 });
            source.execute("migrate-set-parameters", unlimited)?;
        }
        let stopped = trial::watch(self, &mut source, &mut source_vcpus)?;
        let resumed = match way {
            Way::Asked => None,
            _ => destination.events().wait_for("RESUME", PATIENCE).map(|event| micros(&event)),
        };
        let source_cpu = source_vcpus.spent().beside_vcpus_since(source_before);
        let destination_cpu = Vcpus::of(&mut destination)?.spent().beside_vcpus_since(destination_before);
        witness.follow(destination.serial())?;
        let arrived_at = witness.reports().len();
        wait_until(self, &mut witness, "the check of all memory", |witness| {
            checked_since_arrival(&witness.reports()[arrived_at..]).is_some_and(|done| done >= 1.0)
        })?;
        let info = source.query_migrate()?;
        let felt = Felt::new(witness.reports(), begun_at, arrived_at);
        let millis = |micros: i64| micros as f64 / 1e3;
        let before = held_rate(&witness.reports()[begun_at.saturating_sub(REPORTS_AT_REST)..begun_at]);
        let since = &witness.reports()[arrived_at..];
        let from_there = &witness.reports()[begun_at..];
        let sample = Sample {
            total_ms: info.total_time.unwrap_or(0) as f64,
            stop_to_resume_ms: stopped.zip(resumed).map(|(stop, resume)| millis(resume.saturating_sub(stop))),
            gap_ms: felt.gap.as_secs_f64() * 1e3,
            cpu_seconds: (source_cpu + destination_cpu).as_secs_f64(),
            transferred: info.ram.unwrap_or_default().transferred,
            back_ms: resumed.and_then(|resumed| back_at_speed(from_there, before, resumed / 1000)),
            waits: Waits::between(witness.reports().get(begun_at.saturating_sub(1)), since.last()),
            faults: destination.query_migrate()?.whimbrel.and_then(|own| own.faults),
            complaints: witness.complaints().to_vec(),
        };
        source.quit()?;
        destination.quit()?;
        Ok(sample)
    }
}

fn set_up(bench: &Bench, contender: Contender, way: Way, machine: &mut Machine) -> Result<(), TrialError> {
    let postcopy = way != Way::Precopy;
    // QEMU 7.2 has no postcopy over more than one channel.
    let names: &[&str] = match contender {
        Contender::Whimbrel => &["events", "postcopy-ram"],
        Contender::Qemu => &["events", "postcopy-ram", "postcopy-preempt"],
    };
    let capability = |name: &&str| json!({ "capability": name, "state": *name == "events" || postcopy });
    let capabilities: Vec<_> = names.iter().map(capability).collect();
    machine.execute("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
    let limit = if way == Way::Asked { IDLE_BANDWIDTH } else { 0 };
    let mut parameters = json!({ "max-bandwidth": 0, "max-postcopy-bandwidth": limit });
    if contender == Contender::Whimbrel {
        parameters["whimbrel-postcopy"] = "immediate".into();
        parameters["multifd-channels"] = bench.arguments.first_case().channels.into();
    }
    machine.execute("migrate-set-parameters", parameters)?;
    Ok(())
}

/// QEMU begins with a round; this cuts it short.
fn start_postcopy(bench: &Bench, source: &mut Machine) -> Result<(), TrialError> {
    let is_active = |info: &Value| info["status"] == "active";
    loop {
        bench.interrupt.check()?;
        let info = source.execute("query-migrate", json!({}))?;
        if is_active(&info) {
            break;
        }
        bench.interrupt.sleep(Duration::from_millis(1))?;
    }
    source.execute("migrate-start-postcopy", json!({}))?;
    bench.interrupt.sleep(LOOK_EVERY)?;
    Ok(())
}

type Figure = (&'static str, Unit, fn(&Sample) -> Option<f64>, Option<f64>);

/// What is compared, and the most that Whimbrel's may be of QEMU's.
const FIGURES: [Figure; 11] = [
    ("total time", Unit::Milliseconds, |sample| Some(sample.total_ms), None),
    ("CPU time, both sides", Unit::Seconds, |sample| Some(sample.cpu_seconds), None),
    ("downtime, STOP → RESUME", Unit::Milliseconds, |sample| sample.stop_to_resume_ms, None),
    ("  as the guest felt it", Unit::Milliseconds, |sample| Some(sample.gap_ms), None),
    ("back at 90 % of its speed", Unit::Milliseconds, |sample| sample.back_ms, Some(0.5)),
    ("waits of the guest", Unit::Number, |sample| Some(sample.waits.count as f64), None),
    ("  mean", Unit::Microseconds, |sample| sample.waits.mean_us(), Some(0.3)),
    ("  p99.9 below", Unit::Microseconds, |sample| sample.waits.below_us(999), Some(0.3)),
    ("faults by its own figures, mean", Unit::Microseconds, |sample| sample.faults.as_ref()?.mean_us, None),
    ("  p50 below", Unit::Microseconds, |sample| sample.faults.as_ref()?.p50_us, None),
    ("  p99.9 below", Unit::Microseconds, |sample| sample.faults.as_ref()?.p999_us, None),
];

/// What STOP → RESUME, and the gap that the guest feels, may be, in milliseconds.
const DOWNTIME_MS: [f64; 2] = [10.0, 15.0];
/// What total time and CPU time for a GiB may be of those of precopy.
const OF_PRECOPY: [f64; 2] = [1.15, 1.3];

impl Follows {
    /// Whether no guest found a fault.
    pub(super) fn is_intact(&self) -> bool {
        let mut all = self.rows.iter().flat_map(|row| row.whimbrel.iter().chain(&row.qemu));
        all.all(|sample| sample.complaints.is_empty())
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["median (least – most)", "Whimbrel", &self.qemu_version, "ratio", "goal", ""]);
        for column in table.column_iter_mut().skip(1).take(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in self.rows.iter().filter(|row| row.way != Way::Precopy) {
            table.add_row([row.to_string()]);
            row.add_to(&mut table);
        }
        output::say!("\n{table}");
        self.rows.iter().filter(|row| row.way == Way::Pushed).for_each(|row| self.print_bars(row));
    }

    fn print_bars(&self, row: &Row) {
        let median = |samples: &[Sample], of: fn(&Sample) -> Option<f64>| Some(spread(samples, of)?.median);
        let stop = median(&row.whimbrel, |sample| sample.stop_to_resume_ms);
        let felt = median(&row.whimbrel, |sample| Some(sample.gap_ms));
        if let Some((stop, felt)) = stop.zip(felt) {
            let [most_stop, most_felt] = DOWNTIME_MS;
            output::say!(
                "{row}: STOP → RESUME {stop:.1} ms, felt {felt:.1} ms; the goals are {most_stop} and {most_felt} ms: {}",
                verdict(stop <= most_stop && felt <= most_felt)
            );
        }
        let is_base =
            |base: &&Row| base.way == Way::Precopy && (base.backing, base.cpus) == (row.backing, row.cpus);
        let Some(base) = self.rows.iter().find(is_base) else { return };
        let gib =
            |sample: &Sample| Some(sample.cpu_seconds / (sample.transferred as f64 / f64::from(1 << 30)));
        let of = |of: fn(&Sample) -> Option<f64>| {
            median(&row.whimbrel, of).zip(median(&base.whimbrel, of)).map(|(ours, base)| ours / base)
        };
        if let Some((total, cpu)) = of(|sample| Some(sample.total_ms)).zip(of(gib)) {
            let [most_total, most_cpu] = OF_PRECOPY;
            output::say!(
                "  of precopy without writes: total time {total:.2}, CPU time for a GiB {cpu:.2}; the goals are {most_total} and \
                 {most_cpu}: {}",
                verdict(total <= most_total && cpu <= most_cpu)
            );
        }
    }
}

impl Row {
    fn add_to(&self, table: &mut Table) {
        for (name, unit, of, goal) in FIGURES {
            let (ours, theirs) = (spread(&self.whimbrel, of), spread(&self.qemu, of));
            if ours.is_none() && theirs.is_none() {
                continue;
            }
            let ratio = ours.zip(theirs).map(|(ours, theirs)| ours.median / theirs.median);
            table.add_row([
                format!("  {name}"),
                shown(ours, unit),
                shown(theirs, unit),
                ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                goal.map_or_else(String::new, |goal| format!("≤ {goal:.2}")),
                goal.zip(ratio).map_or("", |(goal, ratio)| verdict(ratio <= goal)).to_owned(),
            ]);
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Pushed => "postcopy",
            Way::Asked => "postcopy, idle link",
            Way::Precopy => "precopy, no writes",
        };
        write!(f, "{}, {} vCPU, {way}", self.backing, self.cpus)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |ms: Option<f64>| ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.1}"));
        write!(
            f,
            "{:>5.0} ms, STOP → RESUME {}, felt {:.1} ms, CPU {:.2} s, {} waits of {} µs, back after {} ms, {}",
            self.total_ms,
            shown(self.stop_to_resume_ms),
            self.gap_ms,
            self.cpu_seconds,
            self.waits.count,
            shown(self.waits.mean_us()),
            shown(self.back_ms),
            if self.complaints.is_empty() { "intact" } else { "NOT INTACT" }
        )
    }
}
