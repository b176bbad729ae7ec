//! The lab: emulated hosts with stock kernels and real KVM, in which `whimbrel-vmm` runs Linux guests and moves them.
//!
//! QEMU's software processor emulates AMD's virtualisation, so a stock Debian kernel on it has a real `kvm_amd`, and
//! everything else that a server has. This works on any machine, without KVM and without root.
//!
//! * [`Lab`] is two hosts, the [`Network`] between them and the disks that they share.
//! * [`Host::remote`] runs commands in a host, and moves files and connections in and out: [`Remote`].
//! * [`Vmm`] is one `whimbrel-vmm` in a host; [`Spec`] says of what machine.
//! * [`scenarios`] are what is tried in it.
//!
//! Nothing here knows how a migration works: it is driven over the monitor, like by any user.

mod error;
mod host;
mod image;
mod journey;
mod lab;
mod network;
mod packages;
mod programs;
mod recording;
mod remote;
pub mod scenarios;
mod vmm;
mod wait;

pub use error::LabError;
pub use host::Host;
pub use image::Images;
pub use journey::Journey;
pub use lab::{DATA_MIB, Lab};
pub use network::{Network, Weather};
pub use programs::Programs;
pub use recording::{Recording, Totals};
pub use remote::{Output, Remote, Spawned};
pub use vmm::{Kernel, Protection, Spec, Vmm};
pub use wait::Pace;
