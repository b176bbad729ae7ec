//! What has been: counted once, and kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use fleet::World;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{FailureReason, MigrationPhase, VirtualMachineInstanceMigration};
use serde::{Deserialize, Serialize};

use crate::exposition::{Kind, Page};

/// Upper bounds of downtimes, in seconds.
const BOUNDS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 1.0, 3.0, 10.0];
/// The downtime that a machine has where no policy says how much, in milliseconds: the engine's default.
const BUDGET_MS: u64 = 300;

/// How many migrations are remembered by their UIDs where what is kept has to be small. Those that clocks of two leaders differ about are among
/// the latest.
const REMEMBERED: usize = 2000;

/// Why a migration can have failed.
const REASONS: [FailureReason; 8] = [
    FailureReason::Cancelled,
    FailureReason::InstanceGone,
    FailureReason::NotMigratable,
    FailureReason::TargetFailed,
    FailureReason::TargetTimeout,
    FailureReason::EngineFailed,
    FailureReason::CompletionTimeout,
    FailureReason::SourceGone,
];

/// Why a file of counts cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TallyError {
    /// It cannot be read or written.
    #[error("Cannot keep counts in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file of counts that could not be understood. Counting began anew.
#[derive(Debug, thiserror::Error)]
#[error("The counts in {} are damaged, and begin anew: what was found is in {}", path.display(), kept.display())]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// Where what was in it is now.
    pub kept: PathBuf,
    /// What was found.
    pub source: serde_json::Error,
}

/// What has been since the file was made.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Counts,
    file: Option<PathBuf>,
    /// How many migrations are remembered by their UIDs; all where nothing is said.
    remembers: Option<usize>,
}

/// As it is in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Counts {
    /// Migrations by outcome and reason.
    migrations: BTreeMap<String, BTreeMap<String, u64>>,
    transferred_bytes: u64,
    /// Downtimes up to each bound, and longer ones.
    downtimes: [u64; BOUNDS.len() + 1],
    downtime_ms: u64,
    over_budget: u64,
    /// UIDs of migrations that are counted and whose records are there: with these nothing is counted twice.
    counted: BTreeSet<String>,
    /// What was over by then is counted too, although it is not remembered.
    until: Option<Time>,
}

impl Tally {
    /// What a file has; nothing where there is none yet, or a damaged one, which is put aside and returned.
    ///
    /// # Errors
    /// The file cannot be read or put aside.
    pub fn open(path: &Path) -> Result<(Self, Option<Damaged>), TallyError> {
        let failed = |source| TallyError::File { path: path.to_owned(), source };
        let file = Some(path.to_owned());
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self { file, ..Self::default() }, None));
            }
            Err(source) => return Err(failed(source)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(counts) => Ok((Self { counts, file, remembers: None }, None)),
            Err(source) => {
                let kept = path.with_added_extension("damaged");
                fs::rename(path, &kept).map_err(failed)?;
                let damaged = Damaged { path: path.to_owned(), kept, source };
                Ok((Self { file, ..Self::default() }, Some(damaged)))
            }
        }
    }

    /// Counts what is over and was not counted. It is in the file when this returns.
    ///
    /// # Errors
    /// The file cannot be written; what was counted is written the next time.
    pub fn observe(&mut self, world: &World) -> Result<(), TallyError> {
        if self.count(world) { self.save() } else { Ok(()) }
    }

    /// What was written elsewhere, and will be: whoever has it keeps [`Self::to_text`] where it finds it again. Of the migrations that are counted
    /// it has only the latest by their UIDs, so that it stays small: 100 KB. Who was over before the oldest of these counts as counted.
    ///
    /// # Errors
    /// The text is not what was written.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        Ok(Self { counts: serde_json::from_str(text)?, ..Self::new() })
    }

    /// As [`Self::from_text`], where nothing was written yet.
    #[must_use]
    pub fn new() -> Self {
        Self { remembers: Some(REMEMBERED), ..Self::default() }
    }

    /// Everything, to be kept.
    pub fn to_text(&self) -> String {
        // It is numbers and texts.
        serde_json::to_string(&self.counts).unwrap_or_default()
    }

    /// Counts what is over and was not counted. Returns whether there is something new to keep.
    pub fn count(&mut self, world: &World) -> bool {
        let over = world.migrations.iter().filter_map(|migration| Some((ended(migration)?, &**migration)));
        let over: BTreeMap<_, _> = over
            .filter_map(|(ended, migration)| Some((migration.metadata.uid.as_deref()?, (ended, migration))))
            .collect();
        let before = self.counts.counted.len();
        self.counts.counted.retain(|uid| over.contains_key(uid.as_str()));
        let mut has_changed = self.counts.counted.len() != before;
        for (uid, (ended, migration)) in &over {
            let is_counted = self.counts.until.as_ref().is_some_and(|until| *ended <= until.0);
            if !is_counted && self.counts.counted.insert((*uid).to_owned()) {
                self.counts.count(migration);
                has_changed = true;
            }
        }
        self.forget(&over);
        has_changed
    }

    /// Forgets the oldest of those that are counted, where they are too many.
    fn forget(&mut self, over: &BTreeMap<&str, (Timestamp, &VirtualMachineInstanceMigration)>) {
        let Some(remembers) = self.remembers.filter(|most| self.counts.counted.len() > *most) else { return };
        let of = |uid: &String| over.get(uid.as_str()).map(|(ended, _)| *ended);
        let mut all: Vec<_> =
            self.counts.counted.iter().filter_map(|uid| Some((of(uid)?, uid.clone()))).collect();
        all.sort();
        // Half of them, so that this is seldom.
        let forgotten = all.len() - remembers / 2;
        for (ended, uid) in all.drain(..forgotten) {
            self.counts.counted.remove(&uid);
            self.counts.until = Some(Time(ended));
        }
    }

    fn save(&self) -> Result<(), TallyError> {
        let Some(path) = &self.file else { return Ok(()) };
        let failed = |source: io::Error| TallyError::File { path: path.clone(), source };
        let unfinished = path.with_extension("new");
        let text = serde_json::to_vec(&self.counts).map_err(|error| failed(error.into()))?;
        // It is on the disk before it takes the other's place: a host that loses its power has one or the other.
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&unfinished, path)).map_err(failed)
    }

    pub(crate) fn write(&self, page: &mut Page) {
        let counts = &self.counts;
        let name = "whimbrel_migrations";
        page.family(name, Kind::Counter, "Migrations that are over, by outcome and reason of failure.");
        for ((outcome, reason), count) in counts.by_outcome() {
            let labels = [("outcome", outcome.as_str()), ("reason", reason.as_str())];
            page.sample("whimbrel_migrations_total", &labels, count as f64);
        }
        let name = "whimbrel_migration_transferred_bytes";
        page.family(name, Kind::Counter, "Bytes that successful migrations sent.");
        page.sample("whimbrel_migration_transferred_bytes_total", &[], counts.transferred_bytes as f64);
        let name = "whimbrel_migration_downtime_over_budget";
        page.family(name, Kind::Counter, "Migrations whose downtime was longer than their policy allows.");
        page.sample("whimbrel_migration_downtime_over_budget_total", &[], counts.over_budget as f64);
        let name = "whimbrel_migration_downtime_seconds";
        page.family(name, Kind::Histogram, "Downtime of successful migrations.");
        let mut sum = 0;
        for (count, bound) in counts
            .downtimes
            .iter()
            .zip(BOUNDS.map(|bound| bound.to_string()).iter().map(String::as_str).chain(["+Inf"]))
        {
            sum += count;
            page.sample("whimbrel_migration_downtime_seconds_bucket", &[("le", bound)], sum as f64);
        }
        page.sample("whimbrel_migration_downtime_seconds_sum", &[], counts.downtime_ms as f64 / 1e3);
        page.sample("whimbrel_migration_downtime_seconds_count", &[], sum as f64);
    }
}

impl Counts {
    /// Migrations by outcome and reason. All that can be are there from the start: a counter that first appears with 1 has not increased, by
    /// Prometheus' reckoning.
    fn by_outcome(&self) -> BTreeMap<(String, String), u64> {
        let failed = REASONS.map(|reason| ("Failed".to_owned(), format!("{reason:?}")));
        let begin = failed.into_iter().chain([("Succeeded".to_owned(), String::new())]);
        let mut all: BTreeMap<_, _> = begin.map(|labels| (labels, 0)).collect();
        for (outcome, reasons) in &self.migrations {
            all.extend(reasons.iter().map(|(reason, count)| ((outcome.clone(), reason.clone()), *count)));
        }
        all
    }

    fn count(&mut self, migration: &VirtualMachineInstanceMigration) {
        let status = migration.status.clone().unwrap_or_default();
        let state = status.migration_state.unwrap_or_default();
        let reason = state.failure.map(|failure| format!("{:?}", failure.reason)).unwrap_or_default();
        let outcome = format!("{:?}", status.phase.unwrap_or_default());
        let count = self.migrations.entry(outcome).or_default().entry(reason).or_default();
        *count = count.saturating_add(1);
        let Some(result) = state.result.filter(|_| status.phase == Some(MigrationPhase::Succeeded)) else {
            return;
        };
        self.transferred_bytes = self.transferred_bytes.saturating_add(result.transferred_bytes);
        let Some(downtime) = result.downtime else { return };
        let seconds = downtime.total_ms as f64 / 1e3;
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.downtimes.get_mut(place) {
            *count = count.saturating_add(1);
        }
        self.downtime_ms = self.downtime_ms.saturating_add(downtime.total_ms);
        let budget = state
            .migration_configuration
            .and_then(|values| values.max_downtime_ms)
            .map_or(BUDGET_MS, u64::from);
        self.over_budget = self.over_budget.saturating_add(u64::from(downtime.total_ms > budget));
    }
}

/// When a migration was over; `None` if it is not. One that does not say when was over long ago.
fn ended(migration: &VirtualMachineInstanceMigration) -> Option<Timestamp> {
    let status = migration.status.as_ref().filter(|status| status.phase().is_final())?;
    let last = status.phase_transition_timestamps.last();
    Some(last.map_or(Timestamp::UNIX_EPOCH, |last| last.phase_transition_timestamp.0))
}
