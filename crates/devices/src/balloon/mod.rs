//! virtio-balloon (spec, 5.5): memory that the guest lends to the host, and what the guest says of its memory.
//!
//! Pages that the guest puts into the balloon, and free pages that it reports, are given back to the host, so they read
//! as zeroes afterwards. That is a write that KVM's dirty log does not see: they are marked in the dirty bitmap, and a
//! machine that moves sends them as zero pages.
//!
//! # Features
//! * STATS_VQ: statistics, asked for with [`VirtioMmio::request_stats`](crate::virtio::VirtioMmio::request_stats).
//! * DEFLATE_ON_OOM: the guest may take pages back when it runs out of memory.
//! * PAGE_REPORTING: the guest says which pages are free; they are given back, and come back empty when it uses them.
//! * PAGE_POISON: a guest that fills its free pages with a value says which. Unless it is zero, its reports change
//!   nothing, because it wants to find that value again.
//! * MUST_TELL_HOST is not offered: a page that the guest takes out of the balloon is there at once.
//!
//! Memory of 2 MiB huge pages is never given back, as their reservation would go with it: of what is whole huge pages, the contents are
//! emptied. [`Discard`] says why.

mod discard;
mod model;
mod state;
mod stats;
#[cfg(test)]
mod tests;

pub use discard::Discard;
pub use model::Balloon;
pub use state::BalloonV1;
pub use stats::{STAT_NAMES, Stats};

/// Bytes of a page in the balloon, whatever the size of the guest's own pages (spec, 5.5.6).
const PAGE: u64 = 4096;
