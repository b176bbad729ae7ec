//! Clocks: whether they ever go back, and how far two machines' are apart.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::{Every, ToolError, say};

const USAGE: &str = "clock watch ADDRESS | clock compare ADDRESS | clock step MICROSECONDS";
/// Times that another machine's clock is read. The quickest answer counts.
const SAMPLES: usize = 20;

/// Watches this machine's clocks until killed, or compares or moves them.
pub(crate) fn run(words: &[&str]) -> Result<(), ToolError> {
    match words {
        ["watch", address] => watch(address),
        ["compare", address] => compare(address),
        ["step", us] => step(us.parse().map_err(|_| ToolError::Usage(USAGE))?),
        _ => Err(ToolError::Usage(USAGE)),
    }
}

/// Reads the clocks all the time, and tells the wall clock to whoever asks.
fn watch(address: &str) -> Result<(), ToolError> {
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| {
            thread::spawn(move || tell(stream));
        });
    });
    let (mut report, mut longest) = (Every::new(Duration::from_millis(100)), 0);
    let (mut monotonic, mut wall) = (read(ClockId::Monotonic), read(ClockId::Realtime));
    let (mut monotonic_back, mut wall_back) = (0u64, 0u64);
    loop {
        let (next, next_wall) = (read(ClockId::Monotonic), read(ClockId::Realtime));
        monotonic_back += u64::from(next < monotonic);
        wall_back += u64::from(next_wall < wall);
        longest = longest.max(next - monotonic);
        (monotonic, wall) = (next, next_wall);
        if report.is_due() {
            say(&format!(
                "monotonic_ns={monotonic} wall_ns={wall} monotonic_back={monotonic_back} wall_back={wall_back} longest_ms={}",
                longest / 1_000_000
            ))?;
        }
        thread::sleep(Duration::from_micros(500));
    }
}

fn tell(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    while stream.read(&mut [0])? == 1 {
        stream.write_all(&now_ns().to_le_bytes())?;
    }
    Ok(())
}

/// Says how far the other machine's wall clock is ahead of this one's, and how long the answer took.
fn compare(address: &str) -> Result<(), ToolError> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut best: Option<(Duration, i128)> = None;
    for _ in 0..SAMPLES {
        let (before, start, mut answer) = (now_ns(), Instant::now(), [0; 8]);
        stream.write_all(&[0])?;
        stream.read_exact(&mut answer)?;
        let took = start.elapsed();
        let middle = i128::from(before) + took.as_nanos() as i128 / 2;
        let ahead = i128::from(u64::from_le_bytes(answer)) - middle;
        if best.is_none_or(|(shortest, _)| took < shortest) {
            best = Some((took, ahead));
        }
    }
    let (took, ahead) = best.unwrap_or_default();
    Ok(say(&format!("ahead_us={} round_trip_us={}", ahead / 1000, took.as_micros()))?)
}

/// Moves the wall clock by that much.
fn step(us: i64) -> Result<(), ToolError> {
    let now = read(ClockId::Realtime) + us * 1000;
    let time = Timespec { tv_sec: now.div_euclid(1_000_000_000), tv_nsec: now.rem_euclid(1_000_000_000) };
    Ok(clock_settime(ClockId::Realtime, time).map_err(std::io::Error::from)?)
}

fn read(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}
