//! Settings that the engine of a VMM is given. All of them each time: what was set for a forecast or for another migration counts for nothing.

use std::thread;

use serde_json::{Value, json};

/// The engine's own limit, in milliseconds, where nobody says one.
const DOWNTIME_LIMIT_MS: u32 = 300;
/// Channels at most where nobody says how many.
const CHANNELS: usize = 4;

/// What a migration is allowed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    pub(crate) auto_converge: bool,
    pub(crate) post_copy: bool,
    pub(crate) max_downtime_ms: Option<u32>,
}

impl Allowed {
    /// The arguments of `migrate-set-capabilities`.
    pub(crate) fn capabilities(&self) -> Value {
        let capabilities = [("auto-converge", self.auto_converge), ("postcopy-ram", self.post_copy)]
            .map(|(name, is_on)| json!({ "capability": name, "state": is_on }));
        json!({ "capabilities": capabilities })
    }

    /// The arguments of `migrate-set-parameters` that a forecast rests on too.
    pub(crate) fn parameters(&self) -> Value {
        json!({
            "downtime-limit": self.max_downtime_ms.unwrap_or(DOWNTIME_LIMIT_MS),
            // Of no account without the capability.
            "whimbrel-postcopy": "auto",
        })
    }
}

/// How many channels there are: as a VMM has them at its start, where nobody says.
pub(crate) fn channels(wanted: Option<u32>) -> u32 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    wanted.unwrap_or_else(|| u32::try_from(processors.min(CHANNELS)).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_says_is_set_all_the_same_so_that_nothing_of_before_is_left() {
        let set = Allowed { max_downtime_ms: Some(5), post_copy: true, ..Allowed::default() };
        assert_eq!(set.parameters()["downtime-limit"], 5);
        let next = Allowed::default();
        assert_eq!(next.parameters()["downtime-limit"], 300);
        let states: Vec<_> = next.capabilities()["capabilities"].as_array().unwrap().clone();
        assert!(states.len() == 2 && states.iter().all(|one| one["state"] == false), "{states:?}");
        assert_eq!(channels(Some(8)), 8);
        assert!((1..=4).contains(&channels(None)));
    }
}
