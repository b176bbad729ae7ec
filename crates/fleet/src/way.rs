//! How fast the way from one node to another is, as far as that is known.

use objects::{MigrationConfiguration, MigrationPhase, MigrationState, WayBasis};

use crate::{
    World,
    index::{end_of, phase},
};

/// Bytes each second where nothing is known.
pub(crate) const ASSUMED_RATE: u64 = 250_000_000;

/// How fast a way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Bytes each second.
    pub bandwidth: u64,
    /// From what that is known.
    pub basis: WayBasis,
}

/// The way from one node to another for a migration with those values: as the last migration on it found, or else as the last from anywhere
/// found, and no faster than the values allow.
pub fn way(world: &World, from: &str, to: &str, values: &MigrationConfiguration) -> Way {
    let past = world.migrations.iter().filter(|one| phase(one) == MigrationPhase::Succeeded);
    let past = past.filter_map(|one| {
        let state = one.status.as_ref()?.migration_state.as_ref()?;
        Some((end_of(one), state, rate(state)?))
    });
    let is_it = |state: &MigrationState| {
        state.source_node.as_deref() == Some(from) && state.target_node.as_deref() == Some(to)
    };
    // The way itself before others, and of each the latest.
    let best = past.max_by_key(|(ended, state, _)| (is_it(state), *ended));
    let known = match best {
        Some((_, state, rate)) if is_it(state) => Way { bandwidth: rate, basis: WayBasis::Way },
        Some((_, _, rate)) => Way { bandwidth: rate, basis: WayBasis::Fleet },
        None => Way { bandwidth: ASSUMED_RATE, basis: WayBasis::Assumed },
    };
    match values.bandwidth_per_migration.bytes() {
        Ok(limit) if limit > 0 && limit < known.bandwidth => {
            Way { bandwidth: limit, basis: WayBasis::Policy }
        }
        _ => known,
    }
}

/// What a migration sent each second. Where a policy held it back that says nothing of the way.
fn rate(state: &MigrationState) -> Option<u64> {
    let result = state.result.as_ref()?;
    let rate = result.transferred_bytes.checked_mul(1000)?.checked_div(result.total_ms?)?;
    let limit = state.migration_configuration.as_ref()?.bandwidth_per_migration.bytes().ok()?;
    let is_held_back = limit > 0 && rate > limit / 10 * 8;
    (rate > 0 && !is_held_back).then_some(rate)
}
