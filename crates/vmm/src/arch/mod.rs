//! What is specific to a processor architecture. x86-64 is the only one today; another stands beside it.

mod x86_64;

pub(crate) use x86_64::{
    BootFile, BootFiles, ClockV1, CoreNote, CoreRegisters, Entry, IrqchipV1, PitV1, Time, VcpuV1,
    boot_registers, cpu_reasons, for_guest, for_vcpu, layout, migratable, restore_vcpu, save_vcpu, supported,
    takes_arch_capabilities, to_kvm, trapped_arguments, tsc, without_arch_capabilities, write_acpi_tables,
};
pub use x86_64::{CpuidEntry, KernelError, MsrError};
