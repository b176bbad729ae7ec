//! How fast the way from one node to another is, as far as that is known.

use std::collections::HashMap;

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

/// How fast the ways from one node were, by one look at all migrations.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// When the last migration to a node ended, and how fast it was.
    to: HashMap<String, (i64, u64)>,
    /// The same of the last from anywhere to anywhere.
    fleet: Option<(i64, u64)>,
}

impl Ways {
    /// Those that begin at a node.
    #[must_use]
    pub fn from(world: &World, from: &str) -> Self {
        let mut ways = Self::default();
        for one in world.migrations.iter().filter(|one| phase(one) == MigrationPhase::Succeeded) {
            let state = one.status.as_ref().and_then(|status| status.migration_state.as_ref());
            let Some((state, rate)) = state.and_then(|state| Some((state, rate(state)?))) else { continue };
            let found = (end_of(one), rate);
            ways.fleet = ways.fleet.max(Some(found));
            if state.source_node.as_deref() == Some(from)
                && let Some(to) = state.target_node.as_deref()
            {
                match ways.to.get_mut(to) {
                    Some(latest) => *latest = found.max(*latest),
                    None => drop(ways.to.insert(to.to_owned(), found)),
                }
            }
        }
        ways
    }

    /// The way to a node for a migration with those values: as the last migration on it found, or else as the last from anywhere found, and no
    /// faster than the values allow.
    #[must_use]
    pub fn to(&self, node: &str, values: &MigrationConfiguration) -> Way {
        let known = match (self.to.get(node), self.fleet) {
            (Some((_, rate)), _) => Way { bandwidth: *rate, basis: WayBasis::Way },
            (None, Some((_, rate))) => Way { bandwidth: rate, basis: WayBasis::Fleet },
            (None, None) => Way { bandwidth: ASSUMED_RATE, basis: WayBasis::Assumed },
        };
        match values.bandwidth_per_migration.bytes() {
            Ok(limit) if limit > 0 && limit < known.bandwidth => {
                Way { bandwidth: limit, basis: WayBasis::Policy }
            }
            _ => known,
        }
    }
}

/// What a migration sent each second. Where a policy held it back that says nothing of the way.
fn rate(state: &MigrationState) -> Option<u64> {
    let result = state.result.as_ref()?;
    let rate = result.transferred_bytes.checked_mul(1000)?.checked_div(result.total_ms?)?;
    let limit = state.migration_configuration.as_ref()?.bandwidth_per_migration.bytes().unwrap_or(0);
    let is_held_back = limit > 0 && rate > limit / 10 * 8;
    (rate > 0 && !is_held_back).then_some(rate)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_on_the_way_counts_and_else_the_latest_anywhere() {
        let mut world = World::default();
        for (source, target, second, bytes) in [
            ("a", "b", 1, 100),
            ("a", "b", 3, 300),
            ("b", "a", 9, 900),
            ("a", "b", 2, 200),
            ("a", "c", 1, 50),
        ] {
            let migration = json!({
                "metadata": { "name": "m" }, "spec": { "vmiName": "db" },
                "status": { "phase": "Succeeded", "migrationState": {
                    "sourceNode": source, "targetNode": target, "endTimestamp": format!("2026-01-01T00:00:0{second}Z"),
                    "migrationConfiguration": {},
                    "result": { "transferredBytes": bytes, "totalMs": 1000 },
                } },
            });
            world.migrations.push(Arc::new(serde_json::from_value(migration).unwrap()));
        }
        let values = MigrationConfiguration::default();
        let ways = Ways::from(&world, "a");
        let to = |node: &str| (ways.to(node, &values).bandwidth, ways.to(node, &values).basis);
        assert_eq!(to("b"), (300, WayBasis::Way));
        assert_eq!(to("c"), (50, WayBasis::Way));
        assert_eq!(to("d"), (900, WayBasis::Fleet));
        let none = Ways::from(&World::default(), "a").to("b", &values);
        assert_eq!((none.bandwidth, none.basis), (ASSUMED_RATE, WayBasis::Assumed));
    }
}
