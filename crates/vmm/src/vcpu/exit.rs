//! What the guest wanted when it left, read from the page that KVM shares with us.
#![expect(unsafe_code, reason = "unions and a data area that the kernel fills in")]

use std::slice;

use kvm_bindings::{KVM_EXIT_IO_OUT, kvm_run};
use kvm_ioctls::VcpuFd;

/// Port accesses of one instruction. `rep ins` and `rep outs` bring many in one exit.
#[derive(Debug)]
pub(super) struct PortAccess<'a> {
    pub(super) port: u16,
    /// Bytes of one access: 1, 2 or 4.
    pub(super) size: usize,
    pub(super) write: bool,
    /// All accesses, one after the other.
    pub(super) data: &'a mut [u8],
}

/// The accesses of a vCPU that has just returned `KVM_EXIT_IO`.
pub(super) fn port_access(vcpu: &mut VcpuFd) -> PortAccess<'_> {
    let run: *mut kvm_run = vcpu.get_kvm_run();
    // SAFETY: the page is mapped while `vcpu` is borrowed; `io` is plain integers, valid whatever bytes are there.
    let io = unsafe { (*run).__bindgen_anon_1.io };
    let size = usize::from(io.size.max(1));
    let bytes = usize::try_from(io.count).unwrap_or(0) * size;
    let offset = usize::try_from(io.data_offset).unwrap_or(0);
    // SAFETY: KVM guarantees that `count * size` bytes at `data_offset` lie in the mapping of the vCPU
    // (Linux, Documentation/virt/kvm/api.rst, "KVM_EXIT_IO"), which is mapped in full and lives while `vcpu` is borrowed.
    // The kernel touches it only within `KVM_RUN`, which needs the same borrow.
    let data = unsafe { slice::from_raw_parts_mut(run.cast::<u8>().add(offset), bytes) };
    PortAccess { port: io.port, size, write: u32::from(io.direction) == KVM_EXIT_IO_OUT, data }
}

/// Why KVM gave up on a vCPU that has just returned `KVM_EXIT_INTERNAL_ERROR`: the suberror of `linux/kvm.h`, in words.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: `suberror` is a plain integer, valid whatever bytes are there.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let words = match suberror {
        1 => "an instruction could not be emulated",
        2 => "an exception occurred while an exception was delivered",
        3 => "an event could not be delivered",
        4 => "an unexpected exit reason",
        _ => "unknown",
    };
    format!("KVM internal error {suberror} ({words})")
}

/// Where a vCPU is, for people who look for the reason of a crash. AMD's processors forget it when they shut down (AMD64
/// Architecture Programmer's Manual, volume 2, 15.14.3): then these are the registers after a reset.
pub(super) fn place(vcpu: &VcpuFd) -> String {
    let (Ok(registers), Ok(system)) = (vcpu.get_regs(), vcpu.get_sregs()) else {
        return "its registers cannot be read".into();
    };
    format!(
        "rip={:#x} rsp={:#x} rflags={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
        registers.rip,
        registers.rsp,
        registers.rflags,
        system.cr0,
        system.cr2,
        system.cr3,
        system.cr4,
        system.efer
    )
}
