//! Goals, and whether they are met: ratios to QEMU in the same run, but for what a user must not feel.

use std::fmt::Write as _;

use crate::{
    Comparison, Contender, Mode, Scenario,
    figures::{self, Figure},
    tables::{Table, completed, with_unit},
};

/// One goal in one scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What it is about.
    pub name: &'static str,
    /// Where.
    pub scenario: Scenario,
    /// What was found.
    pub found: String,
    /// What is to be.
    pub goal: String,
    /// `None` where it was not seen.
    pub met: Option<bool>,
}

/// By scenario.
type PerScenario = [f64; 3];

/// The most that ours may be of QEMU's, the best mode of each.
const TOTAL: PerScenario = [0.9, 0.7, 0.7];
const DOWNTIME: PerScenario = [0.2, 0.2, 0.2];
const WORK: PerScenario = [1.0, 1.0, 0.7];
/// A guest that loses less, in percent, loses nothing that can be told from noise.
const WORK_NOISE: f64 = 1.0;
/// What the first pass of our default mode uses of what the link gives, in percent, at least.
const FIRST_PASS: f64 = 95.0;
/// The longest freeze in any of our modes, in milliseconds, at most.
const FREEZE_MS: PerScenario = [100.0, 100.0, 200.0];
/// Pings lost of those every 10 ms, in any of our modes, at most.
const PINGS_LOST: PerScenario = [5.0, 5.0, 10.0];

/// Every goal in every scenario that was measured.
#[must_use]
pub fn verdicts(comparison: &Comparison) -> Vec<Verdict> {
    let measured = Scenario::ALL.into_iter().enumerate();
    let measured =
        measured.filter(|(_, scenario)| comparison.runs.iter().any(|run| run.scenario == *scenario));
    measured
        .flat_map(|(index, scenario)| {
            [
                total(comparison, scenario, TOTAL[index]),
                ratio(
                    comparison,
                    "downtime, best mode of each, of QEMU's",
                    scenario,
                    &figures::DOWNTIME,
                    DOWNTIME[index],
                    0.0,
                ),
                first_pass(comparison, scenario),
                worst(
                    comparison,
                    "video: longest freeze in any of our modes",
                    scenario,
                    &figures::FREEZE,
                    FREEZE_MS[index],
                ),
                worst(
                    comparison,
                    "pings every 10 ms that were lost, any of our modes",
                    scenario,
                    &figures::PINGS_LOST,
                    PINGS_LOST[index],
                ),
                ratio(
                    comparison,
                    "work of the guest lost, best mode of each, of QEMU's",
                    scenario,
                    &figures::WORK_LOST,
                    WORK[index],
                    WORK_NOISE,
                ),
            ]
        })
        .collect()
}

/// As a table: a row for each goal, with what was found in each scenario.
#[must_use]
pub fn table(comparison: &Comparison) -> Table {
    let verdicts = verdicts(comparison);
    let header = ["goals", "scenario", "found", "goal", ""].map(str::to_owned).to_vec();
    let rows = verdicts.into_iter().map(|verdict| {
        let met = match verdict.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not seen",
        };
        vec![
            verdict.name.to_owned(),
            verdict.scenario.to_string(),
            verdict.found,
            verdict.goal,
            met.to_owned(),
        ]
    });
    Table { title: "goals".to_owned(), header, rows: rows.collect() }
}

/// With what stands between: where both fill the link, sending memory once takes so much of QEMU's time.
fn total(comparison: &Comparison, scenario: Scenario, goal: f64) -> Verdict {
    let name = "total time, best mode of each, of QEMU's";
    let mut verdict = ratio(comparison, name, scenario, &figures::TOTAL, goal, 0.0);
    let theirs = medians(comparison, scenario, Contender::Qemu, &figures::TOTAL);
    let theirs = theirs.into_iter().min_by(f64::total_cmp);
    if let Some((theirs, gives)) = theirs.zip(comparison.plan.gives(scenario)) {
        let memory = comparison.plan.memory as f64 / gives / theirs;
        let _ = write!(verdict.found, "; sending memory once takes {memory:.2}");
    }
    verdict
}

/// Medians of all modes of one, encrypted ones left out.
fn medians(comparison: &Comparison, scenario: Scenario, contender: Contender, figure: &Figure) -> Vec<f64> {
    let median = |mode: Mode| {
        completed(comparison, figure, &comparison.cell(scenario, mode, contender)).map(|spread| spread.median)
    };
    Mode::COMMON.into_iter().filter_map(median).collect()
}

/// The worst of all moves by each of our modes that is measured, encrypted ones left out: a single one is felt as well.
fn mosts(comparison: &Comparison, scenario: Scenario, figure: &Figure) -> Vec<f64> {
    let most = |mode: Mode| {
        let runs = comparison.cell(scenario, mode, Contender::Whimbrel);
        completed(comparison, figure, &runs).map(|spread| spread.most)
    };
    Mode::COMMON.into_iter().filter_map(most).collect()
}

/// Modes of these that have no such figure though they were tried, as the end of a sentence: a goal that is met without them says less.
fn without(comparison: &Comparison, scenario: Scenario, contenders: &[Contender], figure: &Figure) -> String {
    let is_missing = |contender: Contender, mode: Mode| {
        let runs = comparison.cell(scenario, mode, contender);
        !runs.is_empty() && completed(comparison, figure, &runs).is_none()
    };
    let missing: Vec<_> = contenders
        .iter()
        .flat_map(|contender| Mode::COMMON.map(|mode| (*contender, mode)))
        .filter(|(contender, mode)| is_missing(*contender, *mode))
        .map(|(contender, mode)| format!("{mode} of {contender}"))
        .collect();
    if missing.is_empty() { String::new() } else { format!("; without {}", missing.join(", ")) }
}

fn ratio(
    comparison: &Comparison,
    name: &'static str,
    scenario: Scenario,
    figure: &Figure,
    goal: f64,
    noise: f64,
) -> Verdict {
    let best =
        |contender| medians(comparison, scenario, contender, figure).into_iter().min_by(f64::total_cmp);
    let both = best(Contender::Whimbrel).zip(best(Contender::Qemu));
    let mut found = both.map_or_else(String::new, |(ours, theirs)| {
        let (ours_shown, theirs_shown) = (with_unit(figure.unit, ours), with_unit(figure.unit, theirs));
        if theirs > 0.0 && ours >= 0.0 {
            format!("{:.2} ({ours_shown} of {theirs_shown})", ours / theirs)
        } else {
            format!("{ours_shown} and {theirs_shown}")
        }
    });
    found += &without(comparison, scenario, &Contender::BOTH, figure);
    let found = found.trim_start_matches("; ").to_owned();
    let met = both.map(|(ours, theirs)| ours <= (theirs * goal).max(noise));
    Verdict { name, scenario, found, goal: format!("≤ {goal}"), met }
}

fn first_pass(comparison: &Comparison, scenario: Scenario) -> Verdict {
    let runs = comparison.cell(scenario, Mode::Default, Contender::Whimbrel);
    let percent = completed(comparison, &figures::FIRST_PASS, &runs).map(|spread| spread.median);
    let missing = if runs.is_empty() { "" } else { "default of Whimbrel has none" };
    Verdict {
        name: "bandwidth of the first pass of our default mode, of what the link gives",
        scenario,
        found: percent.map_or_else(|| missing.to_owned(), |percent| format!("{percent:.1} %")),
        goal: format!("≥ {FIRST_PASS} %"),
        met: percent.map(|percent| percent >= FIRST_PASS),
    }
}

fn worst(
    comparison: &Comparison,
    name: &'static str,
    scenario: Scenario,
    figure: &Figure,
    goal: f64,
) -> Verdict {
    let worst = mosts(comparison, scenario, figure).into_iter().max_by(f64::total_cmp);
    let found = worst.map_or_else(String::new, |worst| with_unit(figure.unit, worst));
    let found = found + &without(comparison, scenario, &[Contender::Whimbrel], figure);
    Verdict {
        name,
        scenario,
        found: found.trim_start_matches("; ").to_owned(),
        goal: format!("≤ {}", with_unit(figure.unit, goal)),
        met: worst.map(|worst| worst <= goal),
    }
}
