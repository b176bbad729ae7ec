//! A TCP stream that must stay open and arrive byte for byte: one end echoes, the other compares.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{Every, ToolError, mix, say};

const USAGE: &str = "stream echo ADDRESS | stream check ADDRESS KIB_PER_SECOND";
/// Bytes sent at once.
const PIECE: usize = 4096;
/// Longer than any pause that is allowed: a stream that stands still is an error then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until it is killed or the stream breaks.
pub(crate) fn run(words: &[&str]) -> Result<(), ToolError> {
    match words {
        ["echo", address] => echo(address),
        ["check", address, rate] => check(address, rate.parse().map_err(|_| ToolError::Usage(USAGE))?),
        _ => Err(ToolError::Usage(USAGE)),
    }
}

fn echo(address: &str) -> Result<(), ToolError> {
    for stream in TcpListener::bind(address)?.incoming() {
        let (mut from, mut to) = {
            let stream = stream?;
            (stream.try_clone()?, stream)
        };
        // The end of a connection is no business of the next.
        thread::spawn(move || io::copy(&mut from, &mut to));
    }
    Ok(())
}

/// Sends what looks random, and compares what comes back.
fn check(address: &str, kib_per_second: u64) -> Result<(), ToolError> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let to = stream.try_clone()?;
    thread::spawn(move || send(to, kib_per_second));
    let (mut buffer, mut received) = (vec![0; PIECE], 0u64);
    let (mut report, mut last, mut longest) =
        (Every::new(Duration::from_millis(100)), Instant::now(), Duration::ZERO);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(ToolError::Wrong(format!("The stream was closed after {received} bytes")));
        }
        longest = longest.max(last.elapsed());
        last = Instant::now();
        for byte in &buffer[..count] {
            if *byte != byte_at(received) {
                return Err(ToolError::Wrong(format!("Byte {received} of the stream is not what was sent")));
            }
            received += 1;
        }
        if report.is_due() {
            say(&format!("bytes={received} longest_gap_ms={}", longest.as_millis()))?;
        }
    }
}

/// Sends at the rate. The other end notices when this one cannot.
fn send(mut to: TcpStream, kib_per_second: u64) -> io::Result<()> {
    let (start, mut sent) = (Instant::now(), 0u64);
    loop {
        let piece: Vec<u8> = (sent..sent + PIECE as u64).map(byte_at).collect();
        to.write_all(&piece)?;
        sent += PIECE as u64;
        let due = Duration::from_millis(sent * 1000 / (kib_per_second.max(1) << 10));
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
}

fn byte_at(position: u64) -> u8 {
    mix(position / 8).to_le_bytes()[(position % 8) as usize]
}
