mod acpi;
mod boot_file;
mod boot_registers;
mod bzimage;
mod core_notes;
mod cpu_check;
mod cpu_model;
mod cpuid;
mod gdt;
mod kernel;
pub(crate) mod layout;
mod mirror;
mod msr;
mod pvh;
mod reset_vector;
mod touched_next;
mod trap;
mod vcpu_state;
mod vm_state;
mod xsave;

pub(crate) use acpi::write as write_acpi_tables;
pub(crate) use boot_file::BootFile;
pub use boot_file::KernelError;
pub(crate) use boot_registers::boot_registers;
pub(crate) use core_notes::{CoreRegisters, Note as CoreNote};
pub(crate) use cpu_check::reasons as cpu_reasons;
pub(crate) use cpu_model::{brand, features, narrow, vendor, xsave_bytes};
pub use cpuid::CpuidEntry;
pub(crate) use cpuid::{for_guest, for_vcpu, supported, to_kvm, without_arch_capabilities};
pub(crate) use kernel::{BootFiles, Entry};
pub use msr::MsrError;
pub(crate) use msr::{migratable, takes_arch_capabilities};
pub(crate) use touched_next::touched_next;
pub(crate) use trap::trapped_arguments;
pub(crate) use vcpu_state::{
    Time, VcpuV1, restore as restore_vcpu, save as save_vcpu, tell_that_it_stood_still, tsc,
};
pub(crate) use vm_state::{ClockV1, IrqchipV1, PitV1};
