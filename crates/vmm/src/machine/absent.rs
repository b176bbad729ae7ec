//! Memory of a machine that runs before all of it has come: what devices ask of it, and the thread that waits in their place.

use std::{
    io,
    sync::{
        Arc, Weak,
        mpsc::{Sender, channel},
    },
};

use devices::{
    GuestMemory,
    virtio::{MemoryRange, Presence},
};
use ram::{Incomplete, PAGE_SIZE, Ram};
use vm_memory::{Bytes as _, GuestAddress};

use crate::{launcher::Launcher, seccomp::Role};

/// A request of a device: memory that is to come, and what is to be done then.
type Errand = (Vec<MemoryRange>, Box<dyn FnOnce() + Send>);

/// The memory, as devices see it. Its thread ends with it, or when the page comes that it waits for.
pub(crate) struct Absent {
    /// Gone when all pages are here: then the migration has let go of it.
    memory: Weak<Incomplete>,
    blocks: Vec<Block>,
    errands: Sender<Errand>,
}

/// A block of memory, in pages of 4 KiB.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: u64,
    pages: u64,
}

impl Absent {
    /// Memory of which pages are missing.
    ///
    /// # Errors
    /// No more threads.
    pub(crate) fn new(ram: &Ram, memory: Weak<Incomplete>, launcher: &Launcher) -> io::Result<Arc<Self>> {
        let (errands, inbox) = channel::<Errand>();
        let guest = ram.memory().clone();
        let work = move || {
            for (ranges, then) in inbox {
                ranges.into_iter().for_each(|range| touch(&guest, range));
                then();
            }
        };
        launcher.spawn(Role::Touch, "touch", work)?;
        let block = |block: &ram::Block| Block {
            first: block.guest_address() / PAGE_SIZE as u64,
            pages: block.pages(),
        };
        let blocks = ram.blocks().iter().map(block).collect();
        Ok(Arc::new(Self { memory, blocks, errands }))
    }
}

impl Presence for Absent {
    fn is_whole(&self) -> bool {
        self.memory.upgrade().is_none_or(|memory| memory.remaining() == 0)
    }

    fn is_here(&self, (address, bytes): MemoryRange) -> bool {
        let Some(memory) = self.memory.upgrade() else { return true };
        let first = address.0 / PAGE_SIZE as u64;
        let end = address.0.saturating_add(bytes as u64).div_ceil(PAGE_SIZE as u64);
        self.blocks.iter().enumerate().all(|(index, block)| {
            let (first, end) = (first.max(block.first), end.min(block.first + block.pages));
            first >= end || memory.is_here(index, first - block.first..end - block.first)
        })
    }

    fn bring(&self, ranges: Vec<MemoryRange>, then: Box<dyn FnOnce() + Send>) {
        // Fails if the thread has panicked: then the device waits for ever, as it would for a page that is lost.
        let _ = self.errands.send((ranges, then));
    }
}

impl std::fmt::Debug for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Absent").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// Touches every page of the range, which is how the kernel asks for those that are missing, and waits for them.
fn touch(memory: &GuestMemory, (address, bytes): MemoryRange) {
    let end = address.0.saturating_add(bytes as u64);
    let mut at = address.0;
    while at < end {
        // What is not memory cannot be waited for.
        let _ = memory.read_obj::<u8>(GuestAddress(at));
        at = (at / PAGE_SIZE as u64 + 1).saturating_mul(PAGE_SIZE as u64);
    }
}
