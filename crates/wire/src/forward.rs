//! What came for the machine at the host that it has left.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Most bytes of packets that are forwarded in one migration, of all devices together: what a link of a gigabit a second carries in 32 ms.
pub const MAX_FORWARD_BYTES: usize = 4 << 20;

/// Bytes after which a message ends, where there are more: it holds up others on the control connection for
/// 2 ms at a gigabit a second, and is far below [`MAX_CONTROL_BYTES`](crate::MAX_CONTROL_BYTES) with any packet.
const MESSAGE_BYTES: usize = 256 << 10;

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

    /// Says that nothing more follows for the device.
    #[must_use]
    pub fn end(device: impl Into<String>) -> Self {
        Self::new(device, [])
    }

    /// Whether it says that nothing more follows for its device. A peer without [`Features::FORWARD_ENDS`](crate::Features::FORWARD_ENDS)
    /// takes it for no packets.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.packets.is_empty()
    }

    /// The same in messages that can be sent, in order, the last of which says that it is the last.
    #[must_use]
    pub fn cut(self) -> Vec<Self> {
        let mut messages = Vec::<Self>::new();
        let end = Self::end(self.device.clone());
        for packet in self.packets {
            match messages.last_mut().filter(|last| last.bytes() < MESSAGE_BYTES) {
                Some(last) => last.packets.push(packet),
                None => messages.push(Self { device: self.device.clone(), packets: vec![packet] }),
            }
        }
        messages.push(end);
        messages
    }

    /// Bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packets.iter().map(|packet| packet.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    #[test]
    fn as_much_as_is_forwarded_at_most_is_sent_in_order() {
        let packets = || (0..u8::MAX).cycle().take(65).map(|number| vec![number; 65_000]);
        let forward = Forward::new("net0", packets());
        assert!(forward.bytes() > MAX_FORWARD_BYTES);
        let messages = forward.cut();
        assert!(messages.len() > 10);
        let ends: Vec<_> = messages.iter().map(Forward::is_end).collect();
        assert_eq!(ends.iter().position(|is_end| *is_end), Some(ends.len() - 1), "the last, and no other");
        for message in &messages {
            assert_eq!(message.device, "net0");
            assert!(Message::Forward(message.clone()).encode(0).is_ok());
        }
        let sent = messages.into_iter().flat_map(|message| message.packets).map(ByteBuf::into_vec);
        assert!(sent.eq(packets()));
        assert_eq!(Forward::new("net1", []).cut(), [Forward::end("net1")]);
    }
}
