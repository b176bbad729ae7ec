use std::{io, net::UdpSocket, time::Duration};

use super::Watch;

/// The port of the workload guest that sends frames (`guests/workload`).
const PORT: u16 = 5000;
/// How long nobody looks whether it has ended.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// Silence after which it is asked again: the question, or the guest, may have been lost.
const ASK_AGAIN_MS: f64 = 1000.0;

/// Asks for so many frames a second. Returns when each came, and its number.
pub(super) fn watch(watch: &Watch, rate: u16) -> io::Result<Vec<[f64; 2]>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((watch.guest, PORT))?;
    socket.set_read_timeout(Some(LONGEST_WAIT))?;
    let mut frames = Vec::new();
    let mut heard = f64::NEG_INFINITY;
    let mut frame = [0; 2048];
    while !watch.has_ended() {
        if watch.ms() - heard > ASK_AGAIN_MS {
            // Who cannot be reached now is asked again.
            let _ = socket.send(&rate.to_be_bytes());
            heard = watch.ms();
        }
        let Ok(length) = socket.recv(&mut frame) else { continue };
        if let Some(number) = frame[..length].first_chunk() {
            heard = watch.ms();
            frames.push([heard, u64::from_be_bytes(*number) as f64]);
        }
    }
    // Who does not hear it sends to nobody.
    let _ = socket.send(&[0, 0]);
    Ok(frames)
}
