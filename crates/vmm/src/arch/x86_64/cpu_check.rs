//! Whether this host can run a guest that was started on another processor.

use cpu::Register;

use super::cpuid::CpuidEntry;

/// The registers of CPUID in which each bit is a feature, and a set bit something that a guest may use (Intel SDM,
/// volume 2, CPUID; AMD APM, volume 3, appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst).
pub(super) const WORDS: [(u32, u32, &[Register]); 15] = {
    use Register::{Eax, Ebx, Ecx, Edx};
    [
        (1, 0, &[Ecx, Edx]),
        (6, 0, &[Eax]),
        (7, 0, &[Ebx, Ecx, Edx]),
        (7, 1, &[Eax, Ebx, Ecx, Edx]),
        (7, 2, &[Edx]),
        (0xd, 0, &[Eax, Edx]),
        (0xd, 1, &[Eax, Ecx, Edx]),
        (0x14, 0, &[Ebx, Ecx]),
        (0x19, 0, &[Eax, Ebx]),
        (0x4000_0001, 0, &[Eax]),
        (0x8000_0001, 0, &[Ecx, Edx]),
        (0x8000_0007, 0, &[Edx]),
        (0x8000_0008, 0, &[Ebx]),
        (0x8000_0021, 0, &[Eax]),
        (0xc000_0001, 0, &[Edx]),
    ]
};

/// Bits that are not looked at: what the guest has switched on rather than what the processor has (OSXSAVE and OSPKE); and VME, which nothing of 64 bits
/// can use, with AMD's second place for it: models had it in releases before.
const IGNORED: [(u32, Register, u32); 4] = [
    (1, Register::Ecx, 1 << 27),
    (7, Register::Ecx, 1 << 4),
    (1, Register::Edx, 1 << 1),
    (0x8000_0001, Register::Edx, 1 << 1),
];

/// Every reason why a guest that sees `source` cannot run where it would see `here`. None: it can.
pub(crate) fn reasons(source: &[CpuidEntry], here: &[CpuidEntry]) -> Vec<String> {
    let (theirs, ours) = (vendor(source), vendor(here));
    if theirs != ours {
        return vec![format!("The processor is a {theirs} on the source and a {ours} here")];
    }
    let features = WORDS.iter().flat_map(|(leaf, subleaf, registers)| {
        registers.iter().filter_map(move |register| missing(source, here, *leaf, *subleaf, *register))
    });
    features.chain(state_areas(source, here)).chain(address_bits(source, here)).collect()
}

fn missing(
    source: &[CpuidEntry],
    here: &[CpuidEntry],
    leaf: u32,
    subleaf: u32,
    register: Register,
) -> Option<String> {
    let read = |entries| find(entries, leaf, subleaf).map_or(0, |entry| of(register, &entry));
    let ignored = IGNORED.iter().find(|(of, in_register, _)| (*of, *in_register) == (leaf, register));
    let missing = read(source) & !read(here) & !ignored.map_or(0, |(_, _, bits)| *bits);
    if missing == 0 {
        return None;
    }
    let bits: Vec<_> = (0..32).filter(|bit| missing >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
    let names: Vec<_> = cpu::in_word(leaf, subleaf, register, missing).map(|feature| feature.name).collect();
    let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    Some(format!(
        "The processor here lacks features that the guest sees: CPUID leaf {leaf:#x}.{subleaf} {}, bits {} ({missing:#010x}){names}",
        format!("{register:?}").to_lowercase(),
        bits.join(", ")
    ))
}

/// The layout of the XSAVE area has to be the same: it is saved and restored as one piece.
fn state_areas<'a>(source: &'a [CpuidEntry], here: &'a [CpuidEntry]) -> impl Iterator<Item = String> + 'a {
    let used = |register: fn(&CpuidEntry) -> u32, subleaf| {
        find(source, 0xd, subleaf).map_or(0, |entry| register(&entry))
    };
    let components = used(|entry| entry.eax, 0) | used(|entry| entry.ecx, 1);
    (2..32).filter(move |component| components >> component & 1 == 1).filter_map(|component| {
        let place = |entries| find(entries, 0xd, component).map(|entry| (entry.eax, entry.ebx));
        (place(source) != place(here)).then(|| {
            format!("The processor here keeps XSAVE component {component} elsewhere than the source (CPUID leaf 0xd.{component})")
        })
    })
}

fn address_bits(source: &[CpuidEntry], here: &[CpuidEntry]) -> Option<String> {
    let bits = |entries| find(entries, 0x8000_0008, 0).map_or(36, |entry| entry.eax & 0xff);
    let (theirs, ours) = (bits(source), bits(here));
    (theirs > ours).then(|| {
        format!("Physical addresses have {theirs} bits on the source and {ours} here (CPUID leaf 0x80000008.0 eax)")
    })
}

pub(super) fn find(entries: &[CpuidEntry], leaf: u32, subleaf: u32) -> Option<CpuidEntry> {
    entries.iter().find(|entry| entry.key() == (leaf, subleaf)).copied()
}

/// The name that the processor gives its maker, without what cannot be printed.
pub(crate) fn vendor(entries: &[CpuidEntry]) -> String {
    let Some(leaf) = find(entries, 0, 0) else { return "unknown".into() };
    let bytes = [leaf.ebx, leaf.edx, leaf.ecx].into_iter().flat_map(u32::to_le_bytes);
    bytes.filter(u8::is_ascii_graphic).map(char::from).collect()
}

pub(super) fn of(register: Register, entry: &CpuidEntry) -> u32 {
    match register {
        Register::Eax => entry.eax,
        Register::Ebx => entry.ebx,
        Register::Ecx => entry.ecx,
        Register::Edx => entry.edx,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor() -> Vec<CpuidEntry> {
        let entry = |leaf, subleaf, [eax, ebx, ecx, edx]: [u32; 4]| CpuidEntry {
            leaf,
            subleaf,
            indexed: true,
            eax,
            ebx,
            ecx,
            edx,
        };
        vec![
            entry(0, 0, [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            entry(1, 0, [0, 0, 0x0000_0001, 0x0000_0030]),
            entry(7, 0, [0, 0x0000_0021, 0, 0]),
            entry(0xd, 0, [0x7, 0, 0, 0]),
            entry(0xd, 2, [0x100, 0x240, 0, 0]),
            entry(0x8000_0008, 0, [48, 0, 0, 0]),
        ]
    }

    #[test]
    fn a_processor_can_take_over_from_its_like_and_from_a_lesser_one() {
        assert_eq!(reasons(&processor(), &processor()), Vec::<String>::new());
        let mut lesser = processor();
        lesser[1].edx = 0x10;
        assert_eq!(reasons(&lesser, &processor()), Vec::<String>::new());
    }

    /// One that was started with a model of a release before moves to a host that was started with the same words.
    #[test]
    fn what_nothing_of_64_bits_can_use_is_not_missed() {
        let mut before = processor();
        before[1].edx |= 1 << 1;
        assert_eq!(reasons(&before, &processor()), Vec::<String>::new());
    }

    #[test]
    fn every_missing_feature_is_named() {
        let mut here = processor();
        here[1].ecx = 0;
        here[2].ebx = 1;
        here[4].ebx = 0x340;
        here[5].eax = 40;
        let found = reasons(&processor(), &here);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].contains("leaf 0x1.0 ecx, bits 0 (0x00000001): pni"), "{}", found[0]);
        assert!(found[1].contains("leaf 0x7.0 ebx, bits 5 (0x00000020)"), "{}", found[1]);
    }

    #[test]
    fn another_vendor_is_the_only_reason_given() {
        let mut intel = processor();
        (intel[0].ebx, intel[0].ecx, intel[0].edx) = (0x756e_6547, 0x6c65_746e, 0x4965_6e69);
        intel[1].ecx = 0;
        assert_eq!(
            reasons(&processor(), &intel),
            ["The processor is a AuthenticAMD on the source and a GenuineIntel here"]
        );
    }
}
