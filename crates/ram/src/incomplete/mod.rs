mod arm;
mod landing;
mod part;
#[cfg(test)]
mod tests;

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use self::part::Part;
use crate::{PageSet, Ram, alias::Alias, userfault::Userfaultfd};

pub use self::{
    arm::ArmError,
    landing::{ClaimError, Landing, MAX_BYTES, MAX_CLAIMS},
};

/// Memory of which pages are still to come, while the machine runs in it already. Shared by the threads that
/// receive pages, each with a [`Landing`], and the one that hears of accesses to pages that are not here
/// ([`Self::wait`]).
///
/// # What must not touch the memory
/// Every thread of the process that touches a missing page waits for it, in the kernel and without an end:
/// the threads that receive pages or hear faults, and whoever those wait for, must not.
/// [`Populate`](crate::Populate) must be over.
///
/// # Its end
/// Dropping it closes the userfaultfd: who waits goes on, and pages that are missing read as zero (or as what
/// they were before). So whoever runs the machine holds it until [`Self::release`], or until the machine is
/// gone.
///
/// # No access is forgotten
/// A thread that touches a page that is not mapped is put into the kernel's queue, looks again whether the
/// page is mapped, and only then sleeps; its message can be read from then on, and is read once.
/// [`Self::wait`] looks at the set *after* it has read the message. Whoever settles takes the page out of the
/// set, and wakes all that wait for it *after* that. So there are two orders. The set is looked at after the
/// page left it: the access is dealt with here, as one to a page that has come. Or it is looked at before:
/// then the access is told to the caller, who asks for a page that comes anyway; and since the message was
/// read, and so the thread queued, before the page left the set, it is among those that are woken afterwards.
/// It looks again: the page is mapped, or (discarded again meanwhile) it is put into the queue anew, with a
/// new message, which is read after the page left the set.
#[derive(Debug)]
pub struct Incomplete {
    userfault: Userfaultfd,
    alias: Alias,
    parts: Vec<Part>,
    /// Pages that are missing, in all.
    remaining: AtomicU64,
    /// Ends [`Self::wait`].
    stop: OwnedFd,
    /// Nothing waits any more: released or abandoned.
    over: AtomicBool,
    /// Keeps the memory mapped.
    _ram: Ram,
}

/// What there is to do for [`Incomplete::wait`].
enum Next {
    Accesses,
    Nothing,
    Stopped,
}

/// An access that waits for pages that are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Index of the block.
    pub block: u16,
    /// First 4 KiB page of the host page that is accessed.
    pub first_page: u64,
    /// 4 KiB pages of the host page: all of `first_page..first_page + pages` that [`Incomplete::missing`] has
    /// must come before the access can go on.
    pub pages: u32,
    /// The thread that waits, as the kernel numbers them. It may be one of the kernel's that works for a
    /// vCPU.
    pub thread: u32,
}

impl Incomplete {
    /// Takes the pages of `missing` (one set for each block) out of reach: every access to one of them waits
    /// from here on. Contents of all other pages stay. This is part of the machine's downtime: nobody else
    /// uses the memory meanwhile.
    ///
    /// # Errors
    /// The memory is of a kind that cannot be completed page by page, the sets do not fit it, or the kernel
    /// refuses. Pages of `missing` may have lost their contents then; no access waits.
    pub fn arm(ram: &Ram, userfault: Userfaultfd, missing: Vec<PageSet>) -> Result<Arc<Self>, ArmError> {
        let alias =
            Alias::of(ram).map_err(|source| ArmError::System { what: "map it a second time", source })?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| ArmError::System { what: "make an eventfd", source: errno.into() })?;
        let parts = arm::arm(ram, &userfault, missing)?;
        let remaining = AtomicU64::new(parts.iter().map(|part| part.missing.count()).sum());
        let over = AtomicBool::new(false);
        Ok(Arc::new(Self { userfault, alias, parts, remaining, stop, over, _ram: ram.clone() }))
    }

    /// How many pages are not here yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining.load(Ordering::Acquire)
    }

    /// The pages of a block that are not here yet: after a lost link, what to ask the source for. Empty for a
    /// block that there is not.
    #[must_use]
    pub fn missing(&self, block: usize) -> &PageSet {
        static NONE: std::sync::LazyLock<PageSet> = std::sync::LazyLock::new(|| PageSet::new(0));
        self.parts.get(block).map_or(&NONE, |part| &part.missing)
    }

    /// Whether these pages of a block can be touched without waiting for one that is still to come. What is not in the block can.
    #[must_use]
    pub fn is_here(&self, block: usize, pages: Range<u64>) -> bool {
        self.over.load(Ordering::Acquire) || self.parts.get(block).is_none_or(|part| part.is_here(&pages))
    }

    /// The pages of a block that [`Self::wait`] told of and that are not here yet: after a lost link, what to
    /// ask for first. All pages of a host page are in it that is waited for. Empty for a block that there is
    /// not.
    #[must_use]
    pub fn awaited(&self, block: usize) -> Option<&PageSet> {
        self.parts.get(block).map(|part| &part.awaited)
    }

    /// Waits until an access waits for a page that is not here, and overwrites `faults` with all that are
    /// known of, at most 64. Returns with none after `patience`, if that is limited, and false once [`Self::stop`] was called. Each waiting
    /// thread is told of once. Accesses to pages that are here but were not mapped, or were discarded (by a
    /// balloon), are dealt with on the way.
    ///
    /// # Errors
    /// The kernel refuses to map a page that is here, for lack of memory as a rule. It is called again then:
    /// the access is tried again.
    pub fn wait(&self, faults: &mut Vec<Fault>, patience: Option<Duration>) -> io::Result<bool> {
        faults.clear();
        let mut around = Vec::new();
        loop {
            match self.next(patience)? {
                Next::Accesses => {}
                Next::Nothing => return Ok(true),
                Next::Stopped => return Ok(false),
            }
            let mut outcome = Ok(());
            for access in self.userfault.accesses()? {
                let Some((part, page)) = self.locate(access.address) else { continue };
                if let Some((first_page, pages)) = part.awaits(page) {
                    faults.push(Fault { block: part.index, first_page, pages, thread: access.thread });
                    continue;
                }
                outcome = outcome.and(part.resolve(&self.userfault, page));
                around.extend(access.exists.then_some((part, part.window(page))));
            }
            if !faults.is_empty() {
                // What failed is woken, and so told of again. What is around can be mapped when it is
                // touched: whoever waits for the network comes first.
                return Ok(true);
            }
            around.dedup_by_key(|(part, window)| (part.index, window.start));
            for (part, window) in around.drain(..) {
                outcome = outcome.and(part.map_what_is_here(&self.userfault, window));
            }
            outcome?;
        }
    }

    /// Ends [`Self::wait`], now and from here on.
    pub fn stop(&self) {
        // Fails only where so many were counted that one more does not fit: then it is readable, which is
        // what is wanted.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    /// All pages are here: no access waits any more, and the memory is as if nothing had been.
    ///
    /// # Errors
    /// Pages are missing (nothing changed then), or the kernel refuses: as much as possible is done.
    pub fn release(&self) -> io::Result<()> {
        let remaining = self.remaining();
        if remaining > 0 {
            return Err(io::Error::other(format!("{remaining} pages of memory are still missing")));
        }
        self.let_go()
    }

    /// No page that is missing is needed any more, as the machine starts anew: none is waited for from here on, and they read as zero,
    /// or as what was there before. Nothing is landing meanwhile, and nobody runs the machine.
    pub fn forget(&self) {
        self.parts.iter().for_each(Part::forget);
        self.remaining.store(0, Ordering::Release);
        self.abandon();
    }

    /// Gives the memory up although pages are missing: who waits goes on, and reads zero or what was there
    /// before. For a machine that did not run yet, or is being ended, whose threads wait for pages that do
    /// not come. Nothing can be claimed from here on.
    pub fn abandon(&self) {
        // What cannot be unregistered is let go when the userfaultfd is closed.
        let _ = self.let_go();
    }

    fn let_go(&self) -> io::Result<()> {
        self.over.store(true, Ordering::Release);
        // All of them, whatever fails.
        self.parts.iter().map(|part| part.let_go(&self.userfault)).fold(Ok(()), io::Result::and)
    }

    /// Waits until there is something to read, but no longer than `patience`.
    fn next(&self, patience: Option<Duration>) -> io::Result<Next> {
        let timeout = patience.and_then(|patience| Timespec::try_from(patience).ok());
        loop {
            let mut watched =
                [PollFd::new(&self.userfault, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut watched, timeout.as_ref()) {
                Ok(0) => return Ok(Next::Nothing),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [accesses, stop] = watched.map(|watched| watched.revents());
            if stop.contains(PollFlags::IN) {
                return Ok(Next::Stopped);
            }
            if accesses.intersects(PollFlags::ERR | PollFlags::NVAL) {
                return Err(io::Error::other("the userfaultfd is not usable"));
            }
            if accesses.contains(PollFlags::IN) {
                return Ok(Next::Accesses);
            }
        }
    }

    fn locate(&self, address: usize) -> Option<(&Part, u64)> {
        self.parts.iter().find_map(|part| Some((part, part.page_at(address)?)))
    }
}
