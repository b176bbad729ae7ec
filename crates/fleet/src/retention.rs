//! How long records of migrations are kept.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::{MIGRATION_FINALIZER, MigrationSettings, VirtualMachineInstanceMigration};

use crate::{Intent, World, world::namespace_of};

/// How many of each machine, where nothing is set.
const PER_MACHINE: u32 = 20;
/// For how many hours, where nothing is set: a week.
const HOURS: u32 = 7 * 24;

/// Deletes records that are old, and lets go of migrations that are over and being deleted.
pub(crate) fn decide(world: &World, now: &Time, intents: &mut Vec<Intent>) {
    let settings = world.settings();
    let hours = hours(&settings);
    let count = settings.migration_records_per_machine.unwrap_or(PER_MACHINE);
    let mut over: Vec<_> = world.migrations.iter().filter_map(|one| Some((ended(one)?, one))).collect();
    // The latest first.
    over.sort_by_key(|(ended, _)| std::cmp::Reverse(ended.0));
    let mut kept = BTreeMap::<_, u32>::new();
    for (ended, migration) in over {
        if migration.metadata.deletion_timestamp.is_some() {
            let is_held =
                migration.metadata.finalizers.iter().flatten().any(|name| name == MIGRATION_FINALIZER);
            if is_held {
                intents.push(Intent::ReleaseMigration(Box::new(VirtualMachineInstanceMigration::clone(
                    migration,
                ))));
            }
            continue;
        }
        let of_machine =
            kept.entry((namespace_of(&migration.metadata), migration.spec.vmi_name.as_str())).or_default();
        *of_machine += 1;
        let age = now.0.duration_since(ended.0).as_secs();
        if *of_machine > count || age > i64::from(hours) * 3600 {
            intents
                .push(Intent::DeleteMigration(Box::new(VirtualMachineInstanceMigration::clone(migration))));
        }
    }
}

/// For how many hours records are kept.
pub(crate) fn hours(settings: &MigrationSettings) -> u32 {
    settings.migration_record_hours.unwrap_or(HOURS)
}

/// When a migration was over.
fn ended(migration: &VirtualMachineInstanceMigration) -> Option<Time> {
    let status = migration.status.as_ref().filter(|status| status.phase().is_final())?;
    let last = status.phase_transition_timestamps.last();
    last.map(|last| last.phase_transition_timestamp.clone())
        .or_else(|| migration.metadata.creation_timestamp.clone())
}
