//! Guest memory: its blocks, what is dirty in them, zero pages, and placing pages that arrive.
//!
//! This crate does not know KVM, sockets or the migration protocol. KVM's dirty log comes in through [`DirtyLog`].
//!
//! Start with [`Ram`] (the memory of one machine), then [`DirtyLog`].

mod allocate;
mod dirty_log;

pub use allocate::{Backing, Block, BlockLayout, Ram, RamError};
pub use dirty_log::DirtyLog;

/// Size of a page in bytes. Dirty tracking, placing and the wire all work on 4 KiB pages, however memory is backed:
/// KVM logs writes at this size even when the host maps 2 MiB pages.
pub const PAGE_SIZE: usize = 4096;

/// Guest memory as devices see it: every write through it marks the page in a bitmap, since KVM's dirty log does not
/// see writes of the VMM's own threads.
pub type GuestMemory = vm_memory::GuestMemoryMmap<vm_memory::bitmap::AtomicBitmap>;
