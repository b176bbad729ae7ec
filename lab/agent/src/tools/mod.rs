//! Loads and checks. Each prints a line of `name=number` words whenever there is news, and fails when something is wrong.

pub(crate) mod clock;
pub(crate) mod disk;
pub(crate) mod film;
pub(crate) mod keys;
pub(crate) mod memory;
pub(crate) mod ping;
pub(crate) mod speed;
pub(crate) mod stream;

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

/// What went wrong, in a sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The arguments are not understood.
    #[error("Usage: {0}")]
    Usage(&'static str),
    /// Something is not what it must be.
    #[error("{0}")]
    Wrong(String),
    /// The system refused something.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Prints a line, now.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Says that something is due at most so often.
struct Every {
    period: Duration,
    last: Instant,
}

impl Every {
    fn new(period: Duration) -> Self {
        Self { period, last: Instant::now() }
    }

    fn is_due(&mut self) -> bool {
        let due = self.last.elapsed() >= self.period;
        if due {
            self.last = Instant::now();
        }
        due
    }
}

/// Numbers that look random and are the same each time (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
fn mix(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
