//! What the guest reads of its processors with CPUID.

use std::collections::BTreeMap;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use crate::kvm::{KvmError, Trying as _};

/// What one CPUID leaf (or sub-leaf) returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidEntry {
    /// Leaf: `eax` of the instruction.
    pub leaf: u32,
    /// Sub-leaf: `ecx` of the instruction, where it matters.
    pub subleaf: u32,
    /// Whether the sub-leaf matters.
    pub indexed: bool,
    /// Result.
    pub eax: u32,
    /// Result.
    pub ebx: u32,
    /// Result.
    pub ecx: u32,
    /// Result.
    pub edx: u32,
}

/// Virtual machines inside the guest, by vendor. Not offered: their state is not migrated.
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
/// Memory that only the guest can read, which cannot be moved either: enclaves (SGX and its launch control).
const SGX: u32 = 1 << 2;
const SGX_LAUNCH_CONTROL: u32 = 1 << 30;
const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPER_THREADING: u32 = 1 << 28;
const ARCH_CAPABILITIES: u32 = 1 << 29;
const CMP_LEGACY: u32 = 1 << 1;

/// The leaves that KVM supports on this host, in order.
pub(crate) fn supported(kvm: &Kvm) -> Result<Vec<CpuidEntry>, KvmError> {
    let cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).trying("list the processor features it supports")?;
    let mut entries: Vec<_> = cpuid.as_slice().iter().map(CpuidEntry::from).collect();
    entries.sort_by_key(CpuidEntry::key);
    entries.dedup_by_key(|entry| entry.key());
    Ok(entries)
}

/// What vCPU 0 of a machine of `cpus` vCPUs shows: what the host supports, less what does not migrate, with the topology
/// of one socket of single-threaded cores.
pub(crate) fn for_guest(supported: &[CpuidEntry], cpus: u8, tsc_deadline: bool) -> Vec<CpuidEntry> {
    let mut leaves: BTreeMap<(u32, u32), CpuidEntry> =
        supported.iter().map(|entry| (entry.key(), *entry)).collect();
    // Leaf 0x1f and AMD's 0x8000_0026 would repeat leaf 0xb; the kernel looks at the latter where they are missing.
    leaves.retain(|(leaf, _), _| !matches!(leaf, 0xb | 0x1f | 0x8000_0026));
    let highest = leaves.get(&(0, 0)).map_or(0, |entry| entry.eax);
    for entry in leaves.values_mut() {
        adjust(entry, cpus, tsc_deadline);
    }
    if highest >= 0xb {
        leaves.extend(topology(cpus).map(|entry| (entry.key(), entry)));
    }
    leaves.into_values().collect()
}

/// The same as another vCPU of the machine shows it.
pub(crate) fn for_vcpu(template: &[CpuidEntry], vcpu: u8) -> Vec<CpuidEntry> {
    let mut entries = template.to_vec();
    let id = u32::from(vcpu);
    for entry in &mut entries {
        match entry.leaf {
            1 => entry.ebx = entry.ebx & 0x00ff_ffff | id << 24,
            0xb => entry.edx = id,
            0x8000_001e => {
                entry.eax = id;
                entry.ebx = entry.ebx & !0xff | id;
            }
            _ => {}
        }
    }
    entries
}

/// Hides `IA32_ARCH_CAPABILITIES`, for hosts whose KVM offers the register but does not let it be restored.
pub(crate) fn without_arch_capabilities(template: &mut [CpuidEntry]) {
    for entry in template.iter_mut().filter(|entry| entry.key() == (7, 0)) {
        entry.edx &= !ARCH_CAPABILITIES;
    }
}

/// The form KVM takes.
///
/// # Errors
/// More entries than KVM takes.
pub(crate) fn to_kvm(entries: &[CpuidEntry]) -> Result<CpuId, KvmError> {
    let entries: Vec<_> = entries.iter().map(kvm_cpuid_entry2::from).collect();
    CpuId::from_entries(&entries)
        .map_err(|_| vmm_sys_util::errno::Error::new(libc::E2BIG))
        .trying("take that many processor features")
}

fn adjust(entry: &mut CpuidEntry, cpus: u8, tsc_deadline: bool) {
    let cpus = u32::from(cpus);
    let many = |bit: u32| if cpus > 1 { bit } else { 0 };
    match (entry.leaf, entry.subleaf) {
        (1, _) => {
            entry.ebx = entry.ebx & 0xff00_ffff & 0x00ff_ffff | cpus.next_power_of_two() << 16;
            entry.ecx = entry.ecx & !(VMX | TSC_DEADLINE) | HYPERVISOR;
            entry.ecx |= if tsc_deadline { TSC_DEADLINE } else { 0 };
            entry.edx = entry.edx & !HYPER_THREADING | many(HYPER_THREADING);
        }
        // Deterministic cache parameters: levels 1 and 2 belong to one core, level 3 to all.
        (4 | 0x8000_001d, _) if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { cpus - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
            if entry.leaf == 4 {
                entry.eax |= (cpus - 1) << 26;
            }
        }
        (0x8000_0001, _) => entry.ecx = entry.ecx & !(SVM | CMP_LEGACY) | many(CMP_LEGACY),
        (0x8000_0008, _) => entry.ecx = entry.ecx & !0xf0ff | (cpus - 1) | core_bits(cpus) << 12,
        (7, 0) => {
            entry.ebx &= !SGX;
            entry.ecx &= !SGX_LAUNCH_CONTROL;
        }
        // What there is to know of enclaves, virtual machines and encrypted memory that are not offered.
        (0x12 | 0x8000_000a | 0x8000_001f, subleaf) => {
            *entry = CpuidEntry { leaf: entry.leaf, subleaf, indexed: entry.indexed, ..Default::default() };
        }
        (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (0, 0, 0),
        _ => {}
    }
}

/// Leaf 0xb: threads of a core, cores of the socket, end (Intel SDM, volume 2, CPUID; AMD APM, volume 3, E.3.8).
fn topology(cpus: u8) -> impl Iterator<Item = CpuidEntry> {
    let cpus = u32::from(cpus);
    let level = |subleaf: u32, kind: u32, shift: u32, count: u32| CpuidEntry {
        leaf: 0xb,
        subleaf,
        indexed: true,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | subleaf,
        edx: 0,
    };
    [level(0, 1, 0, 1), level(1, 2, core_bits(cpus), cpus), level(2, 0, 0, 0)].into_iter()
}

/// Bits of an APIC id that tell cores apart.
fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

impl CpuidEntry {
    /// Leaf and sub-leaf, which no two entries have in common.
    pub(crate) fn key(&self) -> (u32, u32) {
        (self.leaf, self.subleaf)
    }
}

impl From<&kvm_cpuid_entry2> for CpuidEntry {
    fn from(kvm: &kvm_cpuid_entry2) -> Self {
        let indexed = kvm.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
        Self {
            leaf: kvm.function,
            subleaf: kvm.index,
            indexed,
            eax: kvm.eax,
            ebx: kvm.ebx,
            ecx: kvm.ecx,
            edx: kvm.edx,
        }
    }
}

impl From<&CpuidEntry> for kvm_cpuid_entry2 {
    fn from(entry: &CpuidEntry) -> Self {
        Self {
            function: entry.leaf,
            index: entry.subleaf,
            flags: if entry.indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(leaf: u32, subleaf: u32, registers: [u32; 4]) -> CpuidEntry {
        let [eax, ebx, ecx, edx] = registers;
        CpuidEntry { leaf, subleaf, indexed: matches!(leaf, 4 | 7 | 0xb), eax, ebx, ecx, edx }
    }

    fn find(entries: &[CpuidEntry], leaf: u32, subleaf: u32) -> CpuidEntry {
        *entries.iter().find(|entry| entry.key() == (leaf, subleaf)).unwrap()
    }

    #[test]
    fn four_cpus_are_four_cores_of_one_socket() {
        let host = [
            entry(0, 0, [0x1f, 0, 0, 0]),
            entry(1, 0, [0, 0x0902_0800, 0, 0]),
            entry(4, 0, [0x1c00_4121, 0, 0, 0]),
            entry(4, 3, [0x1c03_c163, 0, 0, 0]),
            entry(0xb, 0, [1, 2, 0x100, 9]),
            entry(0x1f, 0, [1, 2, 0x100, 9]),
        ];
        let guest = for_guest(&host, 4, false);
        assert_eq!(find(&guest, 1, 0).ebx, 0x0004_0800);
        assert_eq!(find(&guest, 1, 0).edx, HYPER_THREADING);
        assert_eq!(find(&guest, 4, 0).eax, 3 << 26 | 0x0121);
        assert_eq!(find(&guest, 4, 3).eax, 3 << 26 | 3 << 14 | 0x0163);
        let core = find(&guest, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx), (2, 4, 0x201));
        assert!(guest.iter().all(|entry| entry.leaf != 0x1f));

        let third = for_vcpu(&guest, 3);
        assert_eq!(find(&third, 1, 0).ebx, 0x0304_0800);
        assert_eq!((find(&third, 0xb, 0).edx, find(&third, 0xb, 1).edx), (3, 3));
    }

    #[test]
    fn what_cannot_be_migrated_is_not_offered() {
        let host = [
            entry(1, 0, [0, 0, VMX, 0]),
            entry(7, 0, [0, SGX, SGX_LAUNCH_CONTROL, 0]),
            entry(0x12, 0, [1, 2, 3, 4]),
            entry(0x8000_0001, 0, [0, 0, SVM, 0]),
            entry(0x8000_001f, 0, [1, 2, 3, 4]),
        ];
        let guest = for_guest(&host, 1, true);
        let zero = |leaf| (find(&guest, leaf, 0).eax, find(&guest, leaf, 0).ebx, find(&guest, leaf, 0).ecx);
        assert_eq!([zero(7), zero(0x12), zero(0x8000_001f)], [(0, 0, 0); 3]);
        assert_eq!(find(&guest, 1, 0).ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(find(&guest, 0x8000_0001, 0).ecx, 0);
    }
}
