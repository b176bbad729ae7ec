//! virtio-input (spec, 5.8): a keyboard, with the key codes of Linux' evdev.

mod config;
mod model;
mod state;
#[cfg(test)]
mod tests;

pub use config::{MAX_KEY, MIN_KEY};
pub use model::{Keyboard, UnknownKey};
pub use state::{EventV1, KeyboardV1};
