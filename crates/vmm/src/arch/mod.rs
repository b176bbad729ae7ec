//! What is specific to a processor architecture. x86-64 is the only one today; another stands beside it.

mod x86_64;

pub use x86_64::KernelError;
pub(crate) use x86_64::{BootFiles, Entry, boot_registers, layout};
