//! What is said at the end.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use monitor::types::FaultsInfo;

use super::{hop::Hop, journey::Outcome, plan::Plan, screen::Screen, verdict::Verdict};
use crate::rig::{Bytes, Count, Felt, Span, bare_cipher_per_gib};

/// The last move as the monitor tells it, all moves side by side, and the verdict.
pub(super) fn print(plan: &Plan, outcome: &Outcome, verdict: &Verdict, screen: &Screen) {
    if let Some((hop, _)) = outcome.hops.last() {
        screen.part(&format!(
            "info migrate, on {} after {}",
            hop.way.chars().take(1).collect::<String>(),
            hop.way
        ));
        for line in hop.text.lines() {
            let line = format!("  {line}");
            let marked = if line.starts_with("  downtime:") { screen.highlight(&line) } else { line };
            screen.say(&marked);
        }
    }
    screen.part("Side by side");
    for line in table(plan, outcome).lines() {
        let marked = if line.contains("downtime") { screen.highlight(line) } else { line.to_owned() };
        screen.say(&marked);
    }
    screen.say(&screen.dim(&format!(
        "While nobody moved it, the guest was held up {} at most, and dirtied {}. All of this took {}.",
        Span(outcome.gap_at_rest),
        outcome.rate_at_rest,
        Span(outcome.took)
    )));
    if let Some(cost) = encryption(outcome) {
        screen.say(&screen.dim(&cost));
    }
    screen.part("What had to hold");
    for check in &verdict.checks {
        if check.holds { screen.done(&check.text) } else { screen.failed(&check.text) }
    }
    let summary = if verdict.holds() { screen.good(&verdict.summary) } else { screen.bad(&verdict.summary) };
    screen.say(&format!("\n{summary}"));
    if let Some(folder) = &plan.keep_logs {
        screen.say(&format!("Logs and the guest's words are in {}", folder.display()));
    }
}

/// How moves were encrypted, and what share of the CPU time that took at least.
fn encryption(outcome: &Outcome) -> Option<String> {
    let whimbrel = |hop: &Hop| hop.info.whimbrel.clone();
    let security = whimbrel(&outcome.hops.last()?.0)?.security.filter(|security| security.encrypted)?;
    let sent = |hop: &Hop| hop.info.ram.as_ref().map_or(0, |ram| ram.transferred);
    let bytes: u64 = outcome.hops.iter().map(|(hop, _)| sent(hop)).sum();
    let spent =
        |hop: &Hop| whimbrel(hop)?.cpu_seconds.zip(hop.destination_cpu).map(|(here, there)| here + there);
    let seconds: f64 = outcome.hops.iter().filter_map(|(hop, _)| spent(hop)).sum();
    let per_gib = bare_cipher_per_gib().as_secs_f64();
    let cipher = per_gib * bytes as f64 / (1_u64 << 30) as f64;
    Some(format!(
        "Encrypted with {}, {}: {} went over the wire, and of the {seconds:.2} CPU seconds of both sides the cipher took about \
         {cipher:.2} (here it encrypts and decrypts a GiB in {per_gib:.2} s). --clear moves without.",
        security.protocol?,
        security.cipher?,
        Bytes(bytes)
    ))
}

type Row<'a> = (&'a str, Box<dyn Fn(&Hop, &Felt) -> String + 'a>);

/// A column for each move.
fn table(plan: &Plan, outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let header = std::iter::once(String::new()).chain(outcome.hops.iter().map(|(hop, _)| heading(hop)));
    table.set_header(header);
    for (name, figure) in rows(plan) {
        let figures = outcome.hops.iter().map(|(hop, felt)| figure(hop, felt));
        table.add_row(std::iter::once(name.to_owned()).chain(figures));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn heading(hop: &Hop) -> String {
    if hop.faults.is_some() { format!("{}\nby postcopy", hop.way) } else { hop.way.clone() }
}

fn rows(plan: &Plan) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = vec![
        ("total time", Box::new(|hop, _| span_ms(hop.info.total_time.unwrap_or(0)))),
        ("rounds, switchover included", Box::new(|hop, _| rounds(hop).to_string())),
        (
            "bytes on the wire",
            Box::new(|hop, _| Bytes(hop.info.ram.as_ref().map_or(0, |ram| ram.transferred)).to_string()),
        ),
        ("downtime, as the source says", Box::new(|hop, _| format!("{} ms", hop.info.downtime.unwrap_or(0)))),
    ];
    for phase in PHASES {
        rows.push((phase, Box::new(|hop, _| phase_time(hop, phase.trim_start()))));
    }
    rows.extend::<[Row<'_>; 8]>([
        (
            "STOP → RESUME by the host's clock",
            Box::new(|hop, _| hop.stood_still.map_or_else(none, |time| Span(time).to_string())),
        ),
        ("longest gap the guest felt: switchover", Box::new(|_, felt| Span(felt.gap).to_string())),
        ("                            rounds", Box::new(|_, felt| Span(felt.gap_in_rounds).to_string())),
        (
            "waits for pages that follow: how many",
            Box::new(|hop, _| waits(hop, |faults| Count(faults.count).to_string())),
        ),
        ("                             mean", Box::new(|hop, _| waits(hop, |faults| micros(faults.mean_us)))),
        ("dirty rate asked for", Box::new(|_, _| plan.rate.to_string())),
        ("           held", Box::new(|_, felt| felt.rate.to_string())),
        ("CPU seconds, source + destination", Box::new(|hop, _| cpu(hop))),
    ]);
    rows
}

/// As the monitor calls the phases of a downtime.
const PHASES: [&str; 6] = ["  stop", "  last pages", "  save", "  load", "  hand-over", "  start"];

fn phase_time(hop: &Hop, name: &str) -> String {
    let phases = hop.info.whimbrel.as_ref().and_then(|own| own.downtime_phases.as_ref());
    let ms = phases.and_then(|phases| phases.measured().find(|(phase, _)| *phase == name));
    ms.map_or_else(none, |(_, ms)| format!("{ms:.1} ms"))
}

fn rounds(hop: &Hop) -> usize {
    hop.info.whimbrel.as_ref().map_or(0, |own| own.rounds.len())
}

fn cpu(hop: &Hop) -> String {
    let seconds = |value: Option<f64>| value.map_or_else(none, |value| format!("{value:.2}"));
    let source = hop.info.whimbrel.as_ref().and_then(|own| own.cpu_seconds);
    format!("{} + {}", seconds(source), seconds(hop.destination_cpu))
}

fn waits(hop: &Hop, figure: impl FnOnce(&FaultsInfo) -> String) -> String {
    hop.faults.as_ref().map_or_else(none, figure)
}

fn micros(us: Option<f64>) -> String {
    us.map_or_else(none, |us| format!("{us:.0} µs"))
}

fn span_ms(ms: u64) -> String {
    Span(Duration::from_millis(ms)).to_string()
}

fn none() -> String {
    "-".to_owned()
}
