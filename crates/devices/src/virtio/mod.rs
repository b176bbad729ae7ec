//! What all virtio devices share: queues, guest buffers, and the virtio-mmio transport.
//!
//! A device implements [`VirtioDevice`]; [`VirtioMmio`] gives it registers, queues, an interrupt and a state. A device
//! never sees its transport: it works on the queues that it is handed as a [`Driver`].
//!
//! "The spec" in this module is Virtual I/O Device (VIRTIO) Version 1.2, OASIS.

mod buffers;
mod device;
mod driver;
mod error;
#[cfg(test)]
pub(crate) mod hostile;
mod mmio;
mod presence;
#[cfg(test)]
mod presence_tests;
mod queue;
mod registers;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use buffers::Buffers;
pub use device::VirtioDevice;
pub(crate) use device::read_from;
pub use driver::Driver;
pub use error::GuestError;
pub use mmio::{RestoreError, VirtioMmio};
pub use presence::{MemoryRange, Presence};
pub use queue::{Chain, VirtQueue};
pub use registers::RING_FEATURES;
pub use state::{QueueV1, TransportV1, VirtioV1};

/// Size of the register window of a virtio-mmio device, in bytes: the registers end at 0x100, the configuration space of
/// every device here is far shorter than the rest.
pub const MMIO_WINDOW: u64 = 0x1000;

/// Offset of the QueueNotify register, which the machine attaches to [`VirtioMmio::queue_events`] (spec, 4.2.2).
pub const QUEUE_NOTIFY: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Most parts that one list of buffers may have: what readv and writev take (Linux, `UIO_MAXIOV`).
pub(crate) const MAX_PARTS: usize = 1024;

/// The bit of feature number `number`.
#[must_use]
pub const fn feature(number: u32) -> u64 {
    1 << number
}
