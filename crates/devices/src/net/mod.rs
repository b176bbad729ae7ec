//! virtio-net: a network interface (spec, 5.1) on a tap of the host.
//!
//! Packets go straight between the tap and guest memory. What the tap of a machine that moved has not delivered
//! [`take_waiting`](crate::virtio::VirtioMmio::take_waiting) takes, for the machine to get it where it is now;
//! [`VirtioMmio::announce`](crate::virtio::VirtioMmio::announce) tells switches where that is.

mod announce;
mod control;
mod forwarded;
mod model;
mod receive;
mod state;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;
#[cfg(test)]
mod wire_testing;

pub use announce::rarp;
pub use model::Net;
pub use state::NetV2;
pub use tap::{Tap, TapError};

/// A hardware address.
pub type Mac = [u8; 6];

/// Bytes of the header before each packet (spec, 5.1.6, struct virtio_net_hdr_v1).
const HEADER_BYTES: usize = 12;

/// Room for the largest packet that a tap hands over when the guest does segmentation (spec, 5.1.6.3.1).
const LARGE_PACKET: usize = 65550 + HEADER_BYTES;

/// Queues (spec, 5.1.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

/// Packets moved in one turn, in each direction: other devices share the thread.
const BUDGET: usize = 64;
