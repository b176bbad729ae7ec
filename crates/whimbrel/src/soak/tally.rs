//! Counting, and what is said at the end.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use faults::Phase;
use serde_json::{Value, json};

use super::{
    judge::Outcome,
    record::{Problem, Record},
};

/// Everything that is counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) attempts: u64,
    /// Attempts that were encrypted.
    encrypted: u64,
    outcomes: BTreeMap<Outcome, u64>,
    problems: BTreeMap<Problem, u64>,
    recoveries: u64,
    /// Attempts in which no fault came to strike.
    unharmed: u64,
    /// Phase and kind of harm: how often, and what came of it.
    coverage: BTreeMap<(&'static str, &'static str), BTreeMap<Outcome, u64>>,
    /// What destinations said, without figures.
    reasons: BTreeMap<String, u64>,
    records: Vec<Value>,
    slowest: Duration,
}

impl Tally {
    pub(super) fn add(&mut self, record: &Record) {
        self.attempts += 1;
        self.encrypted += u64::from(record.scenario.encrypted);
        *self.outcomes.entry(record.outcome).or_default() += 1;
        for (kind, _) in &record.problems {
            *self.problems.entry(*kind).or_default() += 1;
        }
        self.recoveries += u64::from(record.recovery.is_some());
        self.unharmed += u64::from(record.struck.is_empty());
        for struck in &record.struck {
            *self.coverage.entry(*struck).or_default().entry(record.outcome).or_default() += 1;
        }
        if !record.destination_reason.is_empty() {
            let shape = shape(&record.destination_reason);
            *self.reasons.entry(shape).or_default() += 1;
        }
        self.slowest = self.slowest.max(record.took);
        self.records.push(to_json(record));
    }

    pub(super) fn holds(&self) -> bool {
        self.problems.is_empty() && self.attempts > 0
    }

    /// The figures on one line.
    pub(super) fn line(&self) -> String {
        let outcomes = Outcome::ALL.iter().filter_map(|outcome| {
            let count = self.outcomes.get(outcome)?;
            Some(format!("{count} {}", outcome.name()))
        });
        let mut parts = vec![format!("{} attempts ({} encrypted)", self.attempts, self.encrypted)];
        parts.extend(outcomes);
        parts.push(format!("{} guest errors", self.count(Problem::Guest)));
        parts.push(format!("{} double runs", self.count(Problem::DoubleRun)));
        parts.join(", ")
    }

    fn count(&self, problem: Problem) -> u64 {
        self.problems.get(&problem).copied().unwrap_or(0)
    }

    /// What came of which harm in which phase.
    pub(super) fn table(&self) -> String {
        let kinds: Vec<_> = {
            let mut kinds: Vec<_> = self.coverage.keys().map(|(_, kind)| *kind).collect();
            kinds.sort_unstable();
            kinds.dedup();
            kinds
        };
        let phases = || Phase::ALL.iter().map(|phase| phase.name()).chain(["no frame"]);
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(
            ["harm".to_owned()].into_iter().chain(phases().map(str::to_owned)).chain(["all".into()]),
        );
        for kind in kinds {
            let counts: Vec<u64> = phases().map(|phase| self.struck(phase, kind)).collect();
            let all = counts.iter().sum::<u64>();
            let cells = counts.into_iter().chain([all]).map(|count| count.to_string());
            table.add_row([kind.to_owned()].into_iter().chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    fn struck(&self, phase: &'static str, kind: &'static str) -> u64 {
        self.coverage.get(&(phase, kind)).map_or(0, |outcomes| outcomes.values().sum())
    }

    /// What came of faults, by phase.
    pub(super) fn outcomes_table(&self) -> String {
        let phases = Phase::ALL.iter().map(|phase| phase.name()).chain(["no frame"]);
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["phase"].into_iter().chain(Outcome::ALL.iter().map(|outcome| outcome.name())));
        for phase in phases {
            let of_phase = || self.coverage.iter().filter(|((of, _), _)| *of == phase);
            let cells = Outcome::ALL.iter().map(|outcome| {
                of_phase().filter_map(|(_, outcomes)| outcomes.get(outcome)).sum::<u64>().to_string()
            });
            table.add_row([phase.to_owned()].into_iter().chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// The end of it in a few sentences.
    pub(super) fn summary(&self, took: Duration) -> String {
        let each = self.attempts as f64 / took.as_secs_f64().max(0.001);
        format!(
            "{} attempts in {:.0} s, {} of them encrypted ({each:.1} each second; the longest took {:.0} s). {} came through \
             unharmed. {} good migrations after faults. Guest errors: {}. Double runs: {}. Unresolved: {}. Failed recoveries: {}. Else broken: {}.",
            self.attempts,
            took.as_secs_f64(),
            self.encrypted,
            self.slowest.as_secs_f64(),
            self.unharmed,
            self.recoveries,
            self.count(Problem::Guest),
            self.count(Problem::DoubleRun),
            self.count(Problem::Unresolved),
            self.count(Problem::Recovery),
            self.count(Problem::Broken),
        )
    }

    /// All of it.
    pub(super) fn to_json(&self, seed: u64, took: Duration) -> Value {
        let by_name: BTreeMap<_, _> =
            self.outcomes.iter().map(|(outcome, count)| (outcome.name(), count)).collect();
        let coverage: Vec<_> = self
            .coverage
            .iter()
            .map(|((phase, kind), outcomes)| {
                let outcomes: BTreeMap<_, _> =
                    outcomes.iter().map(|(outcome, count)| (outcome.name(), count)).collect();
                json!({ "phase": phase, "harm": kind, "outcomes": outcomes })
            })
            .collect();
        json!({
            "seed": seed,
            "seconds": took.as_secs_f64(),
            "attempts": self.attempts,
            "encrypted": self.encrypted,
            "unharmed": self.unharmed,
            "recoveries": self.recoveries,
            "outcomes": by_name,
            "problems": {
                "guest-errors": self.count(Problem::Guest),
                "double-runs": self.count(Problem::DoubleRun),
                "unresolved": self.count(Problem::Unresolved),
                "failed-recoveries": self.count(Problem::Recovery),
                "broken": self.count(Problem::Broken),
            },
            "holds": self.holds(),
            "coverage": coverage,
            "destination-reasons": self.reasons,
            "records": self.records,
        })
    }
}

fn to_json(record: &Record) -> Value {
    let problems: Vec<_> =
        record.problems.iter().map(|(kind, text)| json!({ "kind": kind, "text": text })).collect();
    let mut value = json!({
        "seed": format!("{:016x}", record.scenario.seed),
        "scenario": record.scenario.describe(),
        "outcome": record.outcome.name(),
        "encrypted": record.scenario.encrypted,
        "struck": record.struck,
        "ms": record.took.as_millis() as u64,
        "source-reason": record.source_reason,
        "destination-reason": record.destination_reason,
    });
    if let Some(recovery) = record.recovery {
        value["recovery-ms"] = (recovery.as_millis() as u64).into();
    }
    if !problems.is_empty() {
        value["problems"] = problems.into();
        value["trace"] = record.trace.clone().into();
        value["logs"] = record.logs.clone().into();
    }
    value
}

/// A reason without its figures and names, so that like ones can be counted together.
fn shape(reason: &str) -> String {
    let mut shape = String::new();
    for character in reason.chars().take(160) {
        let character = if character.is_ascii_digit() { '#' } else { character };
        if character != '#' || !shape.ends_with('#') {
            shape.push(character);
        }
    }
    shape
}
