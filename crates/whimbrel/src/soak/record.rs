use std::{fs, time::Duration};

use faults::{Passed, Struck};
use serde::Serialize;

use super::{
    judge::{Facts, Outcome},
    scenario::Scenario,
};
use crate::rig::Machine;

/// One attempt, as it went.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) scenario: Scenario,
    pub(super) outcome: Outcome,
    pub(super) problems: Vec<(Problem, String)>,
    /// Where and what: phase and kind of each fault that struck.
    pub(super) struck: Vec<(&'static str, &'static str)>,
    pub(super) source_reason: String,
    pub(super) destination_reason: String,
    /// Until everything was verified.
    pub(super) took: Duration,
    /// What the good migration took that followed.
    pub(super) recovery: Option<Duration>,
    /// What passed and what was done, line by line.
    pub(super) trace: Vec<String>,
    /// The last lines of the logs, if something went wrong.
    pub(super) logs: Vec<String>,
}

/// What was seen of a migration.
#[derive(Debug)]
pub(super) struct Journeyed {
    pub(super) facts: Facts,
    pub(super) passed: Vec<Passed>,
    pub(super) struck: Vec<Struck>,
    /// What the source says of it.
    pub(super) source_reason: String,
    /// What the destination says of it.
    pub(super) destination_reason: String,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Problem {
    /// The guest is not whole, or does not go on.
    Guest,
    /// The guest ran in two places.
    DoubleRun,
    /// Who has the guest was not decided.
    Unresolved,
    /// What was left after the fault did not do for another migration.
    Recovery,
    /// Something else.
    Broken,
}

/// Lines of a log that are shown.
const LOG_LINES: usize = 25;

impl Record {
    pub(super) fn new(scenario: &Scenario, journeyed: &Journeyed) -> Self {
        let phase = |struck: &faults::Struck| struck.phase.map_or("no frame", faults::Phase::name);
        let mut lines: Vec<_> =
            journeyed.passed.iter().map(|passed| (passed.at, passed.to_string())).collect();
        lines.extend(journeyed.struck.iter().map(|struck| (struck.at, struck.to_string())));
        lines.sort_by_key(|(at, _)| *at);
        Self {
            scenario: scenario.clone(),
            outcome: Outcome::Broken,
            problems: Vec::new(),
            struck: journeyed.struck.iter().map(|struck| (phase(struck), struck.fault.what.kind())).collect(),
            source_reason: journeyed.source_reason.clone(),
            destination_reason: journeyed.destination_reason.clone(),
            took: Duration::ZERO,
            recovery: None,
            trace: lines.into_iter().map(|(_, line)| line).collect(),
            logs: Vec::new(),
        }
    }

    pub(super) fn problem(&mut self, kind: Problem, text: String) {
        let unresolved = text.starts_with("Nobody runs") || text.contains("was not told");
        let kind = if kind == Problem::Broken && unresolved { Problem::Unresolved } else { kind };
        self.problems.push((kind, text));
    }

    pub(super) fn keep_log(&mut self, machine: &Machine) {
        let text = fs::read_to_string(&machine.files().log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        self.logs.push(format!("the log of machine {}:", machine.name()));
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        self.logs.extend(last.iter().map(|line| format!("  {line}")));
    }
}

impl Scenario {
    /// The same without anything that goes wrong.
    pub(super) fn without_harm(&self) -> Self {
        Self { faults: Vec::new(), cancel_after: None, unix: false, bandwidth: 0, ..self.clone() }
    }
}
