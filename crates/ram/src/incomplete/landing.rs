use std::{io, ops::Range, sync::Arc, sync::atomic::Ordering};

use super::{Incomplete, part::Kind};
use crate::{PAGE_SIZE, Segment, alias::Mapping};

/// Bytes that can be claimed at once by one [`Landing`]: 8 MiB.
pub const MAX_BYTES: usize = 8 << 20;
/// Runs that can be claimed at once by one [`Landing`].
pub const MAX_CLAIMS: usize = 4096;

/// Where one thread has pages arrive, a batch at a time: it claims every run, receives the bytes into the
/// segments, and settles. Dropping it gives back what was claimed and not settled.
#[derive(Debug)]
pub struct Landing {
    memory: Arc<Incomplete>,
    claimed: Vec<Claimed>,
    /// Bytes of what is claimed.
    bytes: usize,
    /// [`MAX_BYTES`] for pages of 4 KiB, made when the first of them is claimed.
    scratch: Option<Mapping>,
}

#[derive(Debug)]
struct Claimed {
    block: u16,
    pages: Range<u64>,
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Zeros,
    /// In the second mapping.
    InPlace,
    /// This many bytes into the scratch memory.
    Scratch(usize),
}

/// Why pages cannot be claimed. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// There are no such pages.
    #[error("There are no pages {first_page} to {first_page} + {pages} in block {block} of guest memory")]
    Outside {
        /// Index of the block.
        block: u16,
        /// The first page.
        first_page: u64,
        /// How many pages.
        pages: u32,
    },
    /// A page has come before, was never missing, or is being brought by somebody else.
    #[error(
        "Of {pages} pages from page {first_page} of block {block} on, one is not missing, or comes already"
    )]
    NotMissing {
        /// Index of the block.
        block: u16,
        /// The first page.
        first_page: u64,
        /// How many pages.
        pages: u32,
    },
    /// More than fits: [`MAX_BYTES`] and [`MAX_CLAIMS`]. It can be claimed after settling.
    #[error("More pages at once than the {} MiB or {MAX_CLAIMS} runs that may arrive together", MAX_BYTES >> 20)]
    TooMuch,
    /// There is no memory to receive into.
    #[error("No memory to receive pages into: free some on the host")]
    Scratch {
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory was released or abandoned.
    #[error("Guest memory takes no more pages: it was completed, or given up")]
    Over,
}

impl Incomplete {
    /// A place for pages to arrive; one for each thread that receives them.
    #[must_use]
    pub fn landing(self: &Arc<Self>) -> Landing {
        Landing { memory: self.clone(), claimed: Vec::new(), bytes: 0, scratch: None }
    }
}

impl Landing {
    /// Claims `pages` pages, each of which must be missing and claimed by nobody; at least one. Returns where
    /// their bytes go. The segment is valid, and nobody else's, until [`Self::settle`] or
    /// [`Self::give_back`], or until this is dropped.
    ///
    /// Two claims at the same time that overlap may both be refused: a page comes once.
    ///
    /// # Errors
    /// As [`ClaimError`] says; this claim has no effect then, and those before it stand.
    pub fn claim(&mut self, block: u16, first_page: u64, pages: u32) -> Result<Segment, ClaimError> {
        let bytes = usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(PAGE_SIZE);
        if bytes > MAX_BYTES - self.bytes {
            return Err(ClaimError::TooMuch);
        }
        let range = self.look(block, first_page, pages)?;
        let (content, segment) = self.place_for(block, &range, bytes)?;
        self.take(block, range, content)?;
        self.bytes += bytes;
        Ok(segment)
    }

    /// The same for pages that are zero, whose bytes are not sent.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn claim_zeros(&mut self, block: u16, first_page: u64, pages: u32) -> Result<(), ClaimError> {
        let range = self.look(block, first_page, pages)?;
        self.take(block, range, Content::Zeros)
    }

    /// The bytes of all that was claimed are in place: the machine may have them. Returns how many pages
    /// came.
    ///
    /// # Errors
    /// The kernel refuses, for lack of memory as a rule, or the memory was abandoned. Pages up to there have
    /// come, the rest stays claimed: settling can be tried again as long as bytes are in place, or they are
    /// given back.
    pub fn settle(&mut self) -> io::Result<u64> {
        let mut came = 0;
        let mut settled = 0;
        let mut result = Ok(());
        for claimed in &mut self.claimed {
            let (pages, outcome) = settle(&self.memory, self.scratch.as_ref(), claimed);
            self.memory.remaining.fetch_sub(pages, Ordering::AcqRel);
            came += pages;
            claimed.shorten(pages);
            settled += usize::from(claimed.pages.is_empty());
            if outcome.is_err() {
                result = outcome;
                break;
            }
        }
        self.claimed.drain(..settled);
        if self.claimed.is_empty() {
            self.bytes = 0;
        }
        result.map(|()| came)
    }

    /// What was claimed does not come after all: the pages are missing again, and can be claimed by anybody.
    /// What was received of them is seen by nobody.
    pub fn give_back(&mut self) {
        for claimed in self.claimed.drain(..) {
            let unclaimed = &self.memory.parts[usize::from(claimed.block)].unclaimed;
            unclaimed.insert_range(claimed.pages.start, claimed.pages.end - claimed.pages.start);
        }
        self.bytes = 0;
    }

    /// The pages, if they can be claimed at present.
    fn look(&self, block: u16, first_page: u64, pages: u32) -> Result<Range<u64>, ClaimError> {
        if self.memory.over.load(Ordering::Acquire) {
            return Err(ClaimError::Over);
        }
        if self.claimed.len() >= MAX_CLAIMS {
            return Err(ClaimError::TooMuch);
        }
        let part = self.memory.parts.get(usize::from(block));
        let end = first_page.checked_add(u64::from(pages));
        match (part, end) {
            (Some(part), Some(end)) if end <= part.memory.pages && pages > 0 => {
                match part.unclaimed.next_absent_within(first_page, end) {
                    None => Ok(first_page..end),
                    Some(_) => Err(ClaimError::NotMissing { block, first_page, pages }),
                }
            }
            _ => Err(ClaimError::Outside { block, first_page, pages }),
        }
    }

    fn place_for(
        &mut self,
        block: u16,
        pages: &Range<u64>,
        bytes: usize,
    ) -> Result<(Content, Segment), ClaimError> {
        let none = || ClaimError::Scratch { source: io::ErrorKind::OutOfMemory.into() };
        if let Kind::Huge(..) = self.memory.parts[usize::from(block)].kind {
            let segment = self.memory.alias.segment(block, pages.start, pages.end - pages.start);
            return Ok((Content::InPlace, segment.ok_or_else(none)?));
        }
        let scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => Mapping::anonymous(MAX_BYTES).map_err(|source| ClaimError::Scratch { source })?,
        };
        let segment = self.scratch.insert(scratch).segment(self.bytes, bytes);
        Ok((Content::Scratch(self.bytes), segment.ok_or_else(none)?))
    }

    fn take(&mut self, block: u16, pages: Range<u64>, content: Content) -> Result<(), ClaimError> {
        let unclaimed = &self.memory.parts[usize::from(block)].unclaimed;
        let count = pages.end - pages.start;
        let taken = unclaimed.take_run(pages.start, count);
        if taken < count {
            unclaimed.insert_range(pages.start, taken);
            return Err(ClaimError::NotMissing { block, first_page: pages.start, pages: count as u32 });
        }
        match self.claimed.last_mut() {
            Some(last) if last.block == block && last.pages.end == pages.start && last.joins(content) => {
                last.pages.end = pages.end;
            }
            _ => self.claimed.push(Claimed { block, pages, content }),
        }
        Ok(())
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Claimed {
    fn joins(&self, next: Content) -> bool {
        match (self.content, next) {
            (Content::Scratch(at), Content::Scratch(next)) => {
                at + (self.pages.end - self.pages.start) as usize * PAGE_SIZE == next
            }
            (own, next) => own == next,
        }
    }

    /// So many pages from the first on have come.
    fn shorten(&mut self, pages: u64) {
        self.pages.start += pages;
        if let Content::Scratch(at) = &mut self.content {
            *at += pages as usize * PAGE_SIZE;
        }
    }
}

/// Puts one run before the machine. Returns how many of its pages came, from the first on.
fn settle(memory: &Incomplete, scratch: Option<&Mapping>, claimed: &Claimed) -> (u64, io::Result<()>) {
    let part = &memory.parts[usize::from(claimed.block)];
    let pages = claimed.pages.clone();
    let from = match claimed.content {
        Content::Zeros => return part.land_zeros(&memory.userfault, &memory.alias, pages),
        Content::InPlace => None,
        Content::Scratch(at) => {
            let bytes = (pages.end - pages.start) as usize * PAGE_SIZE;
            scratch.and_then(|scratch| scratch.segment(at, bytes)).map(|segment| segment.address)
        }
    };
    // SAFETY: the scratch memory has as many bytes there, and belongs to the landing, which is borrowed.
    unsafe { part.land(&memory.userfault, pages, from) }
}
