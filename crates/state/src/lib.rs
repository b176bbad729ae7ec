//! Versioned device states: what is saved of a device, and how it travels.
//!
//! A device names its state with a [`Schema`]: a kind, a version and plain serde fields. [`DeviceState`] is the
//! envelope in which any state is stored or sent; its body is CBOR (RFC 8949), which carries field names, so a saved
//! stream can be printed by a program that does not know the schema ([`DeviceState::print`]).
//!
//! Restoring is strict: another kind, a version that is not read any more ([`Schema::OLDEST`]), a missing field and a left-over
//! field are all errors. Schemas
//! therefore never use `#[serde(default)]`, and always `#[serde(deny_unknown_fields)]`. The description of a machine, which is compared
//! before it moves and from which nothing is made, is the one that passes over what it does not know.

mod envelope;
mod print;

pub use ciborium::Value;
pub use envelope::{DeviceState, MAX_BODY_BYTES, Schema, StateError, not_read};
