#![expect(unsafe_code, reason = "what was received is read by its address")]

use std::{io, ops::Range, slice, sync::Arc};

use crate::{PAGE_SIZE, Placer, Segment, alias::Mapping};

/// Bytes that are held at most before they are written: little enough to stay in a processor's cache.
const HELD_BYTES: usize = 256 << 10;

/// Where one thread has pages of a machine arrive that does not run yet.
///
/// Most of them are received straight into guest memory. A page of a memfd that the memfd does not have yet is received into memory of
/// the thread's own, and [put](crate::Placer::put) into it from there: a copy more, and still half of the time, since nothing faults and the kernel makes no page
/// zero.
#[derive(Debug)]
pub struct Intake {
    placer: Arc<Placer>,
    /// [`HELD_BYTES`], made when it is needed first.
    held: Option<Mapping>,
    /// What lies in it, one after the other.
    pages: Vec<(u16, Range<u64>)>,
    bytes: usize,
}

impl Intake {
    /// For pages that `placer` has places for.
    #[must_use]
    pub fn new(placer: Arc<Placer>) -> Self {
        Self { placer, held: None, pages: Vec::new(), bytes: 0 }
    }

    /// Who knows what has come.
    #[must_use]
    pub fn placer(&self) -> &Placer {
        &self.placer
    }

    /// Where the first of the `pages` pages from `first_page` of `block` on are to be received, and how many of them. `None` if there
    /// is no such block, or the pages are not all in it. With no page at all, there is no room before [`Self::settle`].
    ///
    /// The segment is valid as long as this lives, and nobody else's until [`Self::settle`].
    ///
    /// # Errors
    /// The host has no memory to receive into.
    pub fn place(&mut self, block: u16, first_page: u64, pages: u32) -> io::Result<Option<(Segment, u32)>> {
        let Some((fresh, alike)) = self.placer.alike(block, first_page, pages) else { return Ok(None) };
        if !fresh {
            return Ok(self.placer.place(block, first_page, alike).map(|segment| (segment, alike)));
        }
        let room = ((HELD_BYTES - self.bytes) / PAGE_SIZE) as u32;
        let pages = alike.min(room);
        let held = match self.held.take() {
            Some(held) => held,
            None => Mapping::anonymous(HELD_BYTES)?,
        };
        let bytes = pages as usize * PAGE_SIZE;
        let segment = self.held.insert(held).segment(self.bytes, bytes);
        if pages > 0 {
            self.pages.push((block, first_page..first_page + u64::from(pages)));
            self.bytes += bytes;
        }
        Ok(segment.map(|segment| (segment, pages)))
    }

    /// All that was placed has been received.
    ///
    /// # Errors
    /// The host has no memory for it.
    pub fn settle(&mut self) -> io::Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        let mut at = 0;
        for (block, pages) in self.pages.drain(..) {
            let bytes = (pages.end - pages.start) as usize * PAGE_SIZE;
            let segment = held.segment(at, bytes).ok_or(io::ErrorKind::InvalidInput)?;
            // SAFETY: the segment is memory of our own, as long as it says, and nobody writes it: `&mut self` is held, and who received into
            // it is done.
            let bytes_of = unsafe { slice::from_raw_parts(segment.address.as_ptr(), segment.bytes) };
            self.placer.put(block, pages.start, bytes_of)?.ok_or(io::ErrorKind::InvalidInput)?;
            at += bytes;
        }
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::{Backing, BlockLayout, Ram, Userfaultfd};

    const PAGES: u64 = 200;

    /// Receives the pages as a channel does, each of them all `byte`.
    fn arrive(intake: &mut Intake, first_page: u64, pages: u32, byte: u8) {
        let (mut page, mut rest, mut segments) = (first_page, pages, Vec::<Segment>::new());
        let fill = |segments: &mut Vec<Segment>| {
            for segment in segments.drain(..) {
                // SAFETY: the segment was placed for us, and is not settled yet.
                unsafe { segment.address.as_ptr().write_bytes(byte, segment.bytes) };
            }
        };
        while rest > 0 {
            let (segment, placed) = intake.place(0, page, rest).unwrap().unwrap();
            if placed == 0 {
                fill(&mut segments);
                intake.settle().unwrap();
                continue;
            }
            segments.push(segment);
            (page, rest) = (page + u64::from(placed), rest - placed);
        }
        fill(&mut segments);
        intake.settle().unwrap();
    }

    #[test]
    fn pages_come_for_the_first_time_again_and_mixed_and_are_where_they_belong() {
        for (backing, makes) in [(Backing::Anonymous, false), (Backing::Memfd, false), (Backing::Memfd, true)]
        {
            let maker = if makes { Userfaultfd::open().ok() } else { None };
            if makes && maker.is_none() {
                eprintln!("SKIPPED: there is no userfaultfd here");
                continue;
            }
            let layout =
                BlockLayout { name: "ram".into(), guest_address: 0, bytes: PAGES * PAGE_SIZE as u64 };
            let ram = Ram::allocate(&[layout], backing).unwrap();
            let mut intake = Intake::new(Arc::new(Placer::new(ram.clone(), maker)));
            // More than is held at once; then fresh pages before, between and behind pages that came.
            for (first_page, pages, byte) in [(20, 150, 1), (60, 3, 2), (10, 30, 3), (165, 30, 4)] {
                arrive(&mut intake, first_page, pages, byte);
            }
            let expected = |page: u64| match page {
                10..40 => 3,
                60..63 => 2,
                165..195 => 4,
                40..165 => 1,
                _ => 0,
            };
            intake.placer().release().unwrap();
            for page in 0..PAGES {
                for byte in [0, PAGE_SIZE as u64 - 1] {
                    let found: u8 =
                        ram.memory().read_obj(GuestAddress(page * PAGE_SIZE as u64 + byte)).unwrap();
                    assert_eq!(found, expected(page), "page {page} of {backing:?}");
                }
            }
            assert!(intake.place(0, PAGES - 1, 2).unwrap().is_none());
            assert!(intake.place(1, 0, 1).unwrap().is_none());
        }
    }

    #[test]
    fn threads_that_bring_the_same_pages_do_not_wait_for_what_does_not_come() {
        let Ok(maker) = Userfaultfd::open() else {
            return eprintln!("SKIPPED: there is no userfaultfd here");
        };
        let layout =
            BlockLayout { name: "ram".into(), guest_address: 0, bytes: 32 * PAGES * PAGE_SIZE as u64 };
        let ram = Ram::allocate(&[layout], Backing::Memfd).unwrap();
        let placer = Arc::new(Placer::new(ram.clone(), Some(maker)));
        std::thread::scope(|scope| {
            for byte in [1, 2, 3] {
                let mut intake = Intake::new(placer.clone());
                scope.spawn(move || {
                    for first in (0..32 * PAGES).step_by(20) {
                        arrive(&mut intake, first, 20, byte);
                        assert!(intake.placer().place_zeros(0, first, 1).is_some());
                    }
                });
            }
        });
        placer.release().unwrap();
        for page in 0..32 * PAGES {
            let found: u8 = ram.memory().read_obj(GuestAddress(page * PAGE_SIZE as u64)).unwrap();
            assert!(found <= 3);
        }
    }
}
