//! The i8042 keyboard controller, as far as resetting the machine needs it.

mod model;
mod state;
#[cfg(test)]
mod tests;

pub use model::{I8042, PORT, PORTS};
pub use state::I8042V1;
