use std::{
    io::{self, ErrorKind, Write},
    net::TcpStream,
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_send_buffer_size;

use super::Watch;

/// The port of the workload guest that takes everything (RFC 863).
const PORT: u16 = 9;
/// Bytes each millisecond: a film that is uploaded.
const RATE: f64 = 800.0;
/// What the kernel keeps for us at most, in bytes.
const BUFFER: usize = 16 << 10;
/// How often something is sent.
const EVERY: Duration = Duration::from_millis(5);
/// What a guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends bytes at an even rate. Returns how many the guest had acknowledged when.
pub(super) fn send(watch: &Watch) -> io::Result<Vec<[f64; 2]>> {
    let mut counted = Vec::new();
    let mut stream = loop {
        match TcpStream::connect_timeout(&(watch.guest, PORT).into(), PATIENCE) {
            Ok(stream) => break stream,
            Err(_) if watch.has_ended() => return Ok(counted),
            Err(_) => thread::sleep(LOST),
        }
    };
    set_socket_send_buffer_size(&stream, BUFFER)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let bytes = [0x5a; BUFFER];
    let (begun, mut sent) = (watch.ms(), 0.0);
    while !watch.has_ended() {
        let due = ((watch.ms() - begun) * RATE - sent).clamp(0.0, BUFFER as f64) as usize;
        match stream.write(&bytes[..due]) {
            Ok(count) => sent += count as f64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // It has ended for its user: nothing is taken from here on.
            Err(_) => {}
        }
        let on_their_way = transport::unacknowledged(stream.as_fd())?;
        counted.push([watch.ms(), sent - f64::from(on_their_way)]);
        thread::sleep(EVERY);
    }
    Ok(counted)
}

/// Pause before another attempt to connect.
const LOST: Duration = Duration::from_millis(50);
