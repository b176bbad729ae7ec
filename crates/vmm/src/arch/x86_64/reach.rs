//! Which model-specific registers a guest can reach, by what it sees of its processor.
//!
//! KVM lists registers by what its host has, and lets them be read and written back whatever the machine sees. What the guest cannot reach need not
//! travel, and must not: a host that lacks such a register would be no place for a machine that has no use for it.

use std::collections::BTreeSet;

use super::{cpu_check::find, cpu_model::features, cpuid::CpuidEntry};

/// Registers from the first to the last, and the features of which one brings them (Intel SDM, volume 4; AMD APM, volume 2, appendix A). None:
/// they belong to what no machine of ours has.
const BROUGHT: [(u32, u32, &[&str]); 20] = [
    (0x48, 0x48, &["spec-ctrl", "stibp", "ssbd", "ibrs", "amd-stibp", "amd-ssbd"]),
    (0x8c, 0x8f, &[]),
    (0xe1, 0xe1, &["waitpkg"]),
    (0x10a, 0x10a, &["arch-capabilities"]),
    (0x122, 0x122, &["arch-capabilities"]),
    (0x1c4, 0x1c5, &["xfd"]),
    (0x345, 0x345, &["pdcm"]),
    // What virtual machines in the guest may use.
    (0x480, 0x491, &[]),
    (0x560, 0x561, &["intel-pt"]),
    (0x570, 0x572, &["intel-pt"]),
    (0x580, 0x587, &["intel-pt"]),
    (0x6a0, 0x6a2, &["shstk", "ibt"]),
    (0x6a4, 0x6a8, &["shstk"]),
    (0xd90, 0xd90, &["mpx"]),
    (0xda0, 0xda0, &["xsaves"]),
    // Hyper-V's: machines see KVM's own interface.
    (0x4000_0000, 0x4000_01ff, &[]),
    (0xc000_0103, 0xc000_0104, &["rdtscp", "rdpid"]),
    (0xc001_0117, 0xc001_0117, &[]),
    (0xc001_011f, 0xc001_011f, &["virt-ssbd"]),
    (0xc001_0200, 0xc001_020b, &["perfctr-core"]),
];

/// Intel's performance counters, and what goes with them; leaf 0xa tells of them.
const COUNTERS: [(u32, u32); 6] =
    [(0xc1, 0xc8), (0x186, 0x18d), (0x309, 0x30c), (0x38d, 0x390), (0x3f1, 0x3f2), (0x600, 0x600)];
/// AMD's second kind, of which leaf 0x8000_0022 tells.
const NEWER_COUNTERS: (u32, u32) = (0xc000_0300, 0xc000_0303);

/// Whether a guest that sees `cpuid` can read or write the register `index`. Of one that is not known here it is believed.
pub(crate) fn is_reachable(index: u32, cpuid: &[CpuidEntry]) -> bool {
    reachable(index, cpuid, &features(cpuid))
}

/// Those of `indices` that the guest can reach.
pub(super) fn only_reachable(indices: &mut Vec<u32>, cpuid: &[CpuidEntry]) {
    let shown = features(cpuid);
    indices.retain(|index| reachable(*index, cpuid, &shown));
}

fn reachable(index: u32, cpuid: &[CpuidEntry], shown: &BTreeSet<&'static str>) -> bool {
    let among = |(first, last): (u32, u32)| (first..=last).contains(&index);
    let eax = |leaf| find(cpuid, leaf, 0).map_or(0, |entry| entry.eax);
    if COUNTERS.into_iter().any(among) {
        return eax(0xa) & 0xff != 0;
    }
    if among(NEWER_COUNTERS) {
        return eax(0x8000_0022) & 1 != 0;
    }
    let brought = BROUGHT.iter().find(|(first, last, _)| among((*first, *last)));
    brought.is_none_or(|(_, _, by)| by.iter().any(|name| shown.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(leaf: u32, subleaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
        CpuidEntry { leaf, subleaf, indexed: true, eax, ebx, ecx, edx }
    }

    #[test]
    fn every_feature_that_brings_registers_is_known() {
        for (first, last, by) in BROUGHT {
            assert!(first <= last, "{first:#x}");
            assert!(
                by.iter().all(|name| cpu::by_name(name).is_some_and(|it| it.name == *name)),
                "{first:#x}"
            );
        }
    }

    #[test]
    fn a_guest_reaches_what_its_features_bring_and_nothing_of_the_hosts_beyond() {
        let small = vec![entry(1, 0, [0, 0, 1, 1])];
        let large = vec![
            entry(7, 0, [0, 0, 1 << 5, 1 << 26]),
            entry(0xa, 0, [2, 0, 0, 0]),
            entry(0xd, 1, [0x1f, 0, 0, 0]),
            entry(0x8000_0001, 0, [0, 0, 1 << 23, 1 << 27]),
            entry(0x8000_0022, 0, [1, 0, 0, 0]),
        ];
        let beyond =
            [0x48, 0xc1, 0x186, 0x309, 0x38f, 0xe1, 0x1c4, 0xda0, 0xc000_0103, 0xc001_0200, 0xc000_0300];
        for index in beyond {
            assert!(!is_reachable(index, &small) && is_reachable(index, &large), "{index:#x}");
        }
        // VMX's, Hyper-V's, SVM's: nobody's.
        for index in [0x480, 0x491, 0x4000_0000, 0x4000_0118, 0xc001_0117] {
            assert!(!is_reachable(index, &large), "{index:#x}");
        }
        // What every processor has, and what is not known here.
        for index in [0x174, 0x277, 0xc000_0081, 0x4b56_4d01, 0x7777_7777] {
            assert!(is_reachable(index, &small), "{index:#x}");
        }
    }
}
