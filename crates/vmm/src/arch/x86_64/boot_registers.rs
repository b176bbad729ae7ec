//! The registers with which vCPUs start.

use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_regs};
use kvm_ioctls::VcpuFd;

use super::{gdt, kernel::Entry, layout};
use crate::kvm::{KvmError, Trying as _};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// `IA32_MISC_ENABLE` with fast string operations on.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// `IA32_MTRR_DEF_TYPE`: enabled, memory is write-back unless said otherwise.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, (1 << 11) | 6);

/// Sets what firmware would have set, and on the first vCPU where the kernel starts. Other vCPUs wait for the kernel's
/// start-up interrupt.
pub(crate) fn boot_registers(vcpu: &VcpuFd, entry: Option<Entry>) -> Result<(), KvmError> {
    local_interrupts(vcpu)?;
    for (index, data) in [MISC_ENABLE, MTRR_DEF_TYPE] {
        // Not every KVM has both on every processor, and the guest does without.
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        let _ = Msrs::from_entries(&[entry]).map(|msrs| vcpu.set_msrs(&msrs));
    }
    entry.map_or(Ok(()), |entry| start_at(vcpu, entry))
}

/// The wiring a PC's firmware leaves behind: LINT0 takes the old interrupt controller, LINT1 the NMI
/// (MultiProcessor Specification 1.4, 3.6.2.2, virtual wire mode).
fn local_interrupts(vcpu: &VcpuFd) -> Result<(), KvmError> {
    const LINT0: usize = 0x350;
    const LINT1: usize = 0x360;
    const DELIVER_NMI: u32 = 0b100 << 8;
    const DELIVER_EXTINT: u32 = 0b111 << 8;
    let mut lapic = vcpu.get_lapic().trying("read a local APIC")?;
    for (register, value) in [(LINT0, DELIVER_EXTINT), (LINT1, DELIVER_NMI)] {
        for (byte, value) in lapic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
            *byte = value.cast_signed();
        }
    }
    vcpu.set_lapic(&lapic).trying("set a local APIC")
}

fn start_at(vcpu: &VcpuFd, entry: Entry) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().trying("read segment registers")?;
    sregs.cs = gdt::code(entry.is_long());
    sregs.ds = gdt::data();
    sregs.es = sregs.ds;
    sregs.fs = sregs.ds;
    sregs.gs = sregs.ds;
    sregs.ss = sregs.ds;
    sregs.tr = gdt::task();
    sregs.gdt = kvm_dtable { base: layout::GDT, limit: gdt::LIMIT, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    let mut regs = kvm_regs { rflags: 2, ..Default::default() };
    match entry {
        Entry::Pvh { address } => {
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr4 = 0;
            sregs.efer = 0;
            regs.rip = address;
            regs.rbx = layout::START_INFO;
        }
        Entry::Long { address } => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = layout::PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
            regs.rip = address;
            regs.rsi = layout::START_INFO;
        }
    }
    vcpu.set_sregs(&sregs).trying("set segment registers")?;
    vcpu.set_regs(&regs).trying("set registers")
}
