//! The agents of all nodes: migrations that are under way get on.

use fleet::World;
use objects::{MigrationPhase, VirtualMachineInstanceMigration};

use crate::{dice::Dice, site::at};

/// Seconds that a migration takes, at least.
const SECONDS: u64 = 4;

#[derive(Default)]
pub(crate) struct Agents {
    /// Whether nothing fails any more.
    pub(crate) are_well: bool,
}

impl Agents {
    /// Migrations that have got further, by their places.
    pub(crate) fn work(
        &self,
        world: &World,
        dice: &mut Dice,
        now: i64,
    ) -> Vec<(usize, VirtualMachineInstanceMigration)> {
        let mut changed = Vec::new();
        for (index, migration) in world.migrations.iter().enumerate() {
            let Some(status) = migration.status.as_ref().filter(|status| status.phase().is_under_way())
            else {
                continue;
            };
            let since = status.phase_transition_timestamps.last().unwrap().phase_transition_timestamp.0;
            let seconds = at(now).0.duration_since(since).as_secs();
            let mut next = VirtualMachineInstanceMigration::clone(migration);
            let status = next.status.as_mut().unwrap();
            match status.phase() {
                MigrationPhase::Scheduled => status.enter(MigrationPhase::Running, &at(now)),
                MigrationPhase::Running if seconds.unsigned_abs() > SECONDS + dice.below(8) => {
                    let state = status.migration_state.as_mut().unwrap();
                    (state.completed, state.failed) = (true, !self.are_well && dice.once_in(10));
                    state.end_timestamp = Some(at(now));
                }
                _ => continue,
            }
            changed.push((index, next));
        }
        changed
    }
}
