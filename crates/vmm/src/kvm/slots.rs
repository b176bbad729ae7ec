//! Guest memory as KVM knows it: one memory slot per block, numbered alike.
#![expect(unsafe_code, reason = "KVM is told host addresses here")]

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use ram::{Block, Ram};
use vmm_sys_util::errno;

use super::{KvmError, Trying as _};

/// The memory slots of a VM. Holds the memory, so that KVM never knows memory that is gone.
#[derive(Debug)]
pub(crate) struct MemorySlots {
    pub(super) vm: Arc<VmFd>,
    pub(super) ram: Ram,
}

impl MemorySlots {
    /// Gives all blocks of `ram` to the VM, without dirty logging.
    pub(crate) fn plug(vm: Arc<VmFd>, ram: Ram) -> Result<Self, KvmError> {
        let slots = Self { vm, ram };
        slots.set_logging(false).trying("add guest memory")?;
        Ok(slots)
    }

    /// Switches dirty logging of all blocks.
    pub(super) fn set_logging(&self, on: bool) -> Result<(), errno::Error> {
        (0u32..).zip(self.ram.blocks()).try_for_each(|(slot, block)| self.set(slot, block, on))
    }

    fn set(&self, slot: u32, block: &Block, logging: bool) -> Result<(), errno::Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: if logging { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: block.guest_address(),
            memory_size: block.bytes(),
            userspace_addr: block.host_address().as_ptr() as u64,
        };
        // SAFETY: the block maps `memory_size` bytes at `userspace_addr` for as long as the `Ram` lives, which this
        // object holds together with the VM; nothing in this process makes references into guest memory.
        unsafe { self.vm.set_user_memory_region(region) }
    }
}
