//! The tables: five as they were published, and what else users felt.

use std::collections::HashSet;

use comfy_table::{CellAlignment, Table as Grid, presets};

use crate::{
    Comparison, Contender, Mode, Run, Scenario, Spread,
    figures::{self, Figure, Unit},
    spread,
};

/// One table, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it is about.
    pub title: String,
    /// Names of its columns.
    pub header: Vec<String>,
    /// Its rows, each as long as the header.
    pub rows: Vec<Vec<String>>,
}

/// Total time, bandwidth, downtime, video and pings, and what else was felt.
#[must_use]
pub fn all(comparison: &Comparison) -> Vec<Table> {
    let one = |title: &str, figure: &Figure| table(comparison, title, |runs| shown(comparison, figure, runs));
    vec![
        one("total time, s", &figures::TOTAL),
        one("bandwidth, MB/s", &figures::BANDWIDTH),
        one("downtime, ms", &figures::DOWNTIME),
        table(comparison, "video stuck", |runs| stuck(comparison, runs)),
        table(comparison, "ping, sent/received", pinged),
        one("bandwidth of the first pass, % of what the link gives", &figures::FIRST_PASS),
        one("downtime as the guest felt it, ms", &figures::GAP),
        one("longest stop of the guest, whenever, ms", &figures::LONGEST_STOP),
        pair(comparison, "frames late / lost, 25 a second", [&figures::LATE_25, &figures::LOST_25]),
        pair(comparison, "frames late / lost, 60 a second", [&figures::LATE_60, &figures::LOST_60]),
        one("longest freeze of the video, ms", &figures::FREEZE),
        one("pings every 10 ms: lost", &figures::PINGS_LOST),
        one("pings every 10 ms: longest gap, ms", &figures::PING_GAP),
        one("TCP stream: longest stall, ms", &figures::STALL),
        one("TCP stream: segments sent again", &figures::RETRANSMISSIONS),
        one("work of the guest lost, %", &figures::WORK_LOST),
        one("guest back at its work after the resume, ms", &figures::BACK),
    ]
}

/// How many of [`all`] were published.
pub const PUBLISHED: usize = 5;

/// Why cells are empty, and what was chosen where nothing was set, each once.
#[must_use]
pub fn remarks(comparison: &Comparison) -> Vec<String> {
    let mut remarks: Vec<String> = Vec::new();
    for run in &comparison.runs {
        let name = format!("{}, {} of {}", run.scenario, run.mode, run.contender);
        if let Some(reason) = run.outcome.reason() {
            remarks.push(format!("{name} {reason}"));
        } else if run.mode == Mode::Default && run.repetition == 1 {
            let choices = if run.choices.is_empty() {
                "nothing that it tells".to_owned()
            } else {
                run.choices.join("; ")
            };
            remarks.push(format!("{name} chose: {choices}"));
        }
        remarks.extend(run.complaints.iter().map(|complaint| format!("NOT INTACT: {name}: {complaint}")));
    }
    let mut said = HashSet::new();
    remarks.retain(|remark| said.insert(remark.clone()));
    remarks
}

fn table(comparison: &Comparison, title: &str, cell: impl Fn(&[&Run]) -> String) -> Table {
    let scenarios: Vec<_> = Scenario::ALL
        .into_iter()
        .filter(|scenario| has(comparison, |run| run.scenario == *scenario))
        .collect();
    let mut header = vec![title.to_owned()];
    header.extend(scenarios.iter().map(ToString::to_string));
    let mut rows = Vec::new();
    for mode in Mode::ALL {
        for contender in Contender::BOTH {
            if !has(comparison, |run| (run.mode, run.contender) == (mode, contender)) {
                continue;
            }
            let cells = scenarios.iter().map(|scenario| {
                let runs = comparison.cell(*scenario, mode, contender);
                if runs.is_empty() { String::new() } else { cell(&runs) }
            });
            rows.push([format!("{mode}, {contender}")].into_iter().chain(cells).collect());
        }
    }
    Table { title: title.to_owned(), header, rows }
}

fn pair(comparison: &Comparison, title: &str, [one, other]: [&Figure; 2]) -> Table {
    table(comparison, title, |runs| {
        let median = |figure: &Figure| {
            completed(comparison, figure, runs).map(|spread| figure.unit.number(spread.median))
        };
        match (median(one), median(other)) {
            (Some(one), Some(other)) => format!("{one} / {other}"),
            _ => "-".to_owned(),
        }
    })
}

fn has(comparison: &Comparison, is_it: impl Fn(&Run) -> bool) -> bool {
    comparison.runs.iter().any(is_it)
}

/// Of the runs of one cell, if all of them ended well: a mode that does so only at times is not suitable.
#[must_use]
pub fn completed(comparison: &Comparison, figure: &Figure, runs: &[&Run]) -> Option<Spread> {
    let value = |run: &&Run| if run.is_completed() { (figure.of)(run, &comparison.plan) } else { None };
    spread(runs, value)
}

fn shown(comparison: &Comparison, figure: &Figure, runs: &[&Run]) -> String {
    let Some(Spread { least, median, most }) = completed(comparison, figure, runs) else {
        return "-".to_owned();
    };
    let number = |value| figure.unit.number(value);
    if runs.len() == 1 {
        number(median)
    } else {
        format!("{} ({}–{})", number(median), number(least), number(most))
    }
}

/// As it was published: "no" below what one sees, else how long.
fn stuck(comparison: &Comparison, runs: &[&Run]) -> String {
    let Some(Spread { median, .. }) = completed(comparison, &figures::FREEZE, runs) else {
        return "-".to_owned();
    };
    match median {
        ms if ms < SEEN_MS => "no".to_owned(),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// A picture that stands still for less is not seen to: five frames of a film with 25 a second.
const SEEN_MS: f64 = 200.0;

fn pinged(runs: &[&Run]) -> String {
    if !runs.iter().all(|run| run.is_completed()) {
        return "-".to_owned();
    }
    let pings: Option<Vec<_>> = runs.iter().map(|run| figures::pings_1s(run)).collect();
    let Some(pings) = pings else { return "-".to_owned() };
    let (sent, received): (u64, u64) =
        (pings.iter().map(|one| one.sent).sum(), pings.iter().map(|one| one.received).sum());
    format!("{sent}/{received}")
}

impl Table {
    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        self.drawn(presets::UTF8_FULL_CONDENSED)
    }

    /// For a page in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        self.drawn(presets::ASCII_MARKDOWN)
    }

    fn drawn(&self, style: impl Into<comfy_table::TableStyle>) -> String {
        let mut grid = Grid::new();
        grid.load_style(style.into());
        grid.set_header(&self.header);
        for row in &self.rows {
            grid.add_row(row);
        }
        for column in grid.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        grid.to_string()
    }
}

/// A value with its unit.
#[must_use]
pub fn with_unit(unit: Unit, value: f64) -> String {
    format!("{} {}", unit.number(value), unit.name()).trim_end().to_owned()
}
