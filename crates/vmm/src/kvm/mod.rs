//! The one door to `/dev/kvm`: opening it, checking that it can do what a machine needs, and making a VM.

mod bits;
mod dirty_log;
mod dirty_ring;
mod ioctl;
mod kick;
mod ring;
mod slots;
#[cfg(test)]
mod writer_guest;

use std::{mem::size_of, path::Path, sync::Arc};

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_EXCEPTION_PAYLOAD,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_XSAVE2,
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_PIT_SPEAKER_DUMMY, kvm_dirty_gfn,
    kvm_enable_cap, kvm_pit_config,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::errno;

pub(crate) use dirty_log::KvmDirtyLog;
pub(crate) use dirty_ring::DirtyRings;
pub(crate) use ioctl::stats_fd;
pub(crate) use kick::kick_signal;
pub(crate) use slots::MemorySlots;

/// Where KVM lives.
const KVM_DEVICE: &str = "/dev/kvm";

/// Why KVM could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// `/dev/kvm` is missing or may not be opened.
    #[error("Cannot open {KVM_DEVICE}: {advice}")]
    Open {
        /// What to do about it.
        advice: &'static str,
        /// What the kernel said.
        source: errno::Error,
    },
    /// The kernel speaks another KVM API.
    #[error("KVM of this host speaks API version {found}, version {KVM_API_VERSION} is needed")]
    ApiVersion {
        /// What it speaks.
        found: i32,
    },
    /// The kernel lacks something that a machine cannot do without.
    #[error("KVM of this host lacks {capability}: use a kernel that has it")]
    Capability {
        /// Name of the capability as in `linux/kvm.h`.
        capability: &'static str,
    },
    /// It keeps no dirty rings of this size.
    #[error(
        "KVM of this host keeps no dirty rings of {entries} entries, it has room for {most} (0: the kernel is older than 5.11): start the \
         machine with --dirty-log bitmap, or with a smaller ring"
    )]
    DirtyRing {
        /// What was asked for.
        entries: u32,
        /// What there is room for.
        most: u32,
    },
    /// A KVM call failed.
    #[error("KVM failed to {operation}")]
    Call {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: errno::Error,
    },
}

/// Says what was tried when a KVM call fails.
pub(crate) trait Trying<T> {
    /// Turns an errno into a [`KvmError::Call`] for `operation`, which follows "KVM failed to".
    fn trying(self, operation: &'static str) -> Result<T, KvmError>;
}

impl<T> Trying<T> for Result<T, errno::Error> {
    fn trying(self, operation: &'static str) -> Result<T, KvmError> {
        self.map_err(|source| KvmError::Call { operation, source })
    }
}

/// A fresh VM: no memory, no vCPUs, the interrupt controllers and the timer in the kernel.
#[derive(Debug)]
pub(crate) struct Hypervisor {
    pub(crate) kvm: Kvm,
    pub(crate) vm: Arc<VmFd>,
    /// Whether the dirty log leaves protecting pages to us (`KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`, initially set).
    pub(crate) manual_protect: bool,
    /// Bytes of a vCPU's XSAVE area.
    pub(crate) xsave_bytes: usize,
}

impl Hypervisor {
    /// Opens KVM and makes a VM. KVM needs a page at `identity_map` and three at `tss` on Intel processors.
    /// With `ring_entries` it writes down in rings which pages are dirtied, else it keeps bits.
    pub(crate) fn open(identity_map: u64, tss: usize, ring_entries: Option<u32>) -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|source| KvmError::Open { advice: advice(source), source })?;
        check(&kvm)?;
        let vm = kvm.create_vm().trying("create a virtual machine")?;
        vm.set_identity_map_address(identity_map).trying("place the identity map page")?;
        vm.set_tss_address(tss).trying("place the task state segment")?;
        vm.create_irq_chip().trying("create the interrupt controllers")?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).trying("create the interval timer")?;
        report_events_in_full(&vm)?;
        // Where pages are to be protected as they are cleared, rings do not protect them when logging starts.
        let manual_protect = match ring_entries {
            Some(entries) => enable_rings(&vm, entries).map(|()| false)?,
            None => enable_manual_protect(&vm),
        };
        let xsave_bytes = usize::try_from(vm.check_extension_raw(KVM_CAP_XSAVE2.into())).unwrap_or(0);
        Ok(Self { kvm, vm: Arc::new(vm), manual_protect, xsave_bytes: xsave_bytes.max(4096) })
    }
}

/// The capabilities without which no machine is built. The newest, KVM_CAP_EXCEPTION_PAYLOAD, came with Linux 4.20.
fn check(kvm: &Kvm) -> Result<(), KvmError> {
    let found = kvm.get_api_version();
    if found != KVM_API_VERSION.cast_signed() {
        return Err(KvmError::ApiVersion { found });
    }
    let needed = [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
        (Cap::Pit2, "KVM_CAP_PIT2"),
        (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
        (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
        (Cap::MpState, "KVM_CAP_MP_STATE"),
        (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
        (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
        (Cap::Xsave, "KVM_CAP_XSAVE"),
        (Cap::Xcrs, "KVM_CAP_XCRS"),
        (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    ];
    match needed.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, capability)) => Err(KvmError::Capability { capability }),
        None => Ok(()),
    }
}

/// Has KVM report exceptions that are pending as such. Otherwise reading them makes a page fault's address take effect in
/// CR2, which may have been read before. A pending triple fault is only reported by newer kernels; without that, the guest
/// has to run into it again.
fn report_events_in_full(vm: &VmFd) -> Result<(), KvmError> {
    let enable = |cap: u32| {
        let mut enable = kvm_enable_cap { cap, ..Default::default() };
        enable.args[0] = 1;
        vm.enable_cap(&enable)
    };
    if vm.check_extension_raw(KVM_CAP_EXCEPTION_PAYLOAD.into()) <= 0 {
        return Err(KvmError::Capability { capability: "KVM_CAP_EXCEPTION_PAYLOAD" });
    }
    enable(KVM_CAP_EXCEPTION_PAYLOAD).trying("report pending exceptions")?;
    if vm.check_extension_raw(KVM_CAP_X86_TRIPLE_FAULT_EVENT.into()) > 0 {
        enable(KVM_CAP_X86_TRIPLE_FAULT_EVENT).trying("report pending triple faults")?;
    }
    Ok(())
}

/// Has KVM write down which pages are dirtied, in rings of so many entries, one for each vCPU that is made after this.
fn enable_rings(vm: &VmFd, entries: u32) -> Result<(), KvmError> {
    let entry = u32::try_from(size_of::<kvm_dirty_gfn>()).unwrap_or(u32::MAX);
    let room = |cap: u32| u32::try_from(vm.check_extension_raw(cap.into())).unwrap_or(0) / entry;
    // The second is offered by all kernels since 6.1; on x86 they are the same.
    let caps = [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING];
    let cap = caps.into_iter().find(|cap| room(*cap) >= entries);
    let refused = || KvmError::DirtyRing { entries, most: caps.map(room).into_iter().max().unwrap_or(0) };
    let mut enable = kvm_enable_cap { cap: cap.ok_or_else(refused)?, ..Default::default() };
    enable.args[0] = u64::from(entries) * u64::from(entry);
    vm.enable_cap(&enable).trying("keep dirty rings")
}

/// Asks for a dirty log that starts full and is protected in the chunks that we clear. Says whether that was granted.
fn enable_manual_protect(vm: &VmFd) -> bool {
    let wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let offered = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    if !u32::try_from(offered).is_ok_and(|offered| offered & wanted == wanted) {
        return false;
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
    cap.args[0] = wanted.into();
    vm.enable_cap(&cap).is_ok()
}

fn advice(error: errno::Error) -> &'static str {
    match error.errno() {
        libc::ENOENT if !Path::new(KVM_DEVICE).exists() => {
            "it is missing; load the module kvm_intel or kvm_amd, and switch virtualisation on in the firmware"
        }
        libc::EACCES | libc::EPERM => "no permission; join the group 'kvm' or run as root",
        _ => "check that KVM works on this host (lsmod | grep kvm)",
    }
}
