//! What a core file says of a vCPU: registers as Linux writes them (NT_PRSTATUS), and the rest as QEMU does, by which
//! crash tools find the page tables of the guest's kernel.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use object::elf::NT_PRSTATUS;

use super::msr::{self, MsrError};
use crate::kvm::Trying as _;

/// IA32_KERNEL_GS_BASE (Intel SDM, volume 4).
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Where `pr_pid` and `pr_reg` are in Linux' `struct elf_prstatus` (include/linux/elfcore.h), and its size.
const PRSTATUS_PID: usize = 32;
const PRSTATUS_REGISTERS: usize = 112;
const PRSTATUS_BYTES: usize = 336;
/// Version of QEMU's `QEMUCPUState` (target/i386/arch_dump.c).
const QEMU_VERSION: u32 = 1;

/// Registers of a vCPU that a core file has.
#[derive(Clone, Debug)]
pub(crate) struct CoreRegisters {
    regs: kvm_regs,
    sregs: kvm_sregs,
    kernel_gs_base: u64,
}

/// A note in a core file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Whose note it is.
    pub(crate) name: &'static str,
    pub(crate) kind: u32,
    pub(crate) contents: Vec<u8>,
}

impl CoreRegisters {
    /// Of a vCPU that is out of the guest.
    pub(crate) fn read(vcpu: &VcpuFd) -> Result<Self, MsrError> {
        Ok(Self {
            regs: vcpu.get_regs().trying("read registers")?,
            sregs: vcpu.get_sregs().trying("read segment registers")?,
            kernel_gs_base: msr::read_one(vcpu, KERNEL_GS_BASE)?,
        })
    }

    /// The notes about vCPU number `index`.
    pub(crate) fn notes(&self, index: u32) -> [Note; 2] {
        [
            Note { name: "CORE", kind: NT_PRSTATUS, contents: self.prstatus(index) },
            Note { name: "QEMU", kind: 0, contents: self.qemu() },
        ]
    }

    /// As a process whose number is that of the vCPU, from 1: 0 would be no process.
    fn prstatus(&self, index: u32) -> Vec<u8> {
        let (regs, sregs) = (&self.regs, &self.sregs);
        let [cs, ss, ds, es, fs, gs] = [sregs.cs, sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs]
            .map(|segment| u64::from(segment.selector));
        // Linux' `struct user_regs_struct`.
        let user = [
            regs.r15,
            regs.r14,
            regs.r13,
            regs.r12,
            regs.rbp,
            regs.rbx,
            regs.r11,
            regs.r10,
            regs.r9,
            regs.r8,
            regs.rax,
            regs.rcx,
            regs.rdx,
            regs.rsi,
            regs.rdi,
            0,
            regs.rip,
            cs,
            regs.rflags,
            regs.rsp,
            ss,
            sregs.fs.base,
            sregs.gs.base,
            ds,
            es,
            fs,
            gs,
        ];
        let mut note = vec![0; PRSTATUS_BYTES];
        note[PRSTATUS_PID..][..4].copy_from_slice(&(index + 1).to_le_bytes());
        for (place, value) in note[PRSTATUS_REGISTERS..].chunks_exact_mut(8).zip(user) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        note
    }

    fn qemu(&self) -> Vec<u8> {
        let (regs, sregs) = (&self.regs, &self.sregs);
        let mut body = Vec::new();
        let registers = [
            regs.rax,
            regs.rbx,
            regs.rcx,
            regs.rdx,
            regs.rsi,
            regs.rdi,
            regs.rsp,
            regs.rbp,
            regs.r8,
            regs.r9,
            regs.r10,
            regs.r11,
            regs.r12,
            regs.r13,
            regs.r14,
            regs.r15,
            regs.rip,
            regs.rflags,
        ];
        body.extend(registers.iter().flat_map(|value| value.to_le_bytes()));
        let segments = [sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.ldt, sregs.tr];
        for segment in &segments {
            push_segment(&mut body, segment.selector, segment.limit, attributes(segment), segment.base);
        }
        for table in [&sregs.gdt, &sregs.idt] {
            push_segment(&mut body, 0, table.limit.into(), 0, table.base);
        }
        let controls = [sregs.cr0, 0, sregs.cr2, sregs.cr3, sregs.cr4, self.kernel_gs_base];
        body.extend(controls.iter().flat_map(|value| value.to_le_bytes()));
        // Version and size stand before it, and count.
        let bytes = (body.len() + 8) as u32;
        [&QEMU_VERSION.to_le_bytes()[..], &bytes.to_le_bytes(), &body].concat()
    }
}

/// The second word of a segment's descriptor, without the parts of base and limit.
fn attributes(segment: &kvm_segment) -> u32 {
    let bit = |value: u8, place: u32| u32::from(value) << place;
    bit(segment.type_, 8)
        | bit(segment.s, 12)
        | bit(segment.dpl, 13)
        | bit(segment.present, 15)
        | bit(segment.avl, 20)
        | bit(segment.l, 21)
        | bit(segment.db, 22)
        | bit(segment.g, 23)
}

fn push_segment(body: &mut Vec<u8>, selector: u16, limit: u32, attributes: u32, base: u64) {
    for word in [selector.into(), limit, attributes, 0] {
        body.extend(word.to_le_bytes());
    }
    body.extend(base.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_have_the_sizes_and_places_that_crash_tools_know() {
        let regs = kvm_regs { rip: 0x1111, rsp: 0x2222, r15: 0x3333, ..kvm_regs::default() };
        let sregs = kvm_sregs { cr3: 0x4444, ..kvm_sregs::default() };
        let registers = CoreRegisters { regs, sregs, kernel_gs_base: 0x5555 };
        let [prstatus, qemu] = registers.notes(2);
        let word = |note: &Note, at: usize| u64::from_le_bytes(note.contents[at..at + 8].try_into().unwrap());
        assert_eq!(prstatus.contents.len(), 336);
        // r15 is the first, rip the 17th, rsp the 20th of the registers.
        assert_eq!([0, 16, 19].map(|n| word(&prstatus, 112 + 8 * n)), [0x3333, 0x1111, 0x2222]);
        assert_eq!(prstatus.contents[32], 3);
        assert_eq!((qemu.contents.len(), word(&qemu, 0)), (440, 440 << 32 | 1));
        // After 18 registers and ten segments of 24 bytes come five control registers.
        assert_eq!([3, 5].map(|n| word(&qemu, 8 + 18 * 8 + 10 * 24 + 8 * n)), [0x4444, 0x5555]);
    }
}
