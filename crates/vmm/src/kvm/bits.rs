//! Sets of pages as the dirty logs take and return them.

use std::io;

/// That `bits` has a bit for each of `pages` pages from `first_page` on, of a block of `all`.
pub(super) fn check_range(all: u64, first_page: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
    let end = first_page.checked_add(pages).filter(|end| *end <= all);
    let end = end.ok_or_else(|| invalid("pages past the end of the block"))?;
    if !first_page.is_multiple_of(64) || !(pages.is_multiple_of(64) || end == all) {
        return Err(invalid("the range to clear is not on a multiple of 64 pages"));
    }
    if (bits.len() as u64) < pages.div_ceil(64) {
        return Err(invalid("fewer bits than pages to clear"));
    }
    Ok(())
}

/// A set of `pages` pages with every page in it, and nothing past the last one.
pub(super) fn all_pages(pages: u64) -> Vec<u64> {
    let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
    let mut bits = vec![u64::MAX; words];
    if let (Some(last), rest @ 1..) = (bits.last_mut(), pages % 64) {
        *last = (1 << rest) - 1;
    }
    bits
}

pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
