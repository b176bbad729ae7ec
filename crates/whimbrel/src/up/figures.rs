//! Figures of the fleet, of the world as the controllers last saw it.

use std::path::Path;

use fleet::World;
use metrics::{Format, Tally, TallyError};
use parking_lot::Mutex;

/// What is at `/metrics`.
#[derive(Debug)]
pub(crate) struct Figures {
    world: Mutex<World>,
    tally: Mutex<Tally>,
}

impl Figures {
    /// Figures whose counts are kept in that file. A damaged one keeps nothing else from working.
    pub(crate) fn open(path: &Path) -> Result<Self, TallyError> {
        let (tally, damaged) = Tally::open(path)?;
        if let Some(damaged) = damaged {
            let why = &damaged.source;
            tracing::warn!(%damaged, %why, "What was counted before is not counted any more");
        }
        Ok(Self { world: Mutex::default(), tally: Mutex::new(tally) })
    }

    /// Takes over the world as it is.
    pub(crate) fn look(&self, world: &World) {
        *self.world.lock() = world.clone();
        if let Err(error) = self.tally.lock().observe(world) {
            tracing::warn!(%error, "Migrations were counted, and that was not written down");
        }
    }
}

impl apiserver::Figures for Figures {
    fn text(&self, accept: &str) -> (&'static str, String) {
        let format = Format::of(accept);
        let world = self.world.lock().clone();
        (format.media_type(), metrics::text(&world, &self.tally.lock(), format))
    }
}
