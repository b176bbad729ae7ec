//! The features of a processor that a guest can use, by name.

/// A bit of CPUID that tells of a feature (Intel SDM, volume 2, CPUID; AMD APM, volume 3, appendix E), with QEMU's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name: small letters, digits, '-' and '.'.
    pub name: &'static str,
    /// Leaf: `eax` of the instruction.
    pub leaf: u32,
    /// Sub-leaf: `ecx` of the instruction.
    pub subleaf: u32,
    /// The register of the result.
    pub register: Register,
    /// The bit, 0 to 31.
    pub bit: u8,
}

/// A register of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// Other names that people know features by, each with the first name of the feature.
pub const ALIASES: [(&str, &str); 10] = [
    ("sse3", "pni"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("lzcnt", "abm"),
    ("sha", "sha-ni"),
    ("i64", "lm"),
    ("ffxsr", "fxsr-opt"),
    ("xd", "nx"),
    ("pclmuldq", "pclmulqdq"),
    ("avx512-vnni", "avx512vnni"),
];

/// The feature of that name, in which '_' is as good as '-'.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Feature> {
    let name = name.replace('_', "-");
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, known)| known);
    FEATURES.iter().find(|feature| feature.name == name)
}

/// The features whose bits are set in `bits`, which that register returned.
pub fn in_word(
    leaf: u32,
    subleaf: u32,
    register: Register,
    bits: u32,
) -> impl Iterator<Item = &'static Feature> {
    FEATURES.iter().filter(move |feature| {
        (feature.leaf, feature.subleaf, feature.register) == (leaf, subleaf, register)
            && bits >> feature.bit & 1 == 1
    })
}

const fn feature(leaf: u32, subleaf: u32, register: Register, bit: u8, name: &'static str) -> Feature {
    Feature { name, leaf, subleaf, register, bit }
}

/// All features that have a name here.
pub const FEATURES: [Feature; 180] = {
    use Register::{Eax, Ebx, Ecx, Edx};
    [
        feature(1, 0, Edx, 0, "fpu"),
        feature(1, 0, Edx, 1, "vme"),
        feature(1, 0, Edx, 2, "de"),
        feature(1, 0, Edx, 3, "pse"),
        feature(1, 0, Edx, 4, "tsc"),
        feature(1, 0, Edx, 5, "msr"),
        feature(1, 0, Edx, 6, "pae"),
        feature(1, 0, Edx, 7, "mce"),
        feature(1, 0, Edx, 8, "cx8"),
        feature(1, 0, Edx, 9, "apic"),
        feature(1, 0, Edx, 11, "sep"),
        feature(1, 0, Edx, 12, "mtrr"),
        feature(1, 0, Edx, 13, "pge"),
        feature(1, 0, Edx, 14, "mca"),
        feature(1, 0, Edx, 15, "cmov"),
        feature(1, 0, Edx, 16, "pat"),
        feature(1, 0, Edx, 17, "pse36"),
        feature(1, 0, Edx, 18, "pn"),
        feature(1, 0, Edx, 19, "clflush"),
        feature(1, 0, Edx, 21, "ds"),
        feature(1, 0, Edx, 22, "acpi"),
        feature(1, 0, Edx, 23, "mmx"),
        feature(1, 0, Edx, 24, "fxsr"),
        feature(1, 0, Edx, 25, "sse"),
        feature(1, 0, Edx, 26, "sse2"),
        feature(1, 0, Edx, 27, "ss"),
        feature(1, 0, Edx, 28, "ht"),
        feature(1, 0, Edx, 29, "tm"),
        feature(1, 0, Edx, 30, "ia64"),
        feature(1, 0, Edx, 31, "pbe"),
        feature(1, 0, Ecx, 0, "pni"),
        feature(1, 0, Ecx, 1, "pclmulqdq"),
        feature(1, 0, Ecx, 2, "dtes64"),
        feature(1, 0, Ecx, 3, "monitor"),
        feature(1, 0, Ecx, 4, "ds-cpl"),
        feature(1, 0, Ecx, 5, "vmx"),
        feature(1, 0, Ecx, 6, "smx"),
        feature(1, 0, Ecx, 7, "est"),
        feature(1, 0, Ecx, 8, "tm2"),
        feature(1, 0, Ecx, 9, "ssse3"),
        feature(1, 0, Ecx, 10, "cid"),
        feature(1, 0, Ecx, 12, "fma"),
        feature(1, 0, Ecx, 13, "cx16"),
        feature(1, 0, Ecx, 14, "xtpr"),
        feature(1, 0, Ecx, 15, "pdcm"),
        feature(1, 0, Ecx, 17, "pcid"),
        feature(1, 0, Ecx, 18, "dca"),
        feature(1, 0, Ecx, 19, "sse4.1"),
        feature(1, 0, Ecx, 20, "sse4.2"),
        feature(1, 0, Ecx, 21, "x2apic"),
        feature(1, 0, Ecx, 22, "movbe"),
        feature(1, 0, Ecx, 23, "popcnt"),
        feature(1, 0, Ecx, 24, "tsc-deadline"),
        feature(1, 0, Ecx, 25, "aes"),
        feature(1, 0, Ecx, 26, "xsave"),
        feature(1, 0, Ecx, 28, "avx"),
        feature(1, 0, Ecx, 29, "f16c"),
        feature(1, 0, Ecx, 30, "rdrand"),
        feature(1, 0, Ecx, 31, "hypervisor"),
        feature(6, 0, Eax, 2, "arat"),
        feature(7, 0, Ebx, 0, "fsgsbase"),
        feature(7, 0, Ebx, 1, "tsc-adjust"),
        feature(7, 0, Ebx, 2, "sgx"),
        feature(7, 0, Ebx, 3, "bmi1"),
        feature(7, 0, Ebx, 4, "hle"),
        feature(7, 0, Ebx, 5, "avx2"),
        feature(7, 0, Ebx, 7, "smep"),
        feature(7, 0, Ebx, 8, "bmi2"),
        feature(7, 0, Ebx, 9, "erms"),
        feature(7, 0, Ebx, 10, "invpcid"),
        feature(7, 0, Ebx, 11, "rtm"),
        feature(7, 0, Ebx, 14, "mpx"),
        feature(7, 0, Ebx, 16, "avx512f"),
        feature(7, 0, Ebx, 17, "avx512dq"),
        feature(7, 0, Ebx, 18, "rdseed"),
        feature(7, 0, Ebx, 19, "adx"),
        feature(7, 0, Ebx, 20, "smap"),
        feature(7, 0, Ebx, 21, "avx512ifma"),
        feature(7, 0, Ebx, 23, "clflushopt"),
        feature(7, 0, Ebx, 24, "clwb"),
        feature(7, 0, Ebx, 25, "intel-pt"),
        feature(7, 0, Ebx, 26, "avx512pf"),
        feature(7, 0, Ebx, 27, "avx512er"),
        feature(7, 0, Ebx, 28, "avx512cd"),
        feature(7, 0, Ebx, 29, "sha-ni"),
        feature(7, 0, Ebx, 30, "avx512bw"),
        feature(7, 0, Ebx, 31, "avx512vl"),
        feature(7, 0, Ecx, 1, "avx512vbmi"),
        feature(7, 0, Ecx, 2, "umip"),
        feature(7, 0, Ecx, 3, "pku"),
        feature(7, 0, Ecx, 5, "waitpkg"),
        feature(7, 0, Ecx, 6, "avx512vbmi2"),
        feature(7, 0, Ecx, 7, "shstk"),
        feature(7, 0, Ecx, 8, "gfni"),
        feature(7, 0, Ecx, 9, "vaes"),
        feature(7, 0, Ecx, 10, "vpclmulqdq"),
        feature(7, 0, Ecx, 11, "avx512vnni"),
        feature(7, 0, Ecx, 12, "avx512bitalg"),
        feature(7, 0, Ecx, 14, "avx512-vpopcntdq"),
        feature(7, 0, Ecx, 16, "la57"),
        feature(7, 0, Ecx, 22, "rdpid"),
        feature(7, 0, Ecx, 24, "bus-lock-detect"),
        feature(7, 0, Ecx, 25, "cldemote"),
        feature(7, 0, Ecx, 27, "movdiri"),
        feature(7, 0, Ecx, 28, "movdir64b"),
        feature(7, 0, Ecx, 30, "sgxlc"),
        feature(7, 0, Ecx, 31, "pks"),
        feature(7, 0, Edx, 2, "avx512-4vnniw"),
        feature(7, 0, Edx, 3, "avx512-4fmaps"),
        feature(7, 0, Edx, 4, "fsrm"),
        feature(7, 0, Edx, 8, "avx512-vp2intersect"),
        feature(7, 0, Edx, 10, "md-clear"),
        feature(7, 0, Edx, 14, "serialize"),
        feature(7, 0, Edx, 16, "tsx-ldtrk"),
        feature(7, 0, Edx, 20, "ibt"),
        feature(7, 0, Edx, 22, "amx-bf16"),
        feature(7, 0, Edx, 23, "avx512-fp16"),
        feature(7, 0, Edx, 24, "amx-tile"),
        feature(7, 0, Edx, 25, "amx-int8"),
        feature(7, 0, Edx, 26, "spec-ctrl"),
        feature(7, 0, Edx, 27, "stibp"),
        feature(7, 0, Edx, 28, "flush-l1d"),
        feature(7, 0, Edx, 29, "arch-capabilities"),
        feature(7, 0, Edx, 30, "core-capability"),
        feature(7, 0, Edx, 31, "ssbd"),
        feature(7, 1, Eax, 4, "avx-vnni"),
        feature(7, 1, Eax, 5, "avx512-bf16"),
        feature(7, 1, Eax, 10, "fzrm"),
        feature(7, 1, Eax, 11, "fsrs"),
        feature(7, 1, Eax, 12, "fsrc"),
        feature(7, 1, Eax, 21, "amx-fp16"),
        feature(7, 1, Eax, 23, "avx-ifma"),
        feature(0xd, 1, Eax, 0, "xsaveopt"),
        feature(0xd, 1, Eax, 1, "xsavec"),
        feature(0xd, 1, Eax, 2, "xgetbv1"),
        feature(0xd, 1, Eax, 3, "xsaves"),
        feature(0xd, 1, Eax, 4, "xfd"),
        feature(0x8000_0001, 0, Edx, 11, "syscall"),
        feature(0x8000_0001, 0, Edx, 20, "nx"),
        feature(0x8000_0001, 0, Edx, 22, "mmxext"),
        feature(0x8000_0001, 0, Edx, 25, "fxsr-opt"),
        feature(0x8000_0001, 0, Edx, 26, "pdpe1gb"),
        feature(0x8000_0001, 0, Edx, 27, "rdtscp"),
        feature(0x8000_0001, 0, Edx, 29, "lm"),
        feature(0x8000_0001, 0, Edx, 30, "3dnowext"),
        feature(0x8000_0001, 0, Edx, 31, "3dnow"),
        feature(0x8000_0001, 0, Ecx, 0, "lahf-lm"),
        feature(0x8000_0001, 0, Ecx, 1, "cmp-legacy"),
        feature(0x8000_0001, 0, Ecx, 2, "svm"),
        feature(0x8000_0001, 0, Ecx, 3, "extapic"),
        feature(0x8000_0001, 0, Ecx, 4, "cr8legacy"),
        feature(0x8000_0001, 0, Ecx, 5, "abm"),
        feature(0x8000_0001, 0, Ecx, 6, "sse4a"),
        feature(0x8000_0001, 0, Ecx, 7, "misalignsse"),
        feature(0x8000_0001, 0, Ecx, 8, "3dnowprefetch"),
        feature(0x8000_0001, 0, Ecx, 9, "osvw"),
        feature(0x8000_0001, 0, Ecx, 10, "ibs"),
        feature(0x8000_0001, 0, Ecx, 11, "xop"),
        feature(0x8000_0001, 0, Ecx, 12, "skinit"),
        feature(0x8000_0001, 0, Ecx, 13, "wdt"),
        feature(0x8000_0001, 0, Ecx, 15, "lwp"),
        feature(0x8000_0001, 0, Ecx, 16, "fma4"),
        feature(0x8000_0001, 0, Ecx, 17, "tce"),
        feature(0x8000_0001, 0, Ecx, 19, "nodeid-msr"),
        feature(0x8000_0001, 0, Ecx, 21, "tbm"),
        feature(0x8000_0001, 0, Ecx, 22, "topoext"),
        feature(0x8000_0001, 0, Ecx, 23, "perfctr-core"),
        feature(0x8000_0001, 0, Ecx, 24, "perfctr-nb"),
        feature(0x8000_0007, 0, Edx, 8, "invtsc"),
        feature(0x8000_0008, 0, Ebx, 0, "clzero"),
        feature(0x8000_0008, 0, Ebx, 2, "xsaveerptr"),
        feature(0x8000_0008, 0, Ebx, 9, "wbnoinvd"),
        feature(0x8000_0008, 0, Ebx, 12, "ibpb"),
        feature(0x8000_0008, 0, Ebx, 14, "ibrs"),
        feature(0x8000_0008, 0, Ebx, 15, "amd-stibp"),
        feature(0x8000_0008, 0, Ebx, 17, "stibp-always-on"),
        feature(0x8000_0008, 0, Ebx, 24, "amd-ssbd"),
        feature(0x8000_0008, 0, Ebx, 25, "virt-ssbd"),
        feature(0x8000_0008, 0, Ebx, 26, "amd-no-ssb"),
        feature(0x8000_0008, 0, Ebx, 28, "amd-psfd"),
    ]
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_features_have_one_name_or_one_bit() {
        let names: BTreeSet<_> = FEATURES.iter().map(|feature| feature.name).collect();
        let bits: BTreeSet<_> =
            FEATURES.iter().map(|it| (it.leaf, it.subleaf, it.register as u8, it.bit)).collect();
        assert_eq!((names.len(), bits.len()), (FEATURES.len(), FEATURES.len()));
        assert!(ALIASES.iter().all(|(alias, known)| !names.contains(alias) && names.contains(known)));
    }

    #[test]
    fn features_are_found_by_any_of_their_names() {
        assert_eq!(by_name("avx2").unwrap().bit, 5);
        assert_eq!(by_name("sse4_2"), by_name("sse4.2"));
        assert_eq!(by_name("lahf_lm").unwrap().leaf, 0x8000_0001);
        assert_eq!(by_name("nothing"), None);
    }
}
