mod boot_registers;
mod bzimage;
mod gdt;
mod kernel;
pub(crate) mod layout;
mod pvh;

pub(crate) use boot_registers::boot_registers;
pub use kernel::KernelError;
pub(crate) use kernel::{BootFiles, Entry};
