use super::MAX_PARTS;
use crate::Invalid;

/// How the driver broke the rules. The device then asks to be reset (spec, 2.1.2 DEVICE_NEEDS_RESET).
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The rings themselves are wrong.
    #[error("The guest's driver broke a ring of its virtqueue")]
    Ring(#[source] virtio_queue::Error),
    /// The size or an address of the queue is not possible.
    #[error("The guest's driver set up a virtqueue that is not possible: {0}")]
    Setup(Invalid),
    /// A chain of descriptors loops, is empty, or leads out of its table.
    #[error("The guest's driver made request {head} of descriptors that loop, lead nowhere, or are missing")]
    BrokenChain {
        /// Index of the first descriptor.
        head: u16,
    },
    /// A buffer for the device to read follows one for it to write.
    #[error("The guest's driver mixed readable buffers with writable ones in request {head}")]
    MixedBuffers {
        /// Index of the first descriptor.
        head: u16,
    },
    /// A buffer is not in guest memory.
    #[error("The guest's driver named {bytes} bytes at {address:#x}, which is not memory")]
    OutsideMemory {
        /// Guest-physical address.
        address: u64,
        /// Length.
        bytes: usize,
    },
    /// A request has more parts than a system call takes.
    #[error("The guest's driver made a request of more than {} buffers", MAX_PARTS)]
    TooManyBuffers,
    /// A request does not follow the device's format.
    #[error("The guest's driver made a request that is malformed: {0}")]
    Request(&'static str),
}
