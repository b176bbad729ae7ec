use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};

use super::skipped;

/// Size of the pool of 2 MiB pages; the kernel's documentation of hugetlbpage.
const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages that are free for a test, which has them to itself among the tests of this kind: those that run at the same time would take
/// each other's. What was added to the pool is taken off again in the end.
pub(crate) struct HugePages {
    added: u64,
    _turn: File,
}

impl HugePages {
    /// Has that many free pages, or none and a loud word.
    pub(crate) fn reserve(pages: u64) -> Option<Self> {
        // It stays: who removes it would let in others beside somebody who waits for it.
        let path = std::env::temp_dir().join("whimbrel-huge-pages.lock");
        let Ok(turn) = File::options().create(true).truncate(false).write(true).open(&path) else {
            skipped(&format!("{} is another user's: remove it", path.display()));
            return None;
        };
        flock(&turn, FlockOperation::LockExclusive).unwrap();
        let missing = pages.saturating_sub(free());
        let reserved = Self { added: missing, _turn: turn };
        if missing > 0 && resize(|pool| pool + missing).is_none() {
            skipped("the pool of huge pages cannot be enlarged here");
            return None;
        }
        if free() < pages {
            skipped(&format!("there are not {pages} free huge pages, and no more can be had"));
            return None;
        }
        Some(reserved)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if self.added > 0 {
            // Should it fail, the pool stays larger than it was, which harms nobody.
            let _ = resize(|pool| pool.saturating_sub(self.added));
        }
    }
}

fn resize(size: impl FnOnce(u64) -> u64) -> Option<()> {
    let pool = fs::read_to_string(POOL).ok()?.trim().parse().ok()?;
    fs::write(POOL, size(pool).to_string()).ok()
}

/// Pages that nobody has, nor was promised.
fn free() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let count = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    };
    count("HugePages_Free:").saturating_sub(count("HugePages_Rsvd:"))
}
