//! What the guest says on the network: who has its address, and whether it is there; and packets, for
//! [`crate::frames`] and [`crate::sink`].

/// Who we are on the network.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// Hardware address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: [u8; 4],
}

/// The longest Ethernet frame without VLAN tag and checksum.
pub const MAX_FRAME: usize = 1514;

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const BROADCAST: [u8; 6] = [0xff; 6];

const ARP: usize = 28;
/// Ethernet, IPv4, six-byte and four-byte addresses (RFC 826).
const ARP_PREFIX: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];

const IPV4: usize = 20;
const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
const ICMP: usize = 8;
const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO: u8 = 8;
const TTL: u8 = 64;

/// Somebody else on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Hardware address.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: [u8; 4],
}

/// An IPv4 packet for us whose own header is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) from: Peer,
    pub(crate) protocol: u8,
    header: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Station {
    /// Writes the answer to `frame` into `out`. Returns its length, or `None` if `frame` asks for none:
    /// it is not for us, is nothing that we answer, or is malformed.
    pub fn answer(&self, frame: &[u8], out: &mut [u8; MAX_FRAME]) -> Option<usize> {
        let destination = frame.get(..6)?;
        if destination != self.mac && destination != BROADCAST {
            return None;
        }
        let body = frame.get(ETHERNET..)?;
        match [frame[12], frame[13]] {
            ETHERTYPE_ARP => self.answer_arp(body, out),
            ETHERTYPE_IPV4 => self.answer_echo(self.packet(frame)?, out),
            _ => None,
        }
    }

    /// Writes an ARP request for our own address, which tells everyone where it is now (RFC 5227, 3).
    pub fn announce(&self, out: &mut [u8; MAX_FRAME]) -> usize {
        self.write_arp(BROADCAST, ARP_REQUEST, [0; 6], self.ip, out)
    }

    fn answer_arp(&self, arp: &[u8], out: &mut [u8; MAX_FRAME]) -> Option<usize> {
        let arp = arp.get(..ARP)?;
        let asks_for_us = arp[..6] == ARP_PREFIX && arp[6..8] == ARP_REQUEST && arp[24..28] == self.ip;
        let (mac, ip): ([u8; 6], [u8; 4]) = (arp[8..14].try_into().ok()?, arp[14..18].try_into().ok()?);
        if !asks_for_us || ip == self.ip || mac[0] & 1 != 0 {
            return None;
        }
        Some(self.write_arp(mac, ARP_REPLY, mac, ip, out))
    }

    fn write_arp(
        &self,
        to: [u8; 6],
        operation: [u8; 2],
        target_mac: [u8; 6],
        target_ip: [u8; 4],
        out: &mut [u8; MAX_FRAME],
    ) -> usize {
        self.write_ethernet(to, ETHERTYPE_ARP, out);
        let arp = &mut out[ETHERNET..ETHERNET + ARP];
        arp[..6].copy_from_slice(&ARP_PREFIX);
        arp[6..8].copy_from_slice(&operation);
        arp[8..14].copy_from_slice(&self.mac);
        arp[14..18].copy_from_slice(&self.ip);
        arp[18..24].copy_from_slice(&target_mac);
        arp[24..28].copy_from_slice(&target_ip);
        ETHERNET + ARP
    }

    /// The packet in `frame`. `None` if there is none for us, or it is malformed.
    pub(crate) fn packet<'a>(&self, frame: &'a [u8]) -> Option<Packet<'a>> {
        let ethernet = frame.get(..ETHERNET)?;
        let mac: [u8; 6] = ethernet[6..12].try_into().ok()?;
        let packet = &frame[ETHERNET..];
        let header = packet.get(..IPV4)?;
        // Options are rare and not worth copying; a packet with some is left alone.
        let plain = ethernet[12..] == ETHERTYPE_IPV4 && header[0] == 0x45 && header[16..20] == self.ip;
        let fragment = (u16::from_be_bytes([header[6], header[7]]) & 0x3fff) != 0;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !plain || fragment || checksum(header) != 0 || ETHERNET + length > MAX_FRAME || mac[0] & 1 != 0 {
            return None;
        }
        let from = Peer { mac, ip: header[12..16].try_into().ok()? };
        Some(Packet { from, protocol: header[9], header, body: packet.get(IPV4..length)? })
    }

    fn answer_echo(&self, packet: Packet<'_>, out: &mut [u8; MAX_FRAME]) -> Option<usize> {
        let Packet { from, protocol, header, body: message } = packet;
        if protocol != PROTOCOL_ICMP
            || message.len() < ICMP
            || message[0] != ICMP_ECHO
            || message[1] != 0
            || checksum(message) != 0
        {
            return None;
        }
        let length = IPV4 + message.len();
        self.write_ethernet(from.mac, ETHERTYPE_IPV4, out);
        let (reply_header, reply) = out[ETHERNET..ETHERNET + length].split_at_mut(IPV4);
        reply_header.copy_from_slice(header);
        reply_header[8] = TTL;
        reply_header[10..12].fill(0);
        reply_header[12..16].copy_from_slice(&self.ip);
        reply_header[16..20].copy_from_slice(&header[12..16]);
        let sum = checksum(reply_header);
        reply_header[10..12].copy_from_slice(&sum.to_be_bytes());
        reply.copy_from_slice(message);
        reply[0] = ICMP_ECHO_REPLY;
        reply[2..4].fill(0);
        let sum = checksum(reply);
        reply[2..4].copy_from_slice(&sum.to_be_bytes());
        Some(ETHERNET + length)
    }

    /// Writes a packet to `to` around the `length` bytes that `write` makes of its body, at most [`MAX_BODY`].
    /// Returns the length of the frame.
    pub(crate) fn send(
        &self,
        to: Peer,
        protocol: u8,
        length: usize,
        out: &mut [u8; MAX_FRAME],
        write: impl FnOnce(&mut [u8]),
    ) -> usize {
        let length = length.min(MAX_BODY);
        self.write_ethernet(to.mac, ETHERTYPE_IPV4, out);
        let (header, body) = out[ETHERNET..ETHERNET + IPV4 + length].split_at_mut(IPV4);
        header.fill(0);
        header[0] = 0x45;
        header[2..4].copy_from_slice(&((IPV4 + length) as u16).to_be_bytes());
        // Never in pieces.
        header[6] = 0x40;
        (header[8], header[9]) = (TTL, protocol);
        header[12..16].copy_from_slice(&self.ip);
        header[16..20].copy_from_slice(&to.ip);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        write(body);
        ETHERNET + IPV4 + length
    }

    /// The checksum of UDP and TCP over a body that goes to or comes from `peer` (RFC 9293, 3.1): 0 over one that
    /// carries the right one.
    pub(crate) fn checksum(&self, peer: Peer, protocol: u8, body: &[u8]) -> u16 {
        let [high, low] = (body.len() as u16).to_be_bytes();
        let ends = [&self.ip[..], &peer.ip, &[0, protocol, high, low]];
        !fold(ends.into_iter().chain([body]).map(sum).sum())
    }

    fn write_ethernet(&self, to: [u8; 6], ethertype: [u8; 2], out: &mut [u8; MAX_FRAME]) {
        out[..6].copy_from_slice(&to);
        out[6..12].copy_from_slice(&self.mac);
        out[12..14].copy_from_slice(&ethertype);
    }
}

/// The longest body of a packet.
pub(crate) const MAX_BODY: usize = MAX_FRAME - ETHERNET - IPV4;

/// The Internet checksum (RFC 1071): 0 over data that carries the right one.
fn checksum(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// The sum of all words, the last of which may lack its second byte.
fn sum(data: &[u8]) -> u32 {
    let (pairs, rest) = data.as_chunks::<2>();
    let sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    sum + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Station = Station { mac: [2, 0, 0, 0, 0, 1], ip: [10, 0, 0, 2] };
    const THEM: Station = Station { mac: [2, 0, 0, 0, 0, 9], ip: [10, 0, 0, 1] };

    fn answer(frame: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; MAX_FRAME];
        US.answer(frame, &mut out).map(|length| out[..length].to_vec())
    }

    fn who_has(ip: [u8; 4]) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        let length = THEM.write_arp(BROADCAST, ARP_REQUEST, [0; 6], ip, &mut out);
        out[..length].to_vec()
    }

    fn echo(payload: &[u8]) -> Vec<u8> {
        let mut icmp = vec![ICMP_ECHO, 0, 0, 0, 0x12, 0x34, 0, 1];
        icmp.extend_from_slice(payload);
        let sum = checksum(&icmp).to_be_bytes();
        icmp[2..4].copy_from_slice(&sum);
        let length = ((IPV4 + icmp.len()) as u16).to_be_bytes();
        let mut ip = vec![0x45, 0, length[0], length[1], 0, 1, 0x40, 0, 64, PROTOCOL_ICMP, 0, 0];
        ip.extend_from_slice(&THEM.ip);
        ip.extend_from_slice(&US.ip);
        let sum = checksum(&ip).to_be_bytes();
        ip[10..12].copy_from_slice(&sum);
        let mut frame = [&US.mac[..], &THEM.mac[..], &ETHERTYPE_IPV4[..], &ip[..], &icmp[..]].concat();
        frame.resize(frame.len().max(60), 0);
        frame
    }

    #[test]
    fn who_has_our_address_is_told() {
        let reply = answer(&who_has(US.ip)).unwrap();
        assert_eq!(reply[..6], THEM.mac);
        assert_eq!(reply[20..22], ARP_REPLY);
        assert_eq!((&reply[22..28], &reply[28..32]), (&US.mac[..], &US.ip[..]));
        assert_eq!((&reply[32..38], &reply[38..42]), (&THEM.mac[..], &THEM.ip[..]));
    }

    #[test]
    fn who_has_another_address_is_not() {
        assert_eq!(answer(&who_has([10, 0, 0, 3])), None);
    }

    #[test]
    fn an_echo_is_answered_with_the_same_payload() {
        for payload in [&b""[..], b"x", &[7; 56], &[9; 1472]] {
            let reply = answer(&echo(payload)).unwrap();
            assert_eq!(reply.len(), ETHERNET + IPV4 + ICMP + payload.len());
            assert_eq!((&reply[..6], &reply[30..34]), (&THEM.mac[..], &THEM.ip[..]));
            assert_eq!((checksum(&reply[14..34]), checksum(&reply[34..])), (0, 0));
            assert_eq!((reply[34], &reply[42..]), (ICMP_ECHO_REPLY, payload));
        }
    }

    #[test]
    fn an_announcement_is_a_broadcast_for_our_own_address() {
        let mut out = [0; MAX_FRAME];
        assert_eq!(US.announce(&mut out), 42);
        assert_eq!((&out[..6], &out[28..32], &out[38..42]), (&BROADCAST[..], &US.ip[..], &US.ip[..]));
    }

    #[test]
    fn a_cut_frame_is_never_answered_with_more_than_it_carried() {
        for whole in [who_has(US.ip), echo(&[1; 100])] {
            for length in 0..whole.len() {
                let _ = answer(&whole[..length]);
            }
            assert_eq!(answer(&whole[..41]), None);
        }
    }

    #[test]
    fn one_wrong_bit_in_a_packet_leaves_it_unanswered() {
        let whole = echo(&[1; 56]);
        for byte in ETHERNET..whole.len() {
            for bit in 0..8 {
                let mut frame = whole.clone();
                frame[byte] ^= 1 << bit;
                assert_eq!(answer(&frame), None, "byte {byte} bit {bit}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_frame_is_ignored() {
        let mut frame = echo(&[1; 56]);
        frame[16..18].copy_from_slice(&u16::MAX.to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        assert_eq!(answer(&frame), None);
    }
}
