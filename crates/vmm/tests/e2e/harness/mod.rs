//! What all tests share: machines with all that belongs to them in a temporary directory, and the patience to wait for them.
//!
//! * [`Lab`] is the directory and the guest's image; a test begins with one, or is skipped without /dev/kvm.
//! * [`Spec`] says what a machine is; [`Vmm`] is one process that runs it or waits for it.
//! * [`Story`] is what the guest printed, wherever it ran.
//! * [`until`] waits for a condition. Nothing here sleeps in the hope that something has happened meanwhile.

mod control_group;
mod hanging;
mod huge_pages;
mod lab;
mod migration;
mod network;
mod process;
mod story;
mod wait;

pub(crate) use control_group::ControlGroup;
pub(crate) use hanging::{Dead, Freezer};
pub(crate) use huge_pages::HugePages;
pub(crate) use lab::{Kernel, Lab, Spec, Stderr};
pub(crate) use migration::{MIGRATION_EVENTS, PAUSE_BEFORE_SWITCHOVER, capability};
pub(crate) use network::Network;
pub(crate) use process::{Vmm, chain, run_to_end, run_to_end_with};
pub(crate) use story::Story;
pub(crate) use wait::{PATIENCE, holds, until};

/// Says loudly that a test was skipped. Past the capture of test output, since a skipped test passes.
pub(crate) fn skipped(why: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
