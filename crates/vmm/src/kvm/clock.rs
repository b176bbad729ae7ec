//! What this KVM can do with the guest's clock (Linux, Documentation/virt/kvm/api.rst, 4.29 `KVM_GET_CLOCK`).

use kvm_bindings::{KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_REALTIME};
use kvm_ioctls::VmFd;

/// What `KVM_GET_CLOCK` and `KVM_SET_CLOCK` understand here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockFlags {
    /// The clock is read together with the host's wall clock, and set so that it counts the time between.
    pub(crate) realtime: bool,
}

/// Asks KVM.
pub(crate) fn clock_flags(vm: &VmFd) -> ClockFlags {
    let flags = u32::try_from(vm.check_extension_raw(KVM_CAP_ADJUST_CLOCK.into())).unwrap_or(0);
    ClockFlags { realtime: flags & KVM_CLOCK_REALTIME != 0 }
}
