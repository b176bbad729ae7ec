//! What has been: counted once, and kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use fleet::World;
use objects::{MigrationPhase, VirtualMachineInstanceMigration, VirtualMachineInstanceMigrationStatus};
use serde::{Deserialize, Serialize};

use crate::exposition::{Kind, Page};

/// Upper bounds of downtimes, in seconds.
const BOUNDS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 1.0, 3.0, 10.0];
/// The downtime that a machine has where no policy says how much, in milliseconds: the engine's default.
const BUDGET_MS: u64 = 300;

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
    /// It is damaged.
    #[error("The counts in {} are damaged: remove the file to begin anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: serde_json::Error,
    },
}

/// What has been since the file was made.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Counts,
    file: Option<PathBuf>,
}

/// As it is in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
}

impl Tally {
    /// What a file has; nothing where there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(path: &Path) -> Result<Self, TallyError> {
        let counts = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| TallyError::Damaged { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Counts::default(),
            Err(source) => return Err(TallyError::File { path: path.to_owned(), source }),
        };
        Ok(Self { counts, file: Some(path.to_owned()) })
    }

    /// Counts what is over and was not counted. It is in the file when this returns.
    ///
    /// # Errors
    /// The file cannot be written; what was counted is written the next time.
    pub fn observe(&mut self, world: &World) -> Result<(), TallyError> {
        let over = world.migrations.iter().filter(|migration| is_over(migration));
        let over: BTreeMap<_, _> =
            over.filter_map(|migration| Some((migration.metadata.uid.as_deref()?, &**migration))).collect();
        let before = self.counts.counted.len();
        self.counts.counted.retain(|uid| over.contains_key(uid.as_str()));
        let mut has_changed = self.counts.counted.len() != before;
        for (uid, migration) in over {
            if self.counts.counted.insert(uid.to_owned()) {
                self.counts.count(migration);
                has_changed = true;
            }
        }
        if has_changed { self.save() } else { Ok(()) }
    }

    fn save(&self) -> Result<(), TallyError> {
        let Some(path) = &self.file else { return Ok(()) };
        let failed = |source: io::Error| TallyError::File { path: path.clone(), source };
        let unfinished = path.with_extension("new");
        let text = serde_json::to_vec(&self.counts).map_err(|error| failed(error.into()))?;
        fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, path)).map_err(failed)
    }

    pub(crate) fn write(&self, page: &mut Page) {
        let counts = &self.counts;
        let name = "whimbrel_migrations";
        page.family(name, Kind::Counter, "Migrations that are over, by outcome and reason of failure.");
        for (outcome, reasons) in &counts.migrations {
            for (reason, count) in reasons {
                page.sample(
                    "whimbrel_migrations_total",
                    &[("outcome", outcome), ("reason", reason)],
                    *count as f64,
                );
            }
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

fn is_over(migration: &VirtualMachineInstanceMigration) -> bool {
    migration.status.as_ref().map(VirtualMachineInstanceMigrationStatus::phase).unwrap_or_default().is_final()
}
