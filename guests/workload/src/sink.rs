//! A TCP port that takes what it is sent and throws it away, as RFC 863 has it. One connection at a time, and no data
//! of our own: so nothing has to be kept, sent again, or timed. What comes out of order is not kept either; its
//! sender sends it again.

use crate::packet::{MAX_BODY, MAX_FRAME, PROTOCOL_TCP, Packet, Peer, Station};

/// The port (RFC 863).
pub const PORT: u16 = 9;
/// Bytes of a header without options (RFC 9293, 3.1).
const HEADER: usize = 20;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// What may be under way to us: the most without a scale.
const WINDOW: u16 = u16::MAX;
/// The longest segment that fits a frame, as an option (RFC 9293, 3.2).
const MAX_SEGMENT: [u8; 4] = {
    let [high, low] = ((MAX_BODY - HEADER) as u16).to_be_bytes();
    [2, 4, high, low]
};

/// The port, and the connection if there is one.
#[derive(Debug, Default)]
pub struct Sink {
    connection: Option<Connection>,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    peer: Peer,
    port: u16,
    /// The next byte that is to come.
    expected: u32,
    /// The number of what we say next.
    ours: u32,
    is_closed: bool,
}

/// What matters of a segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    peer: Peer,
    port: u16,
    number: u32,
    flags: u8,
    length: u32,
}

impl Sink {
    /// Writes the answer to `frame` into `out`. Returns its length, or `None` if `frame` asks for none.
    pub fn answer(&mut self, station: &Station, frame: &[u8], out: &mut [u8; MAX_FRAME]) -> Option<usize> {
        let segment = segment(station, station.packet(frame)?)?;
        if segment.flags & (SYN | ACK | RST) == SYN {
            // The same again for the same: it comes twice where our answer was lost.
            let ours = segment.number.rotate_left(16) ^ u32::from(segment.port);
            let (peer, port, expected) = (segment.peer, segment.port, segment.number.wrapping_add(1));
            let connection = Connection { peer, port, expected, ours, is_closed: false };
            self.connection = Some(Connection { ours: ours.wrapping_add(1), ..connection });
            return Some(connection.say(station, SYN | ACK, out));
        }
        let is_theirs = |one: &&mut Connection| (one.peer.ip, one.port) == (segment.peer.ip, segment.port);
        let connection = self.connection.as_mut().filter(is_theirs)?;
        if segment.flags & RST != 0 {
            self.connection = None;
            return None;
        }
        let ends = u32::from(segment.flags & FIN != 0);
        if segment.length + ends == 0 {
            return None;
        }
        if segment.number == connection.expected && !connection.is_closed {
            connection.expected = segment.number.wrapping_add(segment.length).wrapping_add(ends);
            connection.is_closed = ends == 1;
        }
        let flags = if connection.is_closed { ACK | FIN } else { ACK };
        Some(connection.say(station, flags, out))
    }
}

impl Connection {
    fn say(&self, station: &Station, flags: u8, out: &mut [u8; MAX_FRAME]) -> usize {
        let options: &[u8] = if flags & SYN != 0 { &MAX_SEGMENT } else { &[] };
        let length = HEADER + options.len();
        station.send(self.peer, PROTOCOL_TCP, length, out, |segment| {
            segment.fill(0);
            segment[..2].copy_from_slice(&PORT.to_be_bytes());
            segment[2..4].copy_from_slice(&self.port.to_be_bytes());
            segment[4..8].copy_from_slice(&self.ours.to_be_bytes());
            segment[8..12].copy_from_slice(&self.expected.to_be_bytes());
            segment[12] = ((length / 4) as u8) << 4;
            segment[13] = flags;
            segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
            segment[HEADER..].copy_from_slice(options);
            let sum = station.checksum(self.peer, PROTOCOL_TCP, segment);
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
        })
    }
}

fn segment(station: &Station, packet: Packet<'_>) -> Option<Segment> {
    let bytes = packet.body;
    let header = bytes.get(..HEADER)?;
    let data = bytes.get(usize::from(header[12] >> 4) * 4..)?;
    let to_us = packet.protocol == PROTOCOL_TCP && header[2..4] == PORT.to_be_bytes();
    if !to_us || header[12] >> 4 < 5 || station.checksum(packet.from, PROTOCOL_TCP, bytes) != 0 {
        return None;
    }
    Some(Segment {
        peer: packet.from,
        port: u16::from_be_bytes([header[0], header[1]]),
        number: u32::from_be_bytes(header[4..8].try_into().ok()?),
        flags: header[13],
        length: data.len() as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Station = Station { mac: [2, 0, 0, 0, 0, 1], ip: [10, 0, 0, 2] };
    const THEM: Station = Station { mac: [2, 0, 0, 0, 0, 9], ip: [10, 0, 0, 1] };

    fn frame(port: u16, number: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        let us = Peer { mac: US.mac, ip: US.ip };
        let length = THEM.send(us, PROTOCOL_TCP, HEADER + data.len(), &mut out, |segment| {
            segment.fill(0);
            segment[..2].copy_from_slice(&port.to_be_bytes());
            segment[2..4].copy_from_slice(&PORT.to_be_bytes());
            segment[4..8].copy_from_slice(&number.to_be_bytes());
            (segment[12], segment[13]) = (5 << 4, flags);
            segment[HEADER..].copy_from_slice(data);
            let sum = THEM.checksum(us, PROTOCOL_TCP, segment);
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
        });
        out[..length].to_vec()
    }

    /// Flags and acknowledged number of the answer.
    fn answer(sink: &mut Sink, frame: &[u8]) -> Option<(u8, u32)> {
        let mut out = [0; MAX_FRAME];
        let length = sink.answer(&US, frame, &mut out)?;
        let heard = THEM.packet(&out[..length]).unwrap();
        assert_eq!(THEM.checksum(heard.from, PROTOCOL_TCP, heard.body), 0);
        Some((heard.body[13], u32::from_be_bytes(heard.body[8..12].try_into().unwrap())))
    }

    fn open(sink: &mut Sink) {
        assert_eq!(answer(sink, &frame(7, u32::MAX, SYN, b"")), Some((SYN | ACK, 0)));
    }

    #[test]
    fn bytes_in_order_are_acknowledged_and_others_are_asked_for_again() {
        let mut sink = Sink::default();
        open(&mut sink);
        assert_eq!(answer(&mut sink, &frame(7, 0, ACK, b"")), None);
        assert_eq!(answer(&mut sink, &frame(7, 0, ACK, b"abc")), Some((ACK, 3)));
        assert_eq!(
            answer(&mut sink, &frame(7, 9, ACK, b"jkl")),
            Some((ACK, 3)),
            "something is missing before it"
        );
        assert_eq!(answer(&mut sink, &frame(7, 0, ACK, b"abc")), Some((ACK, 3)), "it was there before");
        assert_eq!(answer(&mut sink, &frame(7, 3, ACK, b"d")), Some((ACK, 4)));
    }

    #[test]
    fn a_connection_ends_and_another_begins() {
        let mut sink = Sink::default();
        open(&mut sink);
        for _ in 0..2 {
            assert_eq!(answer(&mut sink, &frame(7, 0, ACK | FIN, b"x")), Some((ACK | FIN, 2)));
        }
        open(&mut sink);
        assert_eq!(answer(&mut sink, &frame(7, 0, RST, b"")), None);
        assert_eq!(answer(&mut sink, &frame(7, 0, ACK, b"x")), None, "nobody knows it any more");
    }

    #[test]
    fn a_broken_segment_and_a_strangers_are_not_answered() {
        let mut sink = Sink::default();
        open(&mut sink);
        let whole = frame(7, 0, ACK, b"abc");
        for byte in 12..whole.len() {
            let mut wrong = whole.clone();
            wrong[byte] ^= 0x10;
            assert_eq!(answer(&mut sink, &wrong), None, "byte {byte}");
            assert_eq!(answer(&mut sink, &whole[..byte]), None, "cut at {byte}");
        }
        assert_eq!(answer(&mut sink, &frame(8, 0, ACK, b"abc")), None);
        assert_eq!(answer(&mut sink, &whole), Some((ACK, 3)));
    }
}
