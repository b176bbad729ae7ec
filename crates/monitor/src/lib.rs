//! The monitor of a Whimbrel machine: QMP, the protocol that QEMU's monitor speaks, over a unix socket.
//!
//! Names, units and shapes are those of QEMU's schema wherever the meaning is the same, so that tools and habits carry
//! over. What QEMU cannot say stands beside it, in the object `whimbrel` of `query-migrate`; no field of QEMU's is bent.
//!
//! The crate knows neither KVM nor how a migration works. The two ends meet in three places:
//!
//! * [`Handler`]: what a machine can be asked and told, one typed method per command. The machine implements it.
//! * [`Events`]: what a machine says by itself. The machine calls it; every connected client hears it.
//! * [`Server`]: takes clients on a unix socket, parses and checks what they send, calls the handler, and answers.
//!
//! [`Client`] is the other side, for the operator's tool and for tests; it speaks to QEMU as well.
//!
//! # A command's way
//! bytes from a client → `protocol::Splitter` (one JSON value, bounded in size and depth) → `protocol::Request` →
//! `commands` (arguments checked and typed) → [`Handler`] → reply into the client's bounded outbox → socket.
//! `human-monitor-command` takes a detour through `human`, which parses a line of text and calls the same handler.

mod client;
mod commands;
mod events;
mod handler;
mod human;
pub mod protocol;
mod server;
pub mod types;

pub use client::{Client, ClientError, EventQueue};
pub use events::Events;
pub use handler::{CommandError, ErrorClass, Handler};
pub use human::info_migrate;
pub use server::{BindError, MAX_CLIENTS, Server};
