//! The processor that a machine sees where it is to see less than its host can show.

use std::collections::BTreeSet;

use cpu::{CpuModel, FEATURES, Feature, Register};

pub(crate) use super::cpu_check::vendor;
use super::{
    cpu_check::{WORDS, find, of},
    cpuid::CpuidEntry,
};

/// AMD shows these features of leaf 1 in leaf 0x8000_0001 once more (AMD APM, volume 3, E.4.2).
const REPEATED: u32 = 0x0183_f3ff;
/// What KVM offers its guests: it is the same on every host, or compared bit by bit.
const PARAVIRTUAL: u32 = 0x4000_0001;
/// Parts of the XSAVE area that go with a feature; x87 and SSE always go (Intel SDM, volume 1, 13.1).
const AREAS: [(&str, u32); 5] =
    [("avx", 0x4), ("mpx", 0x18), ("avx512f", 0xe0), ("pku", 0x200), ("amx-tile", 0x6_0000)];
const LEGACY_AREAS: u32 = 0x3;
/// Bytes of the area before its extended part.
const LEGACY_BYTES: u32 = 576;
/// Bits of physical addresses of a machine that is to be the same everywhere, as QEMU has it: enough for this much memory.
const ADDRESS_BITS: u32 = 40;
const ADDRESSED: u64 = 512 << 30;

/// The features that `cpuid` shows, by name.
pub(crate) fn features(cpuid: &[CpuidEntry]) -> BTreeSet<&'static str> {
    let shows = |feature: &&Feature| {
        let entry = find(cpuid, feature.leaf, feature.subleaf);
        entry.is_some_and(|entry| of(feature.register, &entry) >> feature.bit & 1 == 1)
    };
    FEATURES.iter().filter(shows).map(|feature| feature.name).collect()
}

/// Bytes of the XSAVE area that a guest which sees this can use.
pub(crate) fn xsave_bytes(cpuid: &[CpuidEntry]) -> u32 {
    find(cpuid, 0xd, 0).map_or(0, |entry| entry.ecx)
}

/// What its maker calls the processor.
pub(crate) fn brand(cpuid: &[CpuidEntry]) -> String {
    let parts = (0x8000_0002..=0x8000_0004).filter_map(|leaf| find(cpuid, leaf, 0));
    let bytes = parts.flat_map(|it| [it.eax, it.ebx, it.ecx, it.edx]).flat_map(u32::to_le_bytes);
    let text: String = bytes.filter(|byte| (b' '..=b'~').contains(byte)).map(char::from).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Leaves of `cpuid`, which is all that the host can show a machine of so many bytes, what `model` has.
///
/// # Errors
/// The host lacks these features of the model.
pub(crate) fn narrow(
    cpuid: &mut [CpuidEntry],
    model: &CpuModel,
    bytes: u64,
) -> Result<(), Vec<&'static str>> {
    if model.is_host() {
        return Ok(());
    }
    let host: BTreeSet<_> = features(cpuid).into_iter().filter(|name| !CpuModel::is_fixed(name)).collect();
    let lacking = model.lacking_on(&host);
    if !lacking.is_empty() {
        return Err(lacking);
    }
    let shown = model.features_of(&host);
    let keeps = |feature: &Feature| shown.contains(feature.name) || CpuModel::is_fixed(feature.name);
    for entry in cpuid.iter_mut() {
        for (leaf, subleaf, registers) in WORDS {
            if entry.key() == (leaf, subleaf) && !matches!(leaf, 0xd if subleaf == 0) && leaf != PARAVIRTUAL {
                registers.iter().for_each(|register| narrow_word(entry, *register, model.is_model(), keeps));
            }
        }
        if model.is_model() && entry.leaf == 0x8000_0008 && bytes <= ADDRESSED {
            entry.eax = entry.eax & !0xff | (entry.eax & 0xff).min(ADDRESS_BITS);
        }
        // Traces, locked keys, and performance counters, of which each host has others.
        if model.is_model() && matches!(entry.leaf, 0xa | 0x14 | 0x19 | 0x8000_0022) {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
    }
    narrow_repeated(cpuid);
    narrow_areas(cpuid, &shown);
    Ok(())
}

fn narrow_word(entry: &mut CpuidEntry, register: Register, nameless: bool, keeps: impl Fn(&Feature) -> bool) {
    let (leaf, subleaf) = entry.key();
    let word = FEATURES.iter().filter(|it| (it.leaf, it.subleaf, it.register) == (leaf, subleaf, register));
    let (kept, left): (Vec<_>, Vec<_>) = word.partition(|feature| keeps(feature));
    let bits = |features: Vec<&Feature>| features.iter().fold(0_u32, |bits, feature| bits | 1 << feature.bit);
    let repeated = if (leaf, register) == (0x8000_0001, Register::Edx) { REPEATED } else { 0 };
    let mask = if nameless { bits(kept) | repeated } else { !bits(left) };
    match register {
        Register::Eax => entry.eax &= mask,
        Register::Ebx => entry.ebx &= mask,
        Register::Ecx => entry.ecx &= mask,
        Register::Edx => entry.edx &= mask,
    }
}

fn narrow_repeated(cpuid: &mut [CpuidEntry]) {
    let shown = find(cpuid, 1, 0).map_or(0, |entry| entry.edx);
    for entry in cpuid.iter_mut().filter(|entry| entry.leaf == 0x8000_0001) {
        entry.edx &= shown | !REPEATED;
    }
}

/// Leaves the parts of the XSAVE area that go with what is shown, and says how large it is then.
fn narrow_areas(cpuid: &mut [CpuidEntry], shown: &BTreeSet<&'static str>) {
    let extended = AREAS.iter().filter(|(name, _)| shown.contains(name)).fold(0, |all, (_, area)| all | area);
    let areas = if shown.contains("xsave") { LEGACY_AREAS | extended } else { 0 };
    let supervised =
        find(cpuid, 0xd, 1).map_or(0, |entry| entry.ecx) & if shown.contains("shstk") { !0 } else { 0 };
    let mut bytes = if areas == 0 { 0 } else { LEGACY_BYTES };
    for entry in cpuid.iter_mut().filter(|entry| entry.leaf == 0xd && entry.subleaf >= 2) {
        if entry.subleaf < 32 && (areas | supervised) >> entry.subleaf & 1 == 1 {
            bytes = bytes.max(entry.eax.saturating_add(entry.ebx));
        } else {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
    }
    for entry in cpuid.iter_mut().filter(|entry| entry.leaf == 0xd && entry.subleaf < 2) {
        if entry.subleaf == 0 {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & areas, bytes, bytes, 0);
        } else {
            (entry.ecx, entry.edx) = (supervised, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(leaf: u32, subleaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
        CpuidEntry { leaf, subleaf, indexed: true, eax, ebx, ecx, edx }
    }

    /// A host that has everything, with AVX-512 and nothing behind it.
    fn host() -> Vec<CpuidEntry> {
        vec![
            entry(1, 0, [0x800f12, 0, !0, !0]),
            entry(7, 0, [0, !0, !0, !0]),
            entry(0xd, 0, [0xe7, 2696, 2696, 0]),
            entry(0xd, 1, [!0, 0, !0, 0]),
            entry(0xd, 2, [256, 576, 0, 0]),
            entry(0xd, 5, [64, 1088, 0, 0]),
            entry(0xd, 6, [512, 1152, 0, 0]),
            entry(0xd, 7, [1024, 1664, 0, 0]),
            entry(PARAVIRTUAL, 0, [7, 0, 0, 0]),
            entry(0x8000_0001, 0, [0, 0, !0, !0]),
            entry(0x8000_0008, 0, [48, !0, 0, 0]),
        ]
    }

    fn narrowed(model: &str) -> Vec<CpuidEntry> {
        let mut cpuid = host();
        narrow(&mut cpuid, &model.parse().unwrap(), 1 << 30).unwrap();
        cpuid
    }

    #[test]
    fn a_model_shows_its_features_and_nothing_that_has_no_name() {
        let model: CpuModel = "x86-64-v3,+aes".parse().unwrap();
        let cpuid = narrowed("x86-64-v3,+aes");
        let shown: BTreeSet<_> =
            features(&cpuid).into_iter().filter(|name| !CpuModel::is_fixed(name)).collect();
        assert_eq!(shown, model.features_of(&BTreeSet::new()));
        assert_eq!(cpuid[0].eax, 0x800f12, "it is no feature");
        assert_eq!(find(&cpuid, PARAVIRTUAL, 0).unwrap().eax, 7);
        assert_eq!(find(&cpuid, 0x8000_0008, 0).unwrap().eax, 40);
    }

    #[test]
    fn the_area_of_a_model_ends_with_its_last_part() {
        let cpuid = narrowed("x86-64-v3");
        let size = find(&cpuid, 0xd, 0).unwrap();
        assert_eq!((size.eax, size.ebx, size.ecx), (7, 832, 832));
        assert_eq!(find(&cpuid, 0xd, 2).unwrap().ebx, 576);
        assert_eq!(find(&cpuid, 0xd, 6).unwrap().ebx, 0);
        assert_eq!(find(&narrowed("x86-64-v4"), 0xd, 0).unwrap().ecx, 2688);
        assert_eq!(find(&narrowed("x86-64"), 0xd, 0).unwrap().eax, 0);
    }

    #[test]
    fn the_host_less_a_feature_keeps_what_has_no_name() {
        let cpuid = narrowed("host,-avx512f,-avx2");
        assert_eq!(find(&cpuid, 7, 0).unwrap().ebx, !(1 << 16 | 1 << 5));
        assert_eq!(find(&cpuid, 0xd, 0).unwrap().eax, 7);
        assert_eq!(narrowed("host"), host());
    }

    #[test]
    fn what_the_host_lacks_of_a_model_is_named() {
        let mut cpuid = host();
        cpuid[1].ebx = 0;
        assert_eq!(narrow(&mut cpuid, &"x86-64-v3".parse().unwrap(), 0), Err(vec!["avx2", "bmi1", "bmi2"]));
    }

    #[test]
    fn a_machine_with_a_model_can_run_on_a_larger_host_and_on_one_that_has_just_that() {
        let machine = narrowed("x86-64-v2");
        for here in [host(), narrowed("x86-64-v3"), narrowed("x86-64-v2")] {
            assert_eq!(super::super::cpu_reasons(&machine, &here), Vec::<String>::new());
        }
        assert!(!super::super::cpu_reasons(&narrowed("x86-64-v3"), &machine).is_empty());
    }
}
