use rustix::rand::{GetRandomFlags, getrandom};

use super::RngV1;
use crate::{
    Watch,
    virtio::{Buffers, Driver, GuestError, VirtioDevice, read_from},
};

/// Requests served in one turn.
const BUDGET: usize = 16;

/// Bytes given to one request at most: a buffer may be as large as guest memory, and a short answer is a valid one.
const MAX_BYTES: usize = 64 << 10;

/// A virtio entropy source.
#[derive(Debug, Default)]
pub struct Rng {}

impl Rng {
    /// The features: none beside those of the transport.
    pub const FEATURES: u64 = 0;

    /// An entropy source.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }

    /// The entropy source as it was saved.
    #[must_use]
    pub fn restore(_state: &RngV1) -> Self {
        Self {}
    }
}

impl VirtioDevice for Rng {
    type State = RngV1;
    const DEVICE_ID: u32 = virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
    const QUEUE_SIZES: &'static [u16] = &[64];

    fn features(&self) -> u64 {
        Self::FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_from(&[], offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8], _features: u64) {}

    fn process(&mut self, queue: usize, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        driver.serve(queue, BUDGET, |_, writable| Ok(fill(&writable)))
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32, _driver: &mut Driver<'_>) -> Result<(), GuestError> {
        Ok(())
    }

    fn runs_on(&mut self) {}

    fn reset(&mut self) {}

    fn save(&self) -> RngV1 {
        RngV1 {}
    }
}

/// Fills a request; returns the bytes written. The kernel's pool is initialised long before a machine starts, so this
/// does not block; should it fail nevertheless, the guest gets an empty answer and asks again.
fn fill(writable: &Buffers<'_>) -> u32 {
    let mut bytes = vec![0; writable.len().min(MAX_BYTES)];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    writable.write(&bytes[..filled]) as u32
}
