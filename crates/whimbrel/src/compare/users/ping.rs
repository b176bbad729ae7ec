use std::{
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::Watch;

/// As ping(8) sends them.
const PAYLOAD: usize = 56;
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// How long nobody looks whether it has ended.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Sends an ICMP echo request every so often. Returns when each was sent, and how many milliseconds later it was
/// answered.
pub(super) fn ping(watch: &Watch, id: u16, every: Duration) -> io::Result<Vec<(f64, Option<f64>)>> {
    let raw = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP))?;
    // All that the standard library does with it is to send and to receive.
    let socket = UdpSocket::from(raw);
    socket.connect((watch.guest, 0))?;
    let mut pings: Vec<(f64, Option<f64>)> = Vec::new();
    let mut due = Instant::now();
    let mut packet = [0; 2048];
    while !watch.has_ended() {
        let now = Instant::now();
        if now >= due {
            let number = pings.len() as u16;
            pings.push((watch.ms(), None));
            // What the kernel does not send, since it finds no way, is lost as any other.
            let _ = socket.send(&request(id, number));
            due = (due + every).max(now);
        }
        let wait = due.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(wait.clamp(Duration::from_micros(100), LONGEST_WAIT)))?;
        let Ok(length) = socket.recv(&mut packet) else { continue };
        if let Some(ping) = reply(&packet[..length], id).and_then(|number| nth(&mut pings, number)) {
            ping.1 = ping.1.or(Some(watch.ms() - ping.0));
        }
    }
    Ok(pings)
}

/// The youngest ping whose number ends in these 16 bits.
fn nth(pings: &mut [(f64, Option<f64>)], number: u16) -> Option<&mut (f64, Option<f64>)> {
    let last = pings.len().checked_sub(1)?;
    let back = (last as u16).wrapping_sub(number);
    pings.get_mut(last.checked_sub(usize::from(back))?)
}

/// RFC 792.
fn request(id: u16, number: u16) -> [u8; 8 + PAYLOAD] {
    let mut message = [0x5a; 8 + PAYLOAD];
    message[..4].copy_from_slice(&[ECHO, 0, 0, 0]);
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&number.to_be_bytes());
    let sum: u32 = message.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The number of an answer to one of ours. A raw socket has everybody's, with their IP header.
fn reply(packet: &[u8], id: u16) -> Option<u16> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let message = packet.get(header..header + 8)?;
    let is_ours = message[0] == ECHO_REPLY && message[4..6] == id.to_be_bytes();
    is_ours.then(|| u16::from_be_bytes([message[6], message[7]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_finds_its_ping_also_after_the_number_has_wrapped() {
        let mut pings: Vec<_> = (0..70_000).map(|n| (f64::from(n), None)).collect();
        assert_eq!(nth(&mut pings, (69_990_u32 & 0xffff) as u16).unwrap().0, 69_990.0);
        assert_eq!(nth(&mut pings, 60_000).unwrap().0, 60_000.0);
        assert!(nth(&mut pings[..3], 3).is_none());
    }

    #[test]
    fn strangers_answers_are_not_ours() {
        let packet = [&[0x45][..], &[0; 19], &[ECHO_REPLY, 0, 0, 0, 0, 7, 1, 2]].concat();
        assert_eq!((reply(&packet, 7), reply(&packet, 8)), (Some(0x102), None));
        assert_eq!((reply(&packet[..27], 7), reply(&[], 7)), (None, None));
    }
}
