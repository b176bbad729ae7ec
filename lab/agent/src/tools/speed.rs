//! How fast this machine is.

use std::time::{Duration, Instant};

use super::{
    ToolError,
    memory::{PAGE_WORDS, check, fill},
    say,
};

const USAGE: &str = "speed";
/// Memory that is worked on.
const PAGES: usize = 1024;
/// How long. Shorter, and a single pause of this machine would be what is measured.
const WHILE: Duration = Duration::from_secs(1);

/// Writes and checks pages for a second, and says how many it were.
pub(crate) fn run(words: &[&str]) -> Result<(), ToolError> {
    if !words.is_empty() {
        return Err(ToolError::Usage(USAGE));
    }
    let mut memory = vec![0u64; PAGES * PAGE_WORDS];
    let (start, mut pages) = (Instant::now(), 0u32);
    for generation in 0.. {
        for (index, page) in memory.chunks_exact_mut(PAGE_WORDS).enumerate() {
            fill(page, index, generation);
            check(page, index, generation)?;
        }
        pages += PAGES as u32;
        if start.elapsed() >= WHILE {
            break;
        }
    }
    Ok(say(&format!("pages_per_second={:.0}", f64::from(pages) / start.elapsed().as_secs_f64()))?)
}
