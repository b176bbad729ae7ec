use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ValueError, convert::written_as_text};

/// Size of guest memory: 2 MiB to 8 TiB, a multiple of 2 MiB.
///
/// The multiple holds for every backing, so that a VM can move from small pages to huge pages. The upper limit is that of
/// one KVM memory slot (`KVM_MEM_MAX_NR_PAGES`, 2³¹−1 pages): memory above 4 GiB is one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize {
    bytes: u64,
}

/// Number of vCPUs, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "u8")]
pub struct CpuCount(u8);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl MemorySize {
    /// What a machine has unless it is told otherwise: 512 MiB.
    pub const DEFAULT: Self = Self { bytes: 512 << 20 };
    const GRANULE: u64 = 2 << 20;
    const MAX: u64 = 8 << 40;

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// The size in MiB.
    #[must_use]
    pub fn mib(self) -> u64 {
        self.bytes >> 20
    }
}

impl FromStr for MemorySize {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let bytes = size(typed)?;
        if bytes == 0 || bytes > Self::MAX || !bytes.is_multiple_of(Self::GRANULE) {
            return Err(ValueError::Memory { typed: typed.into() });
        }
        Ok(Self { bytes })
    }
}

/// The size in the largest unit that holds it exactly, as it can be typed.
impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.bytes.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.bytes >> shift),
            None => write!(f, "{}", self.bytes),
        }
    }
}

impl CpuCount {
    /// One vCPU.
    pub const ONE: Self = Self(1);
    const MAX: u8 = 64;

    /// The number of vCPUs.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for CpuCount {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        match typed.parse() {
            Ok(count @ 1..=Self::MAX) => Ok(Self(count)),
            _ => Err(ValueError::Cpus { typed: typed.into() }),
        }
    }
}

impl fmt::Display for CpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of a size with a unit: K, M, G or T (powers of 1024), also written KiB, kib and so on.
///
/// A bare number is refused because programs disagree on what it means (QEMU's `-m 1024` is MiB), and so are KB, MB and
/// GB, which are powers of 1000 to some.
fn size(typed: &str) -> Result<u64, ValueError> {
    let wrong = |problem| ValueError::Size { typed: typed.into(), problem };
    let digits = typed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = typed.split_at(digits);
    if number.is_empty() {
        return Err(wrong("does not begin with a number"));
    }
    if unit.is_empty() {
        return Err(wrong("has no unit"));
    }
    let number: u64 = number.parse().map_err(|_| wrong("is too large"))?;
    let mut rest = unit.chars();
    let letter = rest.next().map(|letter| letter.to_ascii_uppercase());
    let (_, shift) = UNITS
        .iter()
        .find(|(unit, _)| Some(*unit) == letter && matches!(rest.as_str(), "" | "iB" | "ib"))
        .ok_or_else(|| wrong("has an unknown unit"))?;
    number.checked_mul(1 << shift).ok_or_else(|| wrong("is too large"))
}

written_as_text!(MemorySize);

impl TryFrom<String> for CpuCount {
    type Error = ValueError;

    fn try_from(typed: String) -> Result<Self, ValueError> {
        typed.parse()
    }
}

impl From<CpuCount> for u8 {
    fn from(count: CpuCount) -> Self {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024_in_either_case() {
        for (typed, bytes) in [
            ("2M", 2 << 20),
            ("2048K", 2 << 20),
            ("4096k", 4 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("8T", 8 << 40),
        ] {
            assert_eq!(typed.parse::<MemorySize>().unwrap().bytes(), bytes, "{typed}");
        }
    }

    #[test]
    fn a_size_that_means_nothing_or_two_things_is_refused() {
        for typed in [
            "",
            "M",
            "1",
            "1024",
            "-1G",
            "+1G",
            " 1G",
            "1 G",
            "1.5G",
            "1MB",
            "1GB",
            "1E",
            "1GG",
            "1Gib ",
            "٣G",
            "1µ",
            "18446744073709551616K",
            "18446744073709551615T",
            "0x10M",
            "1e3M",
        ] {
            assert!(matches!(typed.parse::<MemorySize>(), Err(ValueError::Size { .. })), "{typed}");
        }
    }

    #[test]
    fn memory_is_2_mib_to_8_tib_in_whole_huge_pages() {
        for typed in ["0M", "0G", "1M", "3M", "1025K", "9T", "8193G"] {
            assert!(matches!(typed.parse::<MemorySize>(), Err(ValueError::Memory { .. })), "{typed}");
        }
    }

    #[test]
    fn sizes_print_in_their_largest_exact_unit() {
        for typed in ["2M", "512M", "1G", "1026M", "8T"] {
            assert_eq!(typed.parse::<MemorySize>().unwrap().to_string(), typed);
        }
        assert_eq!("1024M".parse::<MemorySize>().unwrap().to_string(), "1G");
    }

    #[test]
    fn cpus_are_1_to_64() {
        assert_eq!("64".parse::<CpuCount>().unwrap().get(), 64);
        for typed in ["0", "65", "-1", "", "256", "1.0", "two", "4294967297"] {
            assert!(typed.parse::<CpuCount>().is_err(), "{typed}");
        }
    }
}
