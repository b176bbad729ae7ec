use serde::{Deserialize, Serialize};

use crate::{
    Arrived, Decision, Downtime, Encoded, Following, Integrity, Machine, Parameters, Party, Round, Security,
    Stalls, Totals,
};

/// Version of the schema that this crate writes. It grows when a member changes its meaning or goes; a new member does not
/// need a new version, since readers ignore what they do not know.
pub const SCHEMA: u32 = 1;

/// One migration, as one side saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Version of the schema: 1.
    pub schema: u32,
    /// Which side wrote this.
    pub side: Side,
    /// Id of the attempt, which both sides know; absent if the destination never learnt it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so, as a sentence; for a migration that is under way, where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it began, by the clock of the side that writes: UTC, as RFC 3339.
    pub began: String,
    /// Milliseconds from the beginning to the end.
    pub duration_ms: f64,
    /// The side that the machine came from.
    pub source: Party,
    /// The side that it was to go to.
    pub destination: Party,
    /// What moved.
    pub machine: Machine,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// Sums over the whole migration.
    pub totals: Totals,
    /// What became of pages so that they took less; absent if they were sent as they are. Only the source knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encodings: Option<Encoded>,
    /// Every round, oldest first. Only the source knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Round>,
    /// Rounds before the first one in the list, which are only in the totals.
    #[serde(default)]
    pub rounds_left_out: u64,
    /// What was decided, in order, and why. Only the source decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
    /// How long the machine stood still, and why; absent if it was not stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Downtime>,
    /// CPU time that the side which writes this spent on the migration, in seconds: all of its threads, without the vCPUs'.
    pub cpu_seconds: f64,
    /// What the guest felt while pages were copied; only the source sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalls: Option<Stalls>,
    /// How pages followed the machine; absent where it had all of them when it ran at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following: Option<Following>,
    /// How the connections were protected; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// What was compared between the two sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
    /// What arrived; only the destination sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived: Option<Arrived>,
}

/// A side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The machine came from here.
    Source,
    /// It was to go here.
    Destination,
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The machine runs at the destination, or is paused there if it was paused.
    Completed,
    /// The user cancelled it: the machine is at the source.
    Cancelled,
    /// It failed: the machine is at the source.
    Failed,
    /// The side that writes this ended before it knew which side runs the machine.
    Unresolved,
    /// It is not over yet.
    UnderWay,
}

impl Side {
    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl Outcome {
    /// A word for it, as in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Unresolved => "unresolved",
            Self::UnderWay => "under way",
        }
    }
}

impl Report {
    /// The report as JSON, indented, with a newline at its end.
    ///
    /// # Errors
    /// Never, as long as every member can be written as JSON; the caller need not know that.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../../docs/report.schema.json");

    #[test]
    fn the_schema_in_the_documentation_is_that_of_the_types() {
        let mut schema = serde_json::to_value(schemars::schema_for!(Report)).unwrap();
        schema["title"] = "Report of a Whimbrel migration".into();
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        assert!(DOCUMENTED == text, "docs/report.schema.json is not what the types say, which is:\n{text}");
    }
}
