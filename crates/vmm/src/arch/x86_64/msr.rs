//! Model-specific registers: which of them travel, and how they are read and written.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::errno;

use super::{cpuid::CpuidEntry, reach::only_reachable};
use crate::kvm::{KvmError, Trying as _};

/// Time-stamp counter. Not part of a vCPU's registers: the machine has one, see [`super::vm_state`].
pub(super) const IA32_TSC: u32 = 0x10;
/// What the guest added to the time-stamp counter of one vCPU.
pub(super) const IA32_TSC_ADJUST: u32 = 0x3b;
/// When the local APIC's timer fires. Written after everything that it depends on.
const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// What the processor is not vulnerable to.
const IA32_ARCH_CAPABILITIES: u32 = 0x10a;

/// Registers that KVM keeps but does not list: the memory types (Intel SDM, volume 3, 12.11.1).
const NOT_LISTED: [u32; 28] = [
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e,
    0x20f, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff,
];

/// How many registers go into one call; KVM takes up to 256.
const AT_ONCE: usize = 256;

/// One register of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Msr {
    pub(super) index: u32,
    pub(super) value: u64,
}

/// Why registers could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MsrError {
    /// KVM refused the call as a whole.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// KVM has no such register, or does not take this value.
    #[error("KVM does not let model-specific register {index:#x} be {verb}")]
    Refused {
        /// The register.
        index: u32,
        /// `read` or `set`.
        verb: &'static str,
    },
}

/// The registers of a guest that sees `cpuid` which can be both read and written back on this host: KVM lists some that it does not accept,
/// and some that the guest has no way to. To be asked of a vCPU that has this CPUID and has not run.
pub(crate) fn migratable(kvm: &Kvm, vcpu: &VcpuFd, cpuid: &[CpuidEntry]) -> Result<Vec<u32>, KvmError> {
    let mut candidates = accepted(kvm, vcpu)?;
    only_reachable(&mut candidates, cpuid);
    Ok(candidates)
}

/// All registers that can be both read and written back here. To be asked of a vCPU that has all features of the host, and has not run.
pub(crate) fn accepted(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<u32>, KvmError> {
    let listed = kvm.get_msr_index_list().trying("list its model-specific registers")?;
    let mut candidates: Vec<u32> = listed.as_slice().iter().copied().chain(NOT_LISTED).collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates.retain(|index| *index != IA32_TSC && accepts(vcpu, *index));
    Ok(candidates)
}

/// Whether `IA32_ARCH_CAPABILITIES` can be restored. Some KVM list it and refuse to have it written.
pub(crate) fn takes_arch_capabilities(vcpu: &VcpuFd) -> bool {
    accepts(vcpu, IA32_ARCH_CAPABILITIES)
}

/// Whether the register can be read, and what was read can be written.
fn accepts(vcpu: &VcpuFd, index: u32) -> bool {
    read_one(vcpu, index).is_ok_and(|value| write(vcpu, &[Msr { index, value }]).is_ok())
}

/// Reads one register.
pub(super) fn read_one(vcpu: &VcpuFd, index: u32) -> Result<u64, MsrError> {
    read(vcpu, &[index]).map(|msrs| msrs[0].value)
}

/// Reads all of `indices`.
pub(super) fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<Msr>, MsrError> {
    let mut values = Vec::with_capacity(indices.len());
    for indices in indices.chunks(AT_ONCE) {
        let wanted: Vec<_> =
            indices.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = to_kvm(&wanted)?;
        let done = vcpu.get_msrs(&mut msrs).trying("read model-specific registers")?;
        if let Some(refused) = indices.get(done) {
            return Err(MsrError::Refused { index: *refused, verb: "read" });
        }
        values.extend(msrs.as_slice().iter().map(|msr| Msr { index: msr.index, value: msr.data }));
    }
    Ok(values)
}

/// Writes all of `msrs`, the timer last.
pub(super) fn write(vcpu: &VcpuFd, msrs: &[Msr]) -> Result<(), MsrError> {
    let mut ordered: Vec<_> = msrs.to_vec();
    ordered.sort_by_key(|msr| msr.index == IA32_TSC_DEADLINE);
    for msrs in ordered.chunks(AT_ONCE) {
        let entries: Vec<_> = msrs
            .iter()
            .map(|msr| kvm_msr_entry { index: msr.index, data: msr.value, ..Default::default() })
            .collect();
        let done = vcpu.set_msrs(&to_kvm(&entries)?).trying("set model-specific registers")?;
        if let Some(refused) = msrs.get(done) {
            return Err(MsrError::Refused { index: refused.index, verb: "set" });
        }
    }
    Ok(())
}

fn to_kvm(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries)
        .map_err(|_| errno::Error::new(libc::E2BIG))
        .trying("take that many model-specific registers")
}
