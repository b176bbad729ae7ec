//! A guest for tests of dirty logs, which writes two pages and halts.

use std::sync::Arc;

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use ram::{Backing, BlockLayout, DirtyLog, Ram};
use vm_memory::{Bytes as _, GuestAddress};

use super::MemorySlots;

/// Pages of its memory.
pub(super) const PAGES: u64 = 100;

/// mov [0x5000],al; mov [0x9000],al; hlt; and from the start again. Real mode.
const WRITER: [u8; 9] = [0xa2, 0x00, 0x50, 0xa2, 0x00, 0x90, 0xf4, 0xeb, 0xf7];

/// A VM, `prepared` before it has memory and a vCPU.
pub(super) fn writer(prepared: impl FnOnce(&VmFd)) -> (MemorySlots, VcpuFd) {
    let vm = Arc::new(Kvm::new().unwrap().create_vm().unwrap());
    prepared(&vm);
    let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: PAGES * 4096 };
    let ram = Ram::allocate(&[layout], Backing::Anonymous).unwrap();
    ram.memory().write_slice(&WRITER, GuestAddress(0x1000)).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    (regs.rip, regs.rflags) = (0x1000, 2);
    vcpu.set_regs(&regs).unwrap();
    (MemorySlots::plug(vm, ram).unwrap(), vcpu)
}

/// Has it write its pages.
pub(super) fn run(vcpu: &mut VcpuFd) {
    assert!(matches!(vcpu.run(), Ok(VcpuExit::Hlt)));
}

/// The pages that are dirty by this log.
pub(super) fn fetch(log: &impl DirtyLog) -> Vec<u64> {
    let mut bits = [0; 2];
    log.fetch(0, &mut bits).unwrap();
    (0..128).filter(|page| bits[page / 64] >> (page % 64) & 1 == 1).map(|page| page as u64).collect()
}
