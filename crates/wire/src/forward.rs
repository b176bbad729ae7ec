//! What came for the machine at the host that it has left.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Most bytes of packets that are forwarded in one migration, of all devices together: what a link of a gigabit a second carries in 32 ms.
pub const MAX_FORWARD_BYTES: usize = 4 << 20;

/// Packets that a network had brought to one device of the machine, and that no driver has seen: they came between the moment in which
/// the machine was stopped and the one in which the network heard where it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Id of the device, as [`DeviceInfo::id`](crate::DeviceInfo::id) has it.
    pub device: String,
    /// The packets in the order in which they came, each as the device takes it from its network. What is in them is the device's
    /// business, and was not looked at.
    pub packets: Vec<ByteBuf>,
}

impl Forward {
    /// Of the device `device`.
    #[must_use]
    pub fn new(device: impl Into<String>, packets: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { device: device.into(), packets: packets.into_iter().map(ByteBuf::from).collect() }
    }

    /// Bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packets.iter().map(|packet| packet.len()).sum()
    }
}
