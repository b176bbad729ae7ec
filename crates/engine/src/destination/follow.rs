use std::sync::{Arc, atomic::AtomicBool};

use super::{faults::Faults, gate::Gate};

/// What channels need to bring pages that follow the machine.
#[derive(Clone)]
pub(super) struct Postcopy {
    pub(super) gate: Arc<Gate>,
    /// Of these channels: nobody waits at the gate for them any more.
    pub(super) closed: Arc<AtomicBool>,
    pub(super) faults: Arc<Faults>,
    /// Whether something comes every second on each connection, or it is broken.
    pub(super) has_pulse: bool,
    /// Whether each batch must have a sum of its pages.
    pub(super) has_sums: bool,
    /// Called when the last page has come.
    pub(super) whole: Arc<dyn Fn() + Send + Sync>,
}
