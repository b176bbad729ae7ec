//! One block of memory of which pages are missing: how pages are put before the machine, by what the memory
//! is made of.
#![expect(unsafe_code, reason = "pages are copied, and made zero, by their addresses")]

use std::{
    io,
    ops::Range,
    ptr::NonNull,
    slice,
    sync::atomic::{Ordering, fence},
    thread,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use vm_memory::FileOffset;

use crate::{
    PAGE_SIZE, PageSet, Segment,
    alias::Alias,
    userfault::{Progress, Userfaultfd},
    written,
};

/// Pages that are mapped together when one of them is touched: 2 MiB.
const WINDOW: u64 = (2 << 20) / PAGE_SIZE as u64;
/// Pages of anonymous memory that become zero together when one of them, which has no contents, is touched:
/// 64 KiB.
const ZERO_WINDOW: u64 = 16;
/// How often a call is tried again that the kernel could not do just then.
const TRIES: u32 = 10_000;

/// What the memory is made of.
#[derive(Debug)]
pub(super) enum Kind {
    /// Private memory. A page that is missing does not exist, and is made with its contents at once.
    Anonymous,
    /// A shared file in memory, of 4 KiB pages. A page is made with its contents, or written to the file and mapped
    /// then.
    Shmem(FileOffset),
    /// The same, of huge pages of so many pages of 4 KiB, each mapped when all of it is here.
    Huge(FileOffset, u64),
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) index: u16,
    /// The whole block, where the guest sees it.
    pub(super) memory: Block,
    pub(super) kind: Kind,
    /// Not here yet.
    pub(super) missing: PageSet,
    /// Not here, and nobody has said that it would bring them.
    pub(super) unclaimed: PageSet,
    /// Not here, and a thread waits for them.
    pub(super) awaited: PageSet,
    /// What is registered with the userfaultfd, in ascending order.
    pub(super) armed: Vec<Range<u64>>,
}

/// A block's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) address: NonNull<u8>,
    pub(super) pages: u64,
}

// SAFETY: an address and a length; it is reached by system calls, which expect that others use it.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// The pages, which are in the block.
    pub(super) fn segment(&self, pages: &Range<u64>) -> Segment {
        debug_assert!(pages.start <= pages.end && pages.end <= self.pages);
        let (offset, bytes) =
            (pages.start as usize * PAGE_SIZE, (pages.end - pages.start) as usize * PAGE_SIZE);
        // SAFETY: whoever asks has the pages from a set of this block, or checked them against its size.
        Segment { address: unsafe { self.address.add(offset) }, bytes }
    }
}

/// A call that goes through pages.
enum Call {
    Copy(NonNull<u8>),
    Zero,
    Map,
}

impl Kind {
    /// Pages of 4 KiB in a page of the host.
    pub(super) fn host_page(&self) -> u64 {
        match self {
            Self::Anonymous | Self::Shmem(_) => 1,
            Self::Huge(_, pages) => *pages,
        }
    }
}

impl Part {
    /// Which page of the block is at `address`, if any.
    pub(super) fn page_at(&self, address: usize) -> Option<u64> {
        let page = (address.checked_sub(self.memory.address.as_ptr().addr())? / PAGE_SIZE) as u64;
        (page < self.memory.pages).then_some(page)
    }

    /// Nothing is missing any more.
    pub(super) fn forget(&self) {
        for set in [&self.missing, &self.unclaimed, &self.awaited] {
            set.remove_range(0, self.memory.pages);
        }
    }

    /// None of the host's pages that these are in lacks anything.
    pub(super) fn is_here(&self, pages: &Range<u64>) -> bool {
        if pages.is_empty() {
            return true;
        }
        let (first, last) = (self.host_page_of(pages.start), self.host_page_of(pages.end - 1));
        self.missing.next_within(first.start, last.end).is_none()
    }

    /// The page of the host that `page` is in, if some of it is missing: first page and number of pages. It
    /// counts as awaited then.
    pub(super) fn awaits(&self, page: u64) -> Option<(u64, u32)> {
        let host = self.host_page_of(page);
        let pages = host.end - host.start;
        // Before the look, so that whoever brings a page after it takes it out again.
        self.awaited.insert_range(host.start, pages);
        fence(Ordering::SeqCst);
        let mut page = host.start;
        let mut is_here = true;
        while let Some(first) = self.missing.next_absent_within(page, host.end) {
            is_here &= first == page;
            page = self.missing.next_within(first, host.end).unwrap_or(host.end);
            self.awaited.remove_range(first, page - first);
        }
        (!is_here || page < host.end).then_some((host.start, pages as u32))
    }

    /// The bytes of the pages, which are missing, are at `from` or (of huge pages) in the second mapping: puts
    /// them before the machine. Returns how many pages came, from the first on, even if the rest failed.
    ///
    /// # Safety
    /// If it is given, `from` is as many bytes as the pages have, which stay so meanwhile.
    pub(super) unsafe fn land(
        &self,
        userfault: &Userfaultfd,
        pages: Range<u64>,
        from: Option<NonNull<u8>>,
    ) -> (u64, io::Result<()>) {
        match (&self.kind, from) {
            // It must have its contents before it leaves `missing`: an access that is told of after that
            // makes it zero.
            (Kind::Anonymous, Some(from)) => self.make(userfault, pages, &Call::Copy(from)),
            (Kind::Shmem(file), Some(from)) => {
                // SAFETY: as the caller promises.
                let bytes =
                    unsafe { slice::from_raw_parts(from.as_ptr(), self.memory.segment(&pages).bytes) };
                let (put, result) = self.put_into_file(userfault, file, &pages, bytes);
                let here = pages.start..pages.start + put;
                let came = self.leave(&here);
                (came, result.and(self.wake(userfault, &here)))
            }
            (Kind::Anonymous | Kind::Shmem(_), None) => (0, Err(io::ErrorKind::InvalidInput.into())),
            (Kind::Huge(..), _) => {
                let came = self.leave(&pages);
                (came, self.map_if_whole(userfault, pages))
            }
        }
    }

    /// The same for pages that are zero.
    pub(super) fn land_zeros(
        &self,
        userfault: &Userfaultfd,
        alias: &Alias,
        pages: Range<u64>,
    ) -> (u64, io::Result<()>) {
        match &self.kind {
            Kind::Anonymous => self.make(userfault, pages, &Call::Zero),
            Kind::Shmem(file) => {
                // A hole is zero and costs nothing; it is filled where somebody waits, and otherwise when it
                // is touched.
                if let Err(error) = self.in_file(file, &pages, FallocateFlags::PUNCH_HOLE) {
                    return (0, Err(error));
                }
                let mut page = pages.start;
                let mut filled = Ok(());
                while let Some(awaited) = self.awaited.next_within(page, pages.end) {
                    filled = filled.and(self.walk(userfault, &(awaited..awaited + 1), &Call::Zero));
                    page = awaited + 1;
                }
                let came = self.leave(&pages);
                let woken = userfault.wake(self.memory.segment(&pages));
                (came, filled.map_err(|(_, error)| error).and(woken))
            }
            Kind::Huge(file, _) => {
                if let Err(error) = self.zero_in_huge(file, alias, &pages) {
                    return (0, Err(error));
                }
                let came = self.leave(&pages);
                (came, self.map_if_whole(userfault, pages))
            }
        }
    }

    /// A page that is here is touched, but was not mapped, or was discarded: maps it, or makes it zero, and
    /// wakes who waits. If that fails they are woken too, and so told of again.
    pub(super) fn resolve(&self, userfault: &Userfaultfd, page: u64) -> io::Result<()> {
        let host = self.host_page_of(page);
        let (outcome, woken) = match &self.kind {
            Kind::Anonymous => {
                let window = self.here_around(page);
                (self.walk(userfault, &window, &Call::Zero), window)
            }
            Kind::Shmem(_) => {
                let outcome = match userfault.map(self.memory.segment(&host)) {
                    (_, None | Some(Errno::EXIST)) => Ok(()),
                    // Not in the file, or no longer: the first makes it, unless it is there by now, for the
                    // second.
                    _ => self
                        .walk(userfault, &host, &Call::Zero)
                        .and_then(|()| self.walk(userfault, &host, &Call::Map)),
                };
                (outcome, host)
            }
            Kind::Huge(file, _) => {
                // Touching it would do, too, but would kill us where the pool of huge pages is empty.
                let there = self.in_file(file, &host, FallocateFlags::empty()).map_err(|error| (0, error));
                (there.and(self.walk(userfault, &host, &Call::Map)), host)
            }
        };
        outcome.map_err(|(_, error)| error).and(userfault.wake(self.memory.segment(&woken)))
    }

    /// Pages around `page` that are mapped together when it is touched; in one registered range.
    pub(super) fn window(&self, page: u64) -> Range<u64> {
        self.around(page, WINDOW)
    }

    /// Maps those pages of the window that are here, and exist in the file.
    pub(super) fn map_what_is_here(&self, userfault: &Userfaultfd, window: Range<u64>) -> io::Result<()> {
        // Huge pages are a window each, and were dealt with by themselves.
        if !matches!(self.kind, Kind::Shmem(_)) {
            return Ok(());
        }
        let mut page = window.start;
        while let Some(first) = self.missing.next_absent_within(page, window.end) {
            let end = self.missing.next_within(first, window.end).unwrap_or(window.end);
            self.walk(userfault, &(first..end), &Call::Map).map_err(|(_, error)| error)?;
            userfault.wake(self.memory.segment(&(first..end)))?;
            page = end;
        }
        Ok(())
    }

    /// No access waits any more.
    pub(super) fn let_go(&self, userfault: &Userfaultfd) -> io::Result<()> {
        let one = |pages: &Range<u64>| {
            let segment = self.memory.segment(pages);
            // Both, whatever the first does: unregistering does not wake everybody.
            userfault.unregister(segment).and(userfault.wake(segment))
        };
        self.armed.iter().map(one).fold(Ok(()), io::Result::and)
    }

    /// The pages are here: they leave the sets. Returns how many were missing.
    fn leave(&self, pages: &Range<u64>) -> u64 {
        let came = self.missing.remove_range(pages.start, pages.end - pages.start);
        fence(Ordering::SeqCst);
        self.awaited.remove_range(pages.start, pages.end - pages.start);
        came
    }

    /// Puts pages into the file, and maps them. Returns how many, from the first on, even if the rest failed.
    fn put_into_file(
        &self,
        userfault: &Userfaultfd,
        file: &FileOffset,
        pages: &Range<u64>,
        bytes: &[u8],
    ) -> (u64, io::Result<()>) {
        let write = |pages: &Range<u64>, bytes: &[u8]| self.write_and_map(userfault, file, pages, bytes);
        written::make(userfault, |pages| Some(self.memory.segment(&pages)), pages, bytes, write)
    }

    /// Writes pages, whose contents `bytes` begin with, and maps them. Returns how many were written.
    fn write_and_map(
        &self,
        userfault: &Userfaultfd,
        file: &FileOffset,
        pages: &Range<u64>,
        bytes: &[u8],
    ) -> (u64, io::Result<()>) {
        let (written, result) = written::write(file, pages, bytes);
        let here = pages.start..pages.start + written;
        let mapped = self.walk(userfault, &here, &Call::Map).map_err(|(_, error)| error);
        (written, result.and(mapped))
    }

    /// Makes pages that do not exist; what was made leaves the sets.
    fn make(&self, userfault: &Userfaultfd, pages: Range<u64>, call: &Call) -> (u64, io::Result<()>) {
        let (done, result) = match self.walk(userfault, &pages, call) {
            Ok(()) => (pages, Ok(())),
            Err((done, error)) => (pages.start..pages.start + done, Err(error)),
        };
        let came = self.leave(&done);
        (came, result.and(self.wake(userfault, &done)))
    }

    fn wake(&self, userfault: &Userfaultfd, pages: &Range<u64>) -> io::Result<()> {
        // The kernel refuses a range of nothing.
        if pages.is_empty() { Ok(()) } else { userfault.wake(self.memory.segment(pages)) }
    }

    /// Maps those pages of the host that `pages` are in and of which nothing is missing any more.
    ///
    /// Two threads may bring the last pages of one at the same time: each takes its own out of the set first,
    /// and looks after that (the fence in `leave` keeps that order for all), so that at least one of them
    /// sees that it is whole.
    fn map_if_whole(&self, userfault: &Userfaultfd, pages: Range<u64>) -> io::Result<()> {
        let mut result = Ok(());
        let mut page = pages.start;
        while page < pages.end {
            let host = self.host_page_of(page);
            if self.missing.next_within(host.start, host.end).is_none() {
                let mapped = self.walk(userfault, &host, &Call::Map).map_err(|(_, error)| error);
                result = result.and(mapped).and(userfault.wake(self.memory.segment(&host)));
            }
            page = host.end;
        }
        result
    }

    /// Makes pages zero that are parts of huge pages.
    fn zero_in_huge(&self, file: &FileOffset, alias: &Alias, pages: &Range<u64>) -> io::Result<()> {
        let hosts = self.host_page_of(pages.start).start..self.host_page_of(pages.end - 1).end;
        // A huge page that is not there and cannot be had is an error here, and would kill us when it is
        // touched.
        self.in_file(file, &hosts, FallocateFlags::empty())?;
        let segment = alias.segment(self.index, pages.start, pages.end - pages.start);
        let segment = segment.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the second mapping is as long as the block, and lives as long as we. Nobody else uses these
        // pages: they are missing, so the machine cannot reach them, and were claimed by the thread that we
        // are called on.
        unsafe { segment.address.as_ptr().write_bytes(0, segment.bytes) };
        Ok(())
    }

    fn in_file(&self, file: &FileOffset, pages: &Range<u64>, flags: FallocateFlags) -> io::Result<()> {
        let bytes = |pages: u64| pages * PAGE_SIZE as u64;
        let (at, len) = (file.start() + bytes(pages.start), bytes(pages.end - pages.start));
        Ok(fallocate(file.file(), flags | FallocateFlags::KEEP_SIZE, at, len)?)
    }

    fn host_page_of(&self, page: u64) -> Range<u64> {
        let host = self.kind.host_page();
        let first = page - page % host;
        first..(first + host).min(self.memory.pages)
    }

    /// The registered pages among the `window` aligned ones that `page` is in.
    fn around(&self, page: u64, window: u64) -> Range<u64> {
        let first = page - page % window;
        let armed = &self.armed[..self.armed.partition_point(|armed| armed.start <= page)];
        match armed.last() {
            Some(armed) if page < armed.end => first.max(armed.start)..(first + window).min(armed.end),
            _ => page..page + 1,
        }
    }

    /// The pages before and after `page`, close to it, that are here as it is.
    fn here_around(&self, page: u64) -> Range<u64> {
        let window = self.around(page, ZERO_WINDOW);
        let end = self.missing.next_within(page + 1, window.end).unwrap_or(window.end);
        let first = (window.start..page).rev().take_while(|page| !self.missing.contains(*page)).last();
        first.unwrap_or(page)..end
    }

    /// Has the kernel do something for all of the pages, as far as it is not done. An error comes with how
    /// many it was done for.
    fn walk(&self, userfault: &Userfaultfd, pages: &Range<u64>, call: &Call) -> Result<(), (u64, io::Error)> {
        let host = self.kind.host_page();
        let (mut page, mut most, mut tries) = (pages.start, pages.end - pages.start, 0);
        while page < pages.end {
            let count = most.min(pages.end - page);
            let done = page - pages.start;
            match self.call(userfault, page..page + count, done, call) {
                (0, None) | (_, Some(Errno::AGAIN | Errno::INTR)) if tries < TRIES => {
                    tries += 1;
                    thread::yield_now();
                }
                (bytes, None) if bytes > 0 => page += (bytes / PAGE_SIZE) as u64,
                // Is there already.
                (_, Some(Errno::EXIST)) => page += host,
                // Has no page in the file: discarded again, or never written to. It is made when it is
                // touched.
                (_, Some(Errno::FAULT)) if matches!(call, Call::Map) => page += host,
                // Is not registered, or registered in parts.
                (_, Some(Errno::NOENT)) if count > host => most = host,
                // Was let go meanwhile, and needs nothing; but for contents that have no other place.
                (_, Some(Errno::NOENT)) if !matches!(call, Call::Copy(_)) => page += host,
                (_, errno) => return Err((done, errno.unwrap_or(Errno::AGAIN).into())),
            }
        }
        Ok(())
    }

    fn call(&self, userfault: &Userfaultfd, pages: Range<u64>, done: u64, call: &Call) -> Progress {
        let segment = self.memory.segment(&pages);
        match call {
            // SAFETY: the bytes from `from` on are as many as all the pages have of which these are the ones
            // from `done` on (`land`).
            Call::Copy(from) => unsafe { userfault.copy(segment, from.add(done as usize * PAGE_SIZE)) },
            Call::Zero => userfault.zero(segment),
            Call::Map => userfault.map(segment),
        }
    }
}
