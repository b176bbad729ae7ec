//! virtio-blk: a disk (spec, 5.2) in a raw image file or on a block device.
//!
//! Requests are done one after the other on the device's I/O thread, straight between the image and guest memory, so
//! that nothing is in flight while the thread is parked. Locking the image against a second machine is the machine's
//! business: see [`Disk::file`].

mod alignment;
mod config;
mod disk;
mod failure;
#[cfg(test)]
mod failure_tests;
mod figures;
mod flusher;
mod format;
mod model;
mod probe;
mod request;
mod state;
#[cfg(test)]
mod tests;

pub use disk::{Disk, DiskCounters, DiskError, DiskOptions};
pub use failure::{DiskFailure, DiskWatch, ErrorPolicy, OnError, Waiting};
pub use figures::{DiskFigures, Tally};
pub use flusher::Flusher;
pub use model::Blk;
pub use probe::{ImageReader, MAX_SAMPLES, Sample, TELLING, is_another_image};
pub use state::{BlkV1, takes_blocks_of};

/// Bytes of a sector, the unit of all addresses in requests (spec, 5.2.4).
pub const SECTOR: u64 = 512;

/// Longest serial number in bytes.
pub const SERIAL_BYTES: usize = virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES as usize;
