//! Device models of a Whimbrel machine, each with its versioned state.
//!
//! A device knows guest memory, its own registers and the host file descriptors it works on. It does not know KVM, the
//! bus it sits on, migration, or any other device. What it needs of the machine comes in through three small contracts:
//!
//! * [`BusDevice`]: the guest reads and writes registers (called on vCPU threads);
//! * [`IoDevice`]: descriptors became ready (called on an I/O thread);
//! * [`Interrupt`]: the device raises its line.
//!
//! # Life of a device
//! A device is made by `new` (a machine that boots) or by `restore` (from a saved state; restoring is a constructor, so a
//! half-restored device cannot exist). Both take the host resources (open files, sockets), which are never part of a state.
//!
//! A machine is stopped before it is saved: all vCPUs are out of the guest and every I/O thread is parked between two
//! calls of [`IoDevice::ready`]. From then until it is resumed a device must not touch guest memory. `save(&self)` is
//! called only in that condition, may be called many times, and changes nothing: a machine whose migration failed
//! simply goes on. After `restore` (and after a failed migration) [`IoDevice::kick`] is called once on every device,
//! since a request may be pending with no event left to announce it.

#![deny(unsafe_code)]

mod bus;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod hostile_states;
mod interrupt;
mod io;
mod lifecycle;
mod machine;
#[cfg(test)]
mod machine_testing;

pub mod balloon;
pub mod blk;
pub mod i8042;
pub mod input;
pub mod net;
pub mod power;
pub mod rng;
pub mod rtc;
pub mod serial;
pub mod virtio;

pub use bus::BusDevice;
pub use interrupt::Interrupt;
pub use io::{Interest, IoDevice, Watch};
pub use lifecycle::{Invalid, Lifecycle};
pub use machine::MachineRequests;

pub use ram::GuestMemory;
