//! How long a migration will take.

use std::collections::HashMap;

use objects::{ForecastBasis, MigrationPhase, VirtualMachineInstance};

use crate::{
    World,
    fit::memory_of,
    index::{Key, end_of, instance_key, key, phase},
    policy,
    way::ASSUMED_RATE,
};

/// Seconds that starting a VMM and coming to terms take beside sending memory.
const SETUP_SECONDS: u64 = 2;

/// What is known of migrations that were.
pub(super) struct Forecasts<'a> {
    world: &'a World,
    own: HashMap<Key<'a>, Past>,
    /// Bytes each second over all of them.
    rate: Option<u64>,
}

#[derive(Clone, Copy)]
struct Past {
    ended: i64,
    millis: u64,
    downtime_ms: Option<u64>,
}

/// How long a migration will take.
#[derive(Clone, Copy)]
pub(super) struct Forecast {
    pub(super) seconds: u64,
    pub(super) basis: ForecastBasis,
    pub(super) last_downtime_ms: Option<u64>,
}

impl<'a> Forecasts<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let (mut own, mut bytes, mut millis) = (HashMap::<_, Past>::new(), 0_u64, 0_u64);
        for migration in world.migrations.iter().filter(|one| phase(one) == MigrationPhase::Succeeded) {
            let state = migration.status.as_ref().and_then(|status| status.migration_state.as_ref());
            let Some(result) = state.and_then(|state| state.result.as_ref()) else { continue };
            let Some(took) = result.total_ms else { continue };
            bytes = bytes.saturating_add(result.transferred_bytes);
            millis = millis.saturating_add(took);
            let downtime_ms = result.downtime.as_ref().map(|downtime| downtime.total_ms);
            let past = Past { ended: end_of(migration), millis: took, downtime_ms };
            let latest = own.entry(instance_key(migration)).or_insert(past);
            if latest.ended < past.ended {
                *latest = past;
            }
        }
        let rate = bytes.saturating_mul(1000).checked_div(millis).filter(|rate| *rate > 0);
        Self { world, own, rate }
    }

    pub(super) fn of(&self, instance: &VirtualMachineInstance) -> Forecast {
        if let Some(past) = self.own.get(&key(&instance.metadata)) {
            return Forecast {
                seconds: past.millis.div_ceil(1000) + SETUP_SECONDS,
                basis: ForecastBasis::Machine,
                last_downtime_ms: past.downtime_ms,
            };
        }
        let (rate, basis) = match self.rate {
            Some(rate) => (rate, ForecastBasis::Fleet),
            None => (ASSUMED_RATE, ForecastBasis::Assumed),
        };
        let choice = policy::of(self.world, instance);
        let values = policy::resolve(choice.policy, &self.world.settings());
        let limit = values.bandwidth_per_migration.bytes().ok().filter(|limit| *limit > 0);
        let rate = limit.map_or(rate, |limit| rate.min(limit));
        Forecast {
            seconds: memory_of(instance).div_ceil(rate) + SETUP_SECONDS,
            basis,
            last_downtime_ms: None,
        }
    }
}
