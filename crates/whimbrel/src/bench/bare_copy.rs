use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{cpu::process_time, huge_memory::HugeMemory};
use crate::rig::{ByteRate, Span};

/// What it takes to copy as many bytes as a guest has over loopback and do nothing else: the limit that the host sets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct BareCopy {
    /// Into huge pages that nobody has touched, as those of a fresh destination.
    pub(super) fresh: Copied,
    /// Into the same pages again.
    pub(super) touched: Copied,
}

/// One such copy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Copied {
    pub(super) seconds: f64,
    /// Of both ends together.
    pub(super) cpu_seconds: f64,
    pub(super) bytes_per_second: f64,
}

/// As much as goes into one system call.
const PIECE: usize = 1 << 20;

impl BareCopy {
    /// Copies `bytes` from huge pages to huge pages with `streams` TCP connections, twice.
    pub(super) fn measure(bytes: u64, streams: u8) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let mut source = HugeMemory::new(bytes)?;
        // Touched, and not zero: neither the kernel nor the cache may make it cheaper than a guest's memory.
        for (index, page) in source.as_mut_slice().chunks_mut(4096).enumerate() {
            page.fill(index as u8 | 1);
        }
        let mut destination = HugeMemory::new(bytes)?;
        let fresh = copy(&mut source, &mut destination, streams)?;
        let touched = copy(&mut source, &mut destination, streams)?;
        Ok(Self { fresh, touched })
    }
}

fn copy(source: &mut HugeMemory, destination: &mut HugeMemory, streams: u8) -> io::Result<Copied> {
    let pairs = (0..streams).map(|_| pair()).collect::<io::Result<Vec<_>>>()?;
    let (source, destination) = (source.as_mut_slice(), destination.as_mut_slice());
    let bytes = source.len();
    let share = bytes.div_ceil(usize::from(streams)).next_multiple_of(PIECE);
    let parts = source.chunks(share).zip(destination.chunks_mut(share));
    let cpu = || process_time(std::process::id()).unwrap_or_default();
    let (begun, cpu_before) = (Instant::now(), cpu());
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for ((mut sender, mut receiver), (from, to)) in pairs.into_iter().zip(parts) {
            threads
                .push(scope.spawn(move || from.chunks(PIECE).try_for_each(|piece| sender.write_all(piece))));
            threads.push(
                scope.spawn(move || to.chunks_mut(PIECE).try_for_each(|piece| receiver.read_exact(piece))),
            );
        }
        let outcomes = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())));
        outcomes.collect::<io::Result<()>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_seconds = cpu().saturating_sub(cpu_before).as_secs_f64();
    Ok(Copied { seconds, cpu_seconds, bytes_per_second: bytes as f64 / seconds })
}

fn panicked() -> io::Error {
    io::Error::other("a thread that copies has panicked")
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let sender = TcpStream::connect(listener.local_addr()?)?;
    Ok((sender, listener.accept()?.0))
}

impl fmt::Display for BareCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |copied: Copied| Span(Duration::from_secs_f64(copied.seconds));
        let rate = |copied: Copied| ByteRate(copied.bytes_per_second as u64);
        write!(
            f,
            "{:>7} ({}, CPU {:.2} s) into fresh memory, {} ({}, CPU {:.2} s) into touched",
            time(self.fresh),
            rate(self.fresh),
            self.fresh.cpu_seconds,
            time(self.touched),
            rate(self.touched),
            self.touched.cpu_seconds
        )
    }
}
