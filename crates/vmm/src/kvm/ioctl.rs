//! The KVM calls that `kvm-ioctls` does not offer, or offers only with an allocation per call.
#![expect(unsafe_code, reason = "these are system calls with pointers")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::{
    errno,
    ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref},
    ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr,
};

// Linux, include/uapi/linux/kvm.h.
ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// A descriptor to read the statistics of a vCPU from.
///
/// # Errors
/// What the kernel says: it may be too old.
pub(crate) fn stats_fd(vcpu: &VcpuFd) -> Result<OwnedFd, errno::Error> {
    // SAFETY: the call takes no argument.
    let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(errno::Error::last());
    }
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads the dirty log of a slot of `pages` pages into `bits`.
///
/// # Errors
/// EINVAL when `bits` is too short for `pages`; otherwise what the kernel says.
pub(super) fn get_dirty_log(vm: &VmFd, slot: u32, pages: u64, bits: &mut [u64]) -> Result<(), errno::Error> {
    if (bits.len() as u64) < pages.div_ceil(64) {
        return Err(errno::Error::new(libc::EINVAL));
    }
    let log = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bits.as_mut_ptr().cast() },
    };
    // SAFETY: the kernel writes ALIGN(pages, 64) / 8 bytes to `dirty_bitmap`, where pages is the size of the slot; the
    // caller gave the slot's size, and `bits` was checked above to hold that many bits.
    match unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}

/// Clears and re-arms the pages of `pages` pages from `first_page` whose bit is set in `bits`.
///
/// # Errors
/// EINVAL when `bits` is too short, or a number does not fit; otherwise what the kernel says.
pub(super) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first_page: u64,
    pages: u64,
    bits: &[u64],
) -> Result<(), errno::Error> {
    let invalid = errno::Error::new(libc::EINVAL);
    if (bits.len() as u64) < pages.div_ceil(64) {
        return Err(invalid);
    }
    let num_pages = u32::try_from(pages).map_err(|_| invalid)?;
    let mut clear = kvm_clear_dirty_log {
        slot,
        num_pages,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: bits.as_ptr().cast_mut().cast() },
    };
    // SAFETY: the kernel only reads `dirty_bitmap`, ALIGN(num_pages, 64) / 8 bytes of it, which `bits` was checked to
    // hold; `clear` lives across the call.
    match unsafe { ioctl_with_mut_ref(vm, KVM_CLEAR_DIRTY_LOG(), &mut clear) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}

/// Gives KVM the entries of dirty rings back that were taken out of them, and has their pages protected again. Returns how many it took.
///
/// A signal that is pending makes it return early, and then the last of those that it says it took may not be protected (Linux 6.16 and
/// later, `kvm_dirty_ring_reset`). So who calls it blocks signals, and takes too few for a failure also where a second call takes the rest.
///
/// # Errors
/// What the kernel says.
pub(super) fn reset_dirty_rings(vm: &VmFd) -> Result<u32, errno::Error> {
    // SAFETY: the call takes no argument.
    let reset = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    u32::try_from(reset).map_err(|_| errno::Error::last())
}

/// As other errors of the system are told.
pub(super) fn io_error(error: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
