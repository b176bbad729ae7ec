use serde::{Deserialize, Serialize};
use state::{Schema, Value};

/// The saved state of a virtio device: its transport and its own part. Kind and version are those of the part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtioV1<P> {
    /// Registers and queues.
    pub transport: TransportV1,
    /// What the device itself remembers.
    pub device: P,
}

/// The virtio-mmio registers (spec, 4.2.2) and the queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportV1 {
    /// Device status, with DEVICE_NEEDS_RESET.
    pub status: u32,
    /// Which 32 feature bits the driver reads.
    pub device_features_select: u32,
    /// Which 32 feature bits the driver writes.
    pub driver_features_select: u32,
    /// Features that the driver accepted.
    pub driver_features: u64,
    /// Which queue the queue registers stand for.
    pub queue_select: u32,
    /// Interrupt reasons that the driver has not acknowledged.
    pub interrupt_status: u32,
    /// Counts changes of the configuration space that the device made.
    pub config_generation: u32,
    /// All queues of the device.
    pub queues: Vec<QueueV1>,
}

/// One virtqueue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueV1 {
    /// Entries.
    pub size: u16,
    /// The driver may use it.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub driver_ring: u64,
    /// Guest-physical address of the used ring.
    pub device_ring: u64,
    /// Available entries taken so far, modulo 2^16; 0 while not ready.
    pub next_available: u16,
    /// Used entries written so far, modulo 2^16; 0 while not ready.
    pub next_used: u16,
}

impl<P: Schema> Schema for VirtioV1<P> {
    const KIND: &'static str = P::KIND;
    const VERSION: u32 = P::VERSION;
    const OLDEST: u32 = P::OLDEST;

    /// The transport has not changed since; the device's own part may have.
    fn older(version: u32, body: Value) -> Result<Self, String> {
        let VirtioV1 { transport, device } =
            body.deserialized::<VirtioV1<_>>().map_err(|error| error.to_string())?;
        Ok(Self { transport, device: P::older(version, device)? })
    }
}
