//! Guest memory: its blocks, what is dirty in them, zero pages, and placing pages that arrive.
//!
//! This crate does not know KVM, sockets or the migration protocol. KVM's dirty log comes in through [`DirtyLog`].
//!
//! Start with [`Ram`] (the memory of one machine, allocated here or made of memory that the caller has), then [`DirtySet`] (what is left to send, fed by a [`DirtyLog`] and by the
//! VMM's own writes) for the source, and [`Placer`] for the destination; [`Incomplete`] where the machine runs there before its memory
//! is complete.

mod adopt;
mod alias;
mod allocate;
mod digest;
mod dirty_log;
mod dirty_set;
mod incomplete;
mod intake;
mod page_set;
mod page_sum;
mod place;
mod populate;
mod sample;
mod segment;
mod touched;
mod userfault;
mod written;
mod zero;

pub use alias::Alias;
pub use allocate::{Backing, Block, BlockLayout, Ram, RamError};
pub use digest::PageSums;
pub use dirty_log::DirtyLog;
pub use dirty_set::DirtySet;
pub use incomplete::{ArmError, ClaimError, Fault, Incomplete, Landing, MAX_BYTES, MAX_CLAIMS};
pub use intake::Intake;
pub use page_set::{PageSet, for_each_run};
pub use page_sum::sum_of_pages;
pub use place::Placer;
pub use populate::Populate;
pub use sample::Sample;
pub use segment::Segment;
pub use touched::Touched;
pub use userfault::{UserfaultError, Userfaultfd};
pub use zero::is_zero_page;

/// The release of vm-memory whose types this crate takes and returns: two releases of it in one program do not go together.
pub use vm_memory;

/// Size of a page in bytes. Dirty tracking, placing and the wire all work on 4 KiB pages, however memory is backed:
/// KVM logs writes at this size even when the host maps 2 MiB pages.
pub const PAGE_SIZE: usize = 4096;

/// Guest memory as devices see it: every write through it marks the page in a bitmap, since KVM's dirty log does not
/// see writes of the VMM's own threads.
pub type GuestMemory = vm_memory::GuestMemoryMmap<vm_memory::bitmap::AtomicBitmap>;
