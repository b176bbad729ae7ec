use std::{fs, io};

use super::procfs::{available_memory, free_huge_pages, huge_page_bytes};

/// Bytes of the huge pages that back guest memory.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// The host's pool of huge pages of the default size (Documentation/admin-guide/mm/hugetlbpage.rst).
const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// What the host keeps for itself when pages are taken from it.
const MARGIN: u64 = 512 << 20;

/// Huge pages that are there to be used. Those that were added to the pool are given back when this is dropped, which must be
/// after the processes that use them have ended.
#[derive(Debug)]
pub(crate) struct HugePages {
    added: u64,
}

impl HugePages {
    /// Sees to it that `bytes` of free huge pages are there: adds to the pool what is missing, which takes root. `None` if
    /// they cannot be had.
    pub(crate) fn reserve(bytes: u64) -> io::Result<Option<Self>> {
        if huge_page_bytes()? != HUGE_PAGE {
            return Ok(None);
        }
        let wanted = bytes.div_ceil(HUGE_PAGE);
        let missing = wanted.saturating_sub(free_huge_pages()?);
        if missing == 0 {
            return Ok(Some(Self { added: 0 }));
        }
        if available_memory()? < missing * HUGE_PAGE + MARGIN {
            return Ok(None);
        }
        let before = pool()?;
        if fs::write(POOL, (before + missing).to_string()).is_err() {
            return Ok(None);
        }
        // The kernel adds as many as it finds, and does not complain. Dropping this gives back what there is.
        let pages = Self { added: pool()?.saturating_sub(before) };
        Ok(Some(pages).filter(|_| free_huge_pages().is_ok_and(|free| free >= wanted)))
    }

    /// Bytes that were added to the pool, and will be taken off it.
    pub(crate) fn added_bytes(&self) -> u64 {
        self.added * HUGE_PAGE
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if self.added == 0 {
            return;
        }
        // Others may have changed the pool meanwhile: only what is ours is taken off.
        let outcome = pool().and_then(|now| fs::write(POOL, now.saturating_sub(self.added).to_string()));
        if let Err(error) = outcome {
            output::complain!("whimbrel: Cannot give {} huge pages back ({error}): see {POOL}", self.added);
        }
    }
}

fn pool() -> io::Result<u64> {
    let text = fs::read_to_string(POOL)?;
    text.trim().parse().map_err(|_| io::Error::other(format!("{POOL} does not contain a number")))
}
