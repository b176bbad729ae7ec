use super::Mac;

/// Smallest Ethernet frame without its checksum.
const FRAME_BYTES: usize = 60;

/// A reverse ARP request (RFC 903) of `mac` about itself, broadcast: every switch that forwards it learns where `mac`
/// is. Guests take no notice of it, and it needs no IP address.
#[must_use]
pub fn rarp(mac: Mac) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[0..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    // EtherType RARP; hardware Ethernet, protocol IPv4, address lengths 6 and 4; operation 3, "request reverse".
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    // Sender and target hardware address; the protocol addresses stay zero.
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}
