use state::{DeviceState, StateError};

/// A device whose state travels with the machine.
pub trait Lifecycle {
    /// The state of the device, as device `id` of the machine. Only called while the machine is stopped; changes nothing.
    ///
    /// # Errors
    /// The state does not fit its envelope.
    fn save(&self, id: &str) -> Result<DeviceState, StateError>;

    /// Puts the device into its condition after power-on, as a reset of the machine does. Host resources stay open.
    /// Only called while the machine is stopped.
    fn reset(&mut self);
}

/// What cannot be true in a saved state, as a sentence. Becomes [`StateError::Invalid`] where the device id is known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// The same with the id of the device and the kind of its state.
    #[must_use]
    pub fn of<S: state::Schema>(self, id: &str) -> StateError {
        StateError::Invalid { id: id.into(), kind: S::KIND, detail: self.0 }
    }

    /// An error unless `holds`; `detail` says what cannot be true.
    ///
    /// # Errors
    /// `holds` is false.
    pub fn unless(holds: bool, detail: impl FnOnce() -> String) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self(detail())) }
    }
}
