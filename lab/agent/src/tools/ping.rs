//! Pings at a fixed pace, and says how many answers are missing and how long none came.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket},
};

use super::{Every, ToolError, say};

const USAGE: &str = "ping ADDRESS PERIOD_MS";
/// Type of an echo reply and of an echo request (RFC 792).
const REPLY: u8 = 0;
const REQUEST: u8 = 8;
/// Bytes of an echo header.
const HEADER: usize = 8;

/// Pings until it is killed. Answers that come late are not lost.
pub(crate) fn run(words: &[&str]) -> Result<(), ToolError> {
    let [address, period] = words else { return Err(ToolError::Usage(USAGE)) };
    let address: Ipv4Addr = address.parse().map_err(|_| ToolError::Usage(USAGE))?;
    let period = Duration::from_millis(period.parse().map_err(|_| ToolError::Usage(USAGE))?);
    let socket =
        socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).map_err(std::io::Error::from)?;
    let identity = std::process::id() as u16;
    let sent = Arc::new(AtomicU64::new(0));
    let sending = sent.clone();
    let to = socket.try_clone()?;
    thread::spawn(move || {
        let start = Instant::now();
        for number in 1u64.. {
            // A send that fails is a request that is not answered, which is counted.
            let _ = sendto(
                to.as_fd(),
                &request(identity, number),
                SendFlags::empty(),
                &SocketAddrV4::new(address, 0),
            );
            sending.store(number, Ordering::Relaxed);
            let due = period.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    });
    count(&socket, identity, &sent)
}

fn count(socket: &impl AsFd, identity: u16, sent: &AtomicU64) -> Result<(), ToolError> {
    let (mut received, mut highest, mut longest) = (0u64, 0u64, Duration::ZERO);
    let (mut report, mut last) = (Every::new(Duration::from_millis(100)), Instant::now());
    let mut buffer = [0; 256];
    loop {
        let length = match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) => length,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(std::io::Error::from(error).into()),
        };
        let Some(number) = reply(&buffer[..length], identity) else { continue };
        received += 1;
        highest = highest.max(number);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if report.is_due() {
            let missing = highest.saturating_sub(received);
            say(&format!(
                "sent={} received={received} missing={missing} longest_gap_ms={}",
                sent.load(Ordering::Relaxed),
                longest.as_millis()
            ))?;
        }
    }
}

/// An echo request with the number in its data, since the sequence in its header is of 16 bits.
fn request(identity: u16, number: u64) -> Vec<u8> {
    let mut packet = vec![REQUEST, 0, 0, 0];
    packet.extend(identity.to_be_bytes());
    packet.extend((number as u16).to_be_bytes());
    packet.extend(number.to_be_bytes());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The number in a reply to one of our requests. A raw socket hands out the IP header too.
fn reply(packet: &[u8], identity: u16) -> Option<u64> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let echo = packet.get(header..)?;
    let ours = *echo.first()? == REPLY && echo.get(4..6)? == identity.to_be_bytes();
    let number = echo.get(HEADER..HEADER + 8)?.try_into().ok()?;
    ours.then_some(u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_adds_up_and_its_reply_is_known() {
        let packet = request(0xabcd, 70_000);
        let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        let mut answer = vec![0x45; 20];
        answer.extend(&packet);
        answer[20] = REPLY;
        assert_eq!(reply(&answer, 0xabcd), Some(70_000));
        assert_eq!(reply(&answer, 1), None);
        assert_eq!(reply(&answer[..24], 0xabcd), None);
    }
}
