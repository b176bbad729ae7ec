//! The machine of `whimbrel-vmm`: one virtual machine on KVM.
#![deny(unsafe_code)]

mod arch;
mod bus;
mod events;
mod kvm;
mod machine;
#[cfg(test)]
mod testing;
mod vcpu;

pub use arch::KernelError;
pub use events::{Events, MachineEvent};
pub use kvm::KvmError;
pub use machine::BoardError;
