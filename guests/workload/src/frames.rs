//! Frames, as of a film: who asks for some gets one datagram for each, at an even rate.

use crate::packet::{MAX_FRAME, PROTOCOL_UDP, Peer, Station};

/// The port that is asked, and that frames come from.
pub const PORT: u16 = 5000;
/// Frames per second at most.
pub const FASTEST: u16 = 1000;
/// Bytes of a frame.
pub const FRAME: usize = 1000;
/// Who can have frames at once.
const VIEWERS: usize = 4;
/// Bytes of a UDP header (RFC 768).
const UDP: usize = 8;

/// Everybody who wants frames.
#[derive(Debug, Default)]
pub struct Frames {
    viewers: [Option<Viewer>; VIEWERS],
}

#[derive(Clone, Copy, Debug)]
struct Viewer {
    peer: Peer,
    port: u16,
    /// Frames per second.
    rate: u16,
    /// Ticks between two.
    period: u64,
    due: u64,
    number: u64,
}

impl Frames {
    /// Hears a datagram that asks for frames: two bytes, how many a second, the most significant first. 0 ends it.
    /// Who has frames and asks again goes on with the next number. What asks for nothing, or finds no place, is
    /// passed over.
    pub fn hear(&mut self, station: &Station, frame: &[u8], now: u64, ticks_per_second: u64) {
        let Some((peer, port, rate)) = request(station, frame) else { return };
        let is_theirs = |viewer: &Option<Viewer>| {
            viewer.is_some_and(|viewer| (viewer.peer.ip, viewer.port) == (peer.ip, port))
        };
        let place = self.viewers.iter().position(is_theirs);
        let Some(place) = place.or_else(|| self.viewers.iter().position(Option::is_none)) else { return };
        let number = self.viewers[place].map_or(0, |viewer| viewer.number);
        self.viewers[place] = (rate > 0).then(|| {
            let period = ticks_per_second / u64::from(rate.min(FASTEST));
            Viewer { peer, port, rate, period, due: now, number }
        });
    }

    /// Writes the next frame that is due. Returns its length, or `None` if none is.
    ///
    /// A frame for whose time nobody was there, because the machine stood still, is not sent later: it is its viewer
    /// who missed it.
    pub fn next(&mut self, station: &Station, now: u64, out: &mut [u8; MAX_FRAME]) -> Option<usize> {
        // Also if the counter went far back.
        let is_due = |viewer: &&mut Viewer| viewer.due.wrapping_sub(now).wrapping_sub(1) >= viewer.period;
        let viewer = self.viewers.iter_mut().flatten().find(is_due)?;
        let next = viewer.due.wrapping_add(viewer.period);
        viewer.due =
            if now.wrapping_sub(viewer.due) < viewer.period { next } else { now.wrapping_add(viewer.period) };
        let (number, rate, port) = (viewer.number, viewer.rate, viewer.port);
        viewer.number += 1;
        Some(station.send(viewer.peer, PROTOCOL_UDP, UDP + FRAME, out, |datagram| {
            datagram.fill(0);
            datagram[..2].copy_from_slice(&PORT.to_be_bytes());
            datagram[2..4].copy_from_slice(&port.to_be_bytes());
            // No checksum, which UDP permits: there is nothing in it that is worth one.
            datagram[4..6].copy_from_slice(&((UDP + FRAME) as u16).to_be_bytes());
            datagram[UDP..UDP + 8].copy_from_slice(&number.to_be_bytes());
            datagram[UDP + 8..UDP + 10].copy_from_slice(&rate.to_be_bytes());
        }))
    }
}

fn request(station: &Station, frame: &[u8]) -> Option<(Peer, u16, u16)> {
    let packet = station.packet(frame)?;
    let datagram = packet.body;
    let number = |at: usize| Some(u16::from_be_bytes(datagram.get(at..at + 2)?.try_into().ok()?));
    let is_ours = packet.protocol == PROTOCOL_UDP && number(2)? == PORT && usize::from(number(4)?) == UDP + 2;
    let datagram = datagram.get(..UDP + 2)?;
    let is_whole = number(6)? == 0 || station.checksum(packet.from, PROTOCOL_UDP, datagram) == 0;
    (is_ours && is_whole).then_some((packet.from, number(0)?, number(UDP)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Station = Station { mac: [2, 0, 0, 0, 0, 1], ip: [10, 0, 0, 2] };
    const THEM: Station = Station { mac: [2, 0, 0, 0, 0, 9], ip: [10, 0, 0, 1] };
    const HZ: u64 = 1_000_000;

    fn ask(port: u16, rate: u16) -> Vec<u8> {
        let mut out = [0; MAX_FRAME];
        let us = Peer { mac: US.mac, ip: US.ip };
        let length = THEM.send(us, PROTOCOL_UDP, UDP + 2, &mut out, |datagram| {
            let words = [port, PORT, (UDP + 2) as u16, 0, rate];
            datagram.copy_from_slice(&words.map(u16::to_be_bytes).concat());
            let sum = THEM.checksum(us, PROTOCOL_UDP, datagram);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        });
        out[..length].to_vec()
    }

    /// Port and number of each frame until `end`, when somebody looks every 100 ticks.
    fn seen(frames: &mut Frames, times: core::ops::Range<u64>) -> Vec<(u16, u64)> {
        let mut out = [0; MAX_FRAME];
        let mut seen = Vec::new();
        for now in times.step_by(100) {
            while let Some(length) = frames.next(&US, now, &mut out) {
                assert_eq!((length, &out[..6]), (14 + 20 + UDP + FRAME, &THEM.mac[..]));
                let port = u16::from_be_bytes([out[36], out[37]]);
                seen.push((port, u64::from_be_bytes(out[42..50].try_into().unwrap())));
            }
        }
        seen
    }

    #[test]
    fn who_asks_gets_frames_at_the_rate_until_they_ask_for_none() {
        let mut frames = Frames::default();
        frames.hear(&US, &ask(1, 25), 0, HZ);
        frames.hear(&US, &ask(2, 60), 0, HZ);
        let all = seen(&mut frames, 0..HZ);
        let of = |port| all.iter().filter(|frame| frame.0 == port).map(|frame| frame.1).collect::<Vec<_>>();
        assert_eq!(of(1), (0..25).collect::<Vec<_>>());
        assert!((60..=61).contains(&of(2).len()), "{}", of(2).len());
        frames.hear(&US, &ask(1, 0), HZ, HZ);
        assert!(seen(&mut frames, HZ..2 * HZ).iter().all(|frame| frame.0 == 2));
    }

    #[test]
    fn a_machine_that_stood_still_sends_no_burst_afterwards() {
        let mut frames = Frames::default();
        frames.hear(&US, &ask(1, 25), 0, HZ);
        seen(&mut frames, 0..HZ);
        assert_eq!(seen(&mut frames, 5 * HZ..6 * HZ).len(), 25);
    }

    #[test]
    fn what_asks_for_nothing_changes_nothing() {
        let mut frames = Frames::default();
        let whole = ask(1, 25);
        for byte in 0..whole.len() {
            let mut wrong = whole.clone();
            // The sender's hardware address may be anybody's, and the target's is the card's business.
            if byte >= 12 {
                wrong[byte] ^= 1;
                frames.hear(&US, &wrong, 0, HZ);
            }
            frames.hear(&US, &whole[..byte], 0, HZ);
        }
        assert_eq!(seen(&mut frames, 0..HZ), []);
        for port in 0..10 {
            frames.hear(&US, &ask(port, 1), 0, HZ);
        }
        assert_eq!(seen(&mut frames, 0..1).len(), VIEWERS);
    }
}
