use std::{collections::VecDeque, io};

use super::{HEADER_BYTES, LARGE_PACKET, Tap};

/// Most packets that wait for the driver: as many as the kernel lets wait in a tap.
const MOST_PACKETS: usize = 1000;

/// Most bytes of them: as many as are forwarded in one migration.
const MOST_BYTES: usize = 4 << 20;

/// Shortest packet: its header, and the addresses and the type of an Ethernet frame.
const SHORTEST: usize = HEADER_BYTES + 14;

/// Packets that came for the machine where it was before, each with its virtio header, and that the driver gets before what its
/// own tap has. They came from a peer, so there is a limit; what is beyond is lost.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    /// More of them are on their way: the tap has to wait.
    more: bool,
}

impl Forwarded {
    /// Returns whether the packet was taken.
    pub(super) fn add(&mut self, packet: Vec<u8>) -> bool {
        let fits = (SHORTEST..=LARGE_PACKET).contains(&packet.len())
            && self.packets.len() < MOST_PACKETS
            && self.bytes + packet.len() <= MOST_BYTES;
        if fits {
            self.bytes += packet.len();
            self.packets.push_back(packet);
        }
        fits
    }

    /// Says whether more of them are on their way.
    pub(super) fn expect(&mut self, more: bool) {
        self.more = more;
    }

    /// Whether what the tap has must wait.
    pub(super) fn goes_first(&self) -> bool {
        self.more || !self.packets.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Takes what waits in the tap, with the virtio header of each, until that is `most` bytes, or more packets than
/// [`MOST_PACKETS`].
pub(super) fn waiting(tap: &Tap, most: usize) -> Vec<Vec<u8>> {
    let (mut packets, mut bytes) = (Vec::new(), 0);
    let mut buffer = vec![0; LARGE_PACKET];
    while packets.len() < MOST_PACKETS && bytes + LARGE_PACKET <= most {
        match rustix::io::read(tap, &mut buffer) {
            Ok(length) => {
                packets.push(buffer[..length].to_vec());
                bytes += length;
            }
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => {}
            // No packet, or no interface any more.
            Err(_) => break,
        }
    }
    packets
}
