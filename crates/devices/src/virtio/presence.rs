use std::fmt;

use vm_memory::GuestAddress;

use super::Buffers;

/// A range of guest memory: where it begins, and how many bytes it has.
pub type MemoryRange = (GuestAddress, usize);

/// What is here of the memory of a machine that runs before all of it has come.
///
/// A device asks before it touches memory, as its thread would wait in the kernel for a page that is still to come, with the device
/// locked: for as long as the network takes, and for ever if the page is lost.
pub trait Presence: fmt::Debug + Send + Sync {
    /// All memory is here, and nothing needs to be asked for any more.
    fn is_whole(&self) -> bool;

    /// All of this range can be touched without waiting for a page that is still to come. What is not memory can.
    fn is_here(&self, range: MemoryRange) -> bool;

    /// Has these ranges come before others, and calls `then` when they are here, on a thread that may wait. Does not wait itself.
    fn bring(&self, ranges: Vec<MemoryRange>, then: Box<dyn FnOnce() + Send>);
}

/// What a device would touch in this turn and cannot yet.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    presence: &'a dyn Presence,
    absent: Vec<MemoryRange>,
}

impl<'a> Ahead<'a> {
    pub(super) fn new(presence: &'a dyn Presence) -> Self {
        Self { presence, absent: Vec::new() }
    }

    /// Whether all of these ranges are here. Those that are not are asked for when the turn is over.
    pub(super) fn are_here(&mut self, ranges: impl IntoIterator<Item = MemoryRange>) -> bool {
        let before = self.absent.len();
        self.absent.extend(ranges.into_iter().filter(|range| !self.presence.is_here(*range)));
        self.absent.len() == before
    }

    /// As [`Self::are_here`], for the buffers of a request.
    pub(super) fn buffers_are_here(&mut self, buffers: [&Buffers<'_>; 2]) -> bool {
        self.are_here(buffers.into_iter().flat_map(Buffers::ranges))
    }

    /// Something was to be touched that is not here.
    pub(super) fn waits(&self) -> bool {
        !self.absent.is_empty()
    }

    pub(super) fn absent(self) -> Vec<MemoryRange> {
        self.absent
    }
}
