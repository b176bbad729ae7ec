//! What a vCPU touches first when it goes on: where that memory is.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::msr;

/// Where a guest has KVM write its clock, and other things that KVM tells it: `MSR_KVM_SYSTEM_TIME_NEW`, `MSR_KVM_ASYNC_PF_EN`,
/// `MSR_KVM_STEAL_TIME`, `MSR_KVM_PV_EOI_EN` (Linux, arch/x86/include/uapi/asm/kvm_para.h).
const TOLD_AT: [u32; 4] = [0x4b56_4d01, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d04];
/// Their low bits are flags.
const FLAGS: u64 = 0x3f;
/// Page tables have an address in bits 12 to 51 of CR3.
const CR3_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Guest-physical addresses that a stopped vCPU touches first when it goes on, the surest first. What cannot be found out is not in it.
pub(crate) fn touched_next(vcpu: &VcpuFd, msrs: &[u32]) -> Vec<u64> {
    let (Ok(registers), Ok(system)) = (vcpu.get_regs(), vcpu.get_sregs()) else { return Vec::new() };
    let found = |linear: u64| {
        let translated = vcpu.translate_gva(linear).ok()?;
        (translated.valid != 0).then_some(translated.physical_address)
    };
    let tables = [system.cr3 & CR3_ADDRESS];
    let told: Vec<_> = TOLD_AT.into_iter().filter(|msr| msrs.contains(msr)).collect();
    let told = msr::read(vcpu, &told).unwrap_or_default();
    let told = told.iter().map(|msr| msr.value & !FLAGS).filter(|address| *address != 0);
    linear_addresses(&registers, &system).into_iter().filter_map(found).chain(tables).chain(told).collect()
}

/// Where code, stack and descriptors are, and what Linux keeps for each processor (GS).
fn linear_addresses(registers: &kvm_regs, system: &kvm_sregs) -> [u64; 6] {
    let in_segment = |segment: &kvm_segment, offset: u64| segment.base.wrapping_add(offset);
    [
        in_segment(&system.cs, registers.rip),
        in_segment(&system.ss, registers.rsp),
        system.gs.base,
        system.idt.base,
        system.gdt.base,
        system.tr.base,
    ]
}
