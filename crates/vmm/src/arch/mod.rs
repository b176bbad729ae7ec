//! What is specific to a processor architecture. x86-64 is the only one today; another stands beside it.

mod x86_64;

pub use x86_64::{Ahead, CpuidEntry, KernelError, MsrError, Transit};
pub(crate) use x86_64::{
    BootFile, BootFiles, ClockV1, CoreNote, CoreRegisters, Entry, IrqchipV1, PitV1, Time, VcpuV1, accepted,
    boot_registers, brand, cpu_reasons, features, for_guest, for_vcpu, is_reachable, layout, migratable,
    narrow, realtime_ns, restore_vcpu, save_vcpu, supported, takes_arch_capabilities,
    tell_that_it_stood_still, to_kvm, touched_next, trapped_arguments, tsc, vendor,
    without_arch_capabilities, write_acpi_tables, xsave_bytes,
};
