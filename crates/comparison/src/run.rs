use serde::{Deserialize, Serialize};

use crate::{Contender, Mode, Scenario, scale::Plan};

/// All that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of this shape: 1.
    pub version: u32,
    /// Where it was measured, as a sentence.
    pub host: String,
    /// QEMU and its version; `None` where there was none.
    pub qemu: Option<String>,
    /// What is between the hosts.
    pub link: String,
    /// What was measured.
    pub plan: Plan,
    /// What a reader has to know: what could not be had, and what may have disturbed it.
    pub notes: Vec<String>,
    /// How long all of it took, in seconds, starts of machines and waits included.
    #[serde(default)]
    pub took_s: Option<f64>,
    /// Every move, in the order in which they were made.
    pub runs: Vec<Run>,
}

/// One move. Times are milliseconds since it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What was moved.
    pub scenario: Scenario,
    /// How.
    pub mode: Mode,
    /// By whom.
    pub contender: Contender,
    /// Which time, from 1.
    pub repetition: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// When the source stopped the machine.
    pub stop_ms: Option<f64>,
    /// When the destination ran it.
    pub resume_ms: Option<f64>,
    /// When it was over.
    pub end_ms: f64,
    /// The longest time around the switchover in which the guest did not run, by its own clocks; `None` where it did
    /// not get there.
    pub gap_ms: Option<f64>,
    /// The same in the whole move and after it.
    #[serde(default)]
    pub longest_stop_ms: Option<f64>,
    /// How often dirty pages were fetched, as the source says.
    pub rounds: u64,
    /// What the source chose by itself and why, as it says.
    pub choices: Vec<String>,
    /// What the guest found wrong with its memory, its clocks or its lines.
    pub complaints: Vec<String>,
    /// What was seen from outside.
    pub trace: Trace,
}

/// What became of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The machine runs at the destination, with all its memory.
    Completed,
    /// It did not end, or cannot be had: why.
    NotSuitable(String),
    /// It could not be measured, since something broke: what.
    Failed(String),
}

impl Outcome {
    /// Why it was not completed, as the end of a sentence.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Completed => None,
            Self::NotSuitable(reason) => Some(format!("is not suitable: {reason}")),
            Self::Failed(reason) => Some(format!("FAILED: {reason}")),
        }
    }
}

/// What was seen from outside of the machine and its hypervisor, each as pairs that begin with the time in
/// milliseconds since the move was asked for. Where nobody could look it is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Bytes that the source has sent to the destination until then.
    pub wire: Vec<[f64; 2]>,
    /// Bytes that the guest has dirtied until then, by its own count.
    pub work: Vec<[f64; 2]>,
    /// Pings every second: when each was sent, and milliseconds until its answer.
    pub pings_1s: Vec<(f64, Option<f64>)>,
    /// The same every 10 ms.
    pub pings_10ms: Vec<(f64, Option<f64>)>,
    /// Frames at 25 a second: when each came, and its number.
    pub frames_25: Vec<[f64; 2]>,
    /// The same at 60 a second.
    pub frames_60: Vec<[f64; 2]>,
    /// Bytes of a TCP stream to the guest that have been taken until then.
    pub stream: Vec<[f64; 2]>,
    /// TCP segments that had to be sent again.
    pub retransmissions: Option<u64>,
}

/// The longest file that is read: longer than any that is written.
pub const MAX_BYTES: u64 = 1 << 30;

/// Why a file is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is something else.
    #[error("It is not what 'whimbrel compare --json' writes")]
    Json(#[from] serde_json::Error),
    /// Another version wrote it.
    #[error("It has version {0} and this program knows version {known}: make it anew", known = Comparison::VERSION)]
    Version(u32),
}

impl Comparison {
    /// The version of the shape.
    pub const VERSION: u32 = 1;

    /// From bytes that anybody may have written, at most [`MAX_BYTES`] of them.
    ///
    /// # Errors
    /// They are something else.
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(bytes)?;
        if version != Self::VERSION {
            return Err(ReadError::Version(version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The runs of one cell of a table.
    #[must_use]
    pub fn cell(&self, scenario: Scenario, mode: Mode, contender: Contender) -> Vec<&Run> {
        let is_it = |run: &&Run| (run.scenario, run.mode, run.contender) == (scenario, mode, contender);
        self.runs.iter().filter(is_it).collect()
    }

    /// Whether no guest found a fault, and nothing of ours broke.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let is_broken =
            |run: &Run| run.contender == Contender::Whimbrel && matches!(run.outcome, Outcome::Failed(_));
        self.runs.iter().all(|run| run.complaints.is_empty() && !is_broken(run))
    }
}

impl Run {
    /// One of which nothing is known yet.
    #[must_use]
    pub fn new(scenario: Scenario, mode: Mode, contender: Contender, repetition: u32) -> Self {
        Self {
            scenario,
            mode,
            contender,
            repetition,
            outcome: Outcome::Completed,
            stop_ms: None,
            resume_ms: None,
            end_ms: 0.0,
            gap_ms: None,
            longest_stop_ms: None,
            rounds: 0,
            choices: Vec::new(),
            complaints: Vec::new(),
            trace: Trace::default(),
        }
    }

    /// When it was over and the machine ran: some sources say that it is over while the destination still loads the machine.
    #[must_use]
    pub fn over_ms(&self) -> f64 {
        self.resume_ms.unwrap_or(0.0).max(self.end_ms)
    }

    /// Whether the machine runs at the destination.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.outcome == Outcome::Completed
    }
}
