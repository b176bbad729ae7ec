//! virtio-rng: an entropy source (spec, 5.4), fed by the host kernel's getrandom(2).

mod model;
mod state;
#[cfg(test)]
mod tests;

pub use model::Rng;
pub use state::RngV1;
