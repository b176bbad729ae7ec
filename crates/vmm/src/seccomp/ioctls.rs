//! Numbers of the ioctls that threads may use.

use std::mem::size_of;

use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_dirty_log, kvm_enable_cap,
    kvm_ioeventfd, kvm_irqchip, kvm_irqfd, kvm_lapic_state, kvm_mp_state, kvm_msr_list, kvm_msrs,
    kvm_pit_config, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_translation, kvm_userspace_memory_region,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// The guest runs. First, since it is called most.
pub(super) const RUN: &[u64] = &[none(0x80)];

/// The dirty log: KVM_GET_DIRTY_LOG, and KVM_SET_USER_MEMORY_REGION, which switches it.
pub(super) const DIRTY_LOG: &[u64] =
    &[write::<kvm_dirty_log>(0x42), write::<kvm_userspace_memory_region>(0x46)];

/// KVM_CLEAR_DIRTY_LOG.
pub(super) const CLEAR_DIRTY_LOG: &[u64] = &[both::<kvm_clear_dirty_log>(0xc0)];

/// KVM_RESET_DIRTY_RINGS.
pub(super) const RESET_DIRTY_RINGS: &[u64] = &[none(0xc7)];

/// Reading and setting the state of a vCPU.
pub(super) const VCPU_STATE: &[u64] = &[
    read::<kvm_regs>(0x81),
    write::<kvm_regs>(0x82),
    read::<kvm_sregs>(0x83),
    write::<kvm_sregs>(0x84),
    // KVM_TRANSLATE: where what it touches next is in memory.
    both::<kvm_translation>(0x85),
    both::<kvm_msrs>(0x88),
    write::<kvm_msrs>(0x89),
    read::<kvm_lapic_state>(0x8e),
    write::<kvm_lapic_state>(0x8f),
    write::<kvm_cpuid2>(0x90),
    both::<kvm_cpuid2>(0x91),
    read::<kvm_mp_state>(0x98),
    write::<kvm_mp_state>(0x99),
    read::<kvm_vcpu_events>(0x9f),
    write::<kvm_vcpu_events>(0xa0),
    read::<kvm_debugregs>(0xa1),
    write::<kvm_debugregs>(0xa2),
    read::<kvm_xsave>(0xa4),
    write::<kvm_xsave>(0xa5),
    read::<kvm_xsave>(0xcf),
    read::<kvm_xcrs>(0xa6),
    write::<kvm_xcrs>(0xa7),
    // KVM_SET_TSC_KHZ, KVM_GET_TSC_KHZ, KVM_KVMCLOCK_CTRL.
    none(0xa2),
    none(0xa3),
    none(0xad),
];

/// Reading the state of what vCPUs share: KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK.
pub(super) const SAVE_CHIPS: &[u64] =
    &[both::<kvm_irqchip>(0x62), read::<kvm_pit_state2>(0x9f), read::<kvm_clock_data>(0x7c)];

/// KVM_CHECK_EXTENSION.
pub(super) const CAPABILITIES: &[u64] = &[none(0x03)];

/// Making a virtual machine, and plugging its devices in.
pub(super) const BUILD: &[u64] = &[
    // KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE.
    none(0x00),
    none(0x01),
    none(0x04),
    // KVM_GET_MSR_INDEX_LIST, KVM_GET_SUPPORTED_CPUID, KVM_GET_MSR_FEATURE_INDEX_LIST.
    both::<kvm_msr_list>(0x02),
    both::<kvm_cpuid2>(0x05),
    both::<kvm_msr_list>(0x0a),
    // KVM_GET_STATS_FD, KVM_CREATE_VCPU, KVM_SET_TSS_ADDR, KVM_CREATE_IRQCHIP.
    none(0xce),
    none(0x41),
    none(0x47),
    none(0x60),
    // KVM_SET_IDENTITY_MAP_ADDR, KVM_CREATE_PIT2, KVM_ENABLE_CAP.
    write::<u64>(0x48),
    write::<kvm_pit_config>(0x77),
    write::<kvm_enable_cap>(0xa3),
    // KVM_IRQFD, KVM_IOEVENTFD.
    write::<kvm_irqfd>(0x76),
    write::<kvm_ioeventfd>(0x79),
    // KVM_SET_IRQCHIP, KVM_SET_PIT2, KVM_SET_CLOCK.
    read::<kvm_irqchip>(0x63),
    write::<kvm_pit_state2>(0xa0),
    write::<kvm_clock_data>(0x7b),
    libc::TUNSETIFF,
    libc::SIOCGIFFLAGS,
    libc::SIOCGIFINDEX,
    libc::TUNGETIFF,
    libc::TUNSETVNETHDRSZ,
];

/// USERFAULTFD_IOC_NEW, and of a userfaultfd: API, REGISTER, UNREGISTER, WAKE, COPY, ZEROPAGE, CONTINUE (Linux,
/// include/uapi/linux/userfaultfd.h).
pub(super) const PAGE_FAULTS: &[u64] = &[
    userfault(0, 0x00, 0),
    userfault(3, 0x3f, 24),
    userfault(3, 0x00, 32),
    userfault(2, 0x01, 16),
    userfault(2, 0x02, 16),
    userfault(3, 0x03, 40),
    userfault(3, 0x04, 32),
    userfault(3, 0x07, 32),
];

/// A guest chooses the features of its network card.
pub(super) const TAP_FEATURES: &[u64] = &[libc::TUNSETOFFLOAD];

/// Non-blocking mode, which the standard library switches so.
pub(super) const NON_BLOCKING: &[u64] = &[libc::FIONBIO];

/// How much of what was sent on a socket the other side has not acknowledged (`SIOCOUTQ`).
pub(super) const UNACKNOWLEDGED: &[u64] = &[libc::TIOCOUTQ];

/// Whether a descriptor is a terminal, and putting it back as it was found: also in a thread that dies.
pub(super) const TERMINAL: &[u64] =
    &[libc::TCGETS, libc::TCGETS2, libc::TCSETS, libc::TCSETS2, libc::TIOCGPGRP];

/// What looking up a name asks a socket.
pub(super) const RESOLVE: &[u64] = &[libc::FIONREAD, libc::SIOCGIFINDEX, libc::SIOCGIFNAME];

/// Linux, include/uapi/asm-generic/ioctl.h: number, type, size, direction.
const fn code(direction: u64, number: u64, bytes: usize) -> u64 {
    direction << 30 | (bytes as u64) << 16 | (KVMIO as u64) << 8 | number
}

/// One of a userfaultfd.
const fn userfault(direction: u64, number: u64, bytes: u64) -> u64 {
    direction << 30 | bytes << 16 | 0xaa << 8 | number
}

/// `_IO`.
const fn none(number: u64) -> u64 {
    code(0, number, 0)
}

/// `_IOW`: the kernel reads a `T`.
const fn write<T>(number: u64) -> u64 {
    code(1, number, size_of::<T>())
}

/// `_IOR`: the kernel writes a `T`, except where KVM's header has it the wrong way round.
const fn read<T>(number: u64) -> u64 {
    code(2, number, size_of::<T>())
}

/// `_IOWR`.
const fn both<T>(number: u64) -> u64 {
    code(3, number, size_of::<T>())
}
