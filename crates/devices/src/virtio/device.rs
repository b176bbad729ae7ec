use state::Schema;

use super::{Driver, GuestError};
use crate::Watch;

/// A virtio device without its transport.
///
/// All methods are called with the device locked. Those that get a [`Driver`] run on the device's I/O thread, and only
/// between the driver's DRIVER_OK and its reset; no other method may touch guest memory.
pub trait VirtioDevice: Send + 'static {
    /// What is saved of the device beside its transport. A change of [`TransportV1`](super::TransportV1) also raises the
    /// version of this schema.
    type State: Schema;

    /// The spec's number of the device type (spec, 5).
    const DEVICE_ID: u32;

    /// Largest size of each queue; powers of two up to 32768.
    const QUEUE_SIZES: &'static [u16];

    /// The device-specific features offered with the host resources at hand. Does not change while the device lives.
    fn features(&self) -> u64;

    /// Reads the device's configuration space. Bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes to the device's configuration space, having accepted `features`. Read-only fields ignore it.
    fn write_config(&mut self, offset: u64, data: &[u8], features: u64);

    /// The driver put something into queue `queue`, or everything is to be looked at (after a resume).
    ///
    /// # Errors
    /// The driver broke the rules: the device then asks for a reset and does nothing until it comes.
    fn process(&mut self, queue: usize, driver: &mut Driver<'_>) -> Result<(), GuestError>;

    /// The host descriptors that the device works on. Tokens are the device's own.
    fn watches(&self) -> Vec<Watch>;

    /// The host descriptor with this `token` is ready.
    ///
    /// # Errors
    /// As [`Self::process`].
    fn ready(&mut self, token: u32, driver: &mut Driver<'_>) -> Result<(), GuestError>;

    /// The machine runs on after a stop, or for the first time; all queues are processed next.
    fn runs_on(&mut self);

    /// Forgets what the driver set up, as at power-on.
    fn reset(&mut self);

    /// What is saved of the device.
    fn save(&self) -> Self::State;
}

/// Copies the part of `config` that starts at `offset` into `data`; what lies past the end reads as zero.
pub(crate) fn read_from(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    let known = rest.len().min(data.len());
    data[..known].copy_from_slice(&rest[..known]);
    data[known..].fill(0);
}
