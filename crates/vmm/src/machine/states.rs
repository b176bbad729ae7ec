use std::collections::BTreeMap;

use state::{DeviceState, Schema, StateError};

/// The states of a machine on their way into it. Each is taken once; in the end none may be left.
#[derive(Debug)]
pub(crate) struct States(BTreeMap<String, DeviceState>);

/// Why the states do not make up a machine.
#[derive(Debug, thiserror::Error)]
pub enum StatesError {
    /// The same device twice.
    #[error("The state of device '{id}' came twice")]
    Duplicate {
        /// Device id.
        id: String,
    },
    /// A device without a state.
    #[error("There is no state for device '{id}': start both sides with the same devices")]
    Missing {
        /// Device id.
        id: String,
    },
    /// A state without a device.
    #[error("There are states for devices that this machine does not have: {}", ids.join(", "))]
    LeftOver {
        /// Device ids.
        ids: Vec<String>,
    },
    /// A state that cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

impl States {
    /// Takes note of `states`.
    pub(crate) fn new(states: &[DeviceState]) -> Result<Self, StatesError> {
        let mut by_id = BTreeMap::new();
        for state in states {
            if by_id.insert(state.id.clone(), state.clone()).is_some() {
                return Err(StatesError::Duplicate { id: state.id.clone() });
            }
        }
        Ok(Self(by_id))
    }

    /// The state of device `id`.
    pub(crate) fn take(&mut self, id: &str) -> Result<DeviceState, StatesError> {
        self.0.remove(id).ok_or_else(|| StatesError::Missing { id: id.into() })
    }

    /// The state of device `id`, decoded.
    pub(crate) fn decode<S: Schema>(&mut self, id: &str) -> Result<S, StatesError> {
        Ok(self.take(id)?.decode()?)
    }

    /// All states must have been taken.
    pub(crate) fn finish(self) -> Result<(), StatesError> {
        if self.0.is_empty() {
            return Ok(());
        }
        // A peer chose the ids: name a few, shortened.
        let ids = self.0.into_keys().take(8).map(|id| id.chars().take(32).collect()).collect();
        Err(StatesError::LeftOver { ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: &str) -> DeviceState {
        DeviceState { id: id.into(), kind: "test".into(), version: 1, body: vec![] }
    }

    #[test]
    fn every_state_is_taken_exactly_once() {
        let mut states = States::new(&[state("a"), state("b")]).unwrap();
        assert_eq!(states.take("a").unwrap(), state("a"));
        assert!(matches!(states.take("a"), Err(StatesError::Missing { .. })));
        assert!(matches!(states.finish(), Err(StatesError::LeftOver { ids }) if ids == ["b"]));
    }

    #[test]
    fn a_duplicate_is_an_error() {
        assert!(matches!(States::new(&[state("a"), state("a")]), Err(StatesError::Duplicate { .. })));
    }
}
