//! Fills memory, writes to it all the time, and checks every page before it writes it anew.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Every, ToolError, mix, say};

const USAGE: &str = "memory MIB MIB_PER_SECOND";
/// Words of a page.
pub(super) const PAGE_WORDS: usize = 4096 / 8;
/// Pages between two looks at the time.
const STRIDE: usize = 64;

/// Runs until it is killed or finds a page that is not what it wrote.
pub(crate) fn run(words: &[&str]) -> Result<(), ToolError> {
    let [mib, rate] = words else { return Err(ToolError::Usage(USAGE)) };
    let mib: usize = mib.parse().map_err(|_| ToolError::Usage(USAGE))?;
    let rate: Option<f64> = rate.parse().ok().filter(|rate| (0.001..=1e6).contains(rate));
    let pages_per_second = rate.ok_or(ToolError::Usage(USAGE))? * 256.0;
    let pages = mib << 20 >> 12;
    let mut memory = vec![0u64; pages * PAGE_WORDS];
    let mut generations = vec![0u32; pages];
    for (index, page) in memory.chunks_exact_mut(PAGE_WORDS).enumerate() {
        fill(page, index, 0);
    }
    say("filled=1")?;
    let mut report = Every::new(Duration::from_millis(500));
    let start = Instant::now();
    let mut written = 0u64;
    loop {
        for _ in 0..STRIDE {
            let index = (mix(written) % pages as u64) as usize;
            let page = &mut memory[index * PAGE_WORDS..][..PAGE_WORDS];
            check(page, index, generations[index])?;
            generations[index] = generations[index].wrapping_add(1);
            fill(page, index, generations[index]);
            written += 1;
        }
        if report.is_due() {
            say(&format!("pages={written}"))?;
        }
        let due = Duration::from_secs_f64(written as f64 / pages_per_second);
        thread::sleep(due.saturating_sub(start.elapsed()).min(Duration::from_millis(100)));
    }
}

pub(super) fn fill(page: &mut [u64], index: usize, generation: u32) {
    let seed = seed(index, generation);
    for (offset, word) in (0u64..).zip(page) {
        *word = seed.wrapping_add(offset);
    }
}

pub(super) fn check(page: &[u64], index: usize, generation: u32) -> Result<(), ToolError> {
    let seed = seed(index, generation);
    let wrong = (0u64..).zip(page).find(|(offset, word)| **word != seed.wrapping_add(*offset));
    wrong.map_or(Ok(()), |(offset, word)| {
        let what = format!(
            "Word {offset} of page {index} is {word:#x} instead of {:#x}, generation {generation}",
            seed.wrapping_add(offset)
        );
        Err(ToolError::Wrong(what))
    })
}

fn seed(index: usize, generation: u32) -> u64 {
    mix((index as u64) << 32 | u64::from(generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_place_or_time_is_found() {
        let mut page = vec![0; PAGE_WORDS];
        fill(&mut page, 7, 3);
        assert!(check(&page, 7, 3).is_ok());
        assert!(check(&page, 7, 2).is_err());
        assert!(check(&page, 6, 3).is_err());
        page[511] ^= 1;
        assert!(check(&page, 7, 3).is_err());
    }
}
