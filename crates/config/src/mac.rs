use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ValueError, VmName, convert::written_as_text};

/// The MAC address of a network card: never multicast, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

/// Bit of the first byte that marks a group of stations (IEEE 802, I/G).
const MULTICAST: u8 = 1;
/// Bit of the first byte that marks an address not given out by the IEEE (IEEE 802, U/L).
const LOCAL: u8 = 2;

impl MacAddress {
    /// The six bytes, in the order in which they are sent.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The address of card `index` of the VM called `name` where none was given: locally administered, and the same
    /// every time, so that source and destination agree. VMs on one network must have different names.
    #[must_use]
    pub fn derived(name: &VmName, index: usize) -> Self {
        let text = name.as_str().bytes().chain([0]).chain(index.to_le_bytes());
        let [.., a, b, c, d, e] = fnv1a(text).to_be_bytes();
        Self([LOCAL, a, b, c, d, e])
    }
}

/// 64-bit FNV-1a: short, and defined for ever, unlike the hashers of the standard library.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl FromStr for MacAddress {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let wrong = |problem| ValueError::Mac { typed: typed.into(), problem };
        let octets = octets(typed).ok_or_else(|| wrong("is malformed: write six bytes of two hex digits"))?;
        if octets[0] & MULTICAST != 0 {
            return Err(wrong("is a multicast address: the first byte must be even"));
        }
        if octets == [0; 6] {
            return Err(wrong("is no address: leave mac= away to have one chosen, or write one"));
        }
        Ok(Self(octets))
    }
}

fn octets(typed: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut parts = typed.split(':');
    for octet in &mut octets {
        let part = parts.next()?;
        // from_str_radix alone would accept a sign.
        if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(octets)
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

written_as_text!(MacAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_bytes_of_two_hex_digits() {
        assert_eq!(
            "52:54:00:aB:CD:ef".parse::<MacAddress>().unwrap().octets(),
            [0x52, 0x54, 0, 0xab, 0xcd, 0xef]
        );
        for typed in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:00",
            "5:54:00:ab:cd:ef",
            "52-54-00-ab-cd-ef",
            "+5:54:00:ab:cd:ef",
            "52:54:00:ab:cd:eg",
            "52:54:00:ab:cd:ef ",
            "é2:54:00:ab:cd:ef",
        ] {
            assert!(typed.parse::<MacAddress>().is_err(), "{typed}");
        }
    }

    #[test]
    fn multicast_broadcast_and_zero_are_refused() {
        for typed in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(typed.parse::<MacAddress>().is_err(), "{typed}");
        }
    }

    #[test]
    fn derived_addresses_are_local_stable_and_differ() {
        let name = "db-1".parse().unwrap();
        let first = MacAddress::derived(&name, 0);
        assert_eq!(first.octets()[0] & (LOCAL | MULTICAST), LOCAL);
        assert_ne!(first, MacAddress::derived(&name, 1));
        assert_ne!(first, MacAddress::derived(&"db-2".parse().unwrap(), 0));
    }
}
