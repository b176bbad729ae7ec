use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// The name of the network behind it.
    pub name: String,
    /// That it is a port of the network's bridge, as without a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<InterfaceBridge>,
    /// Its address, not a multicast one; absent: one that is always the same for the namespace and the names of machine and card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 17))]
    pub mac_address: Option<String>,
    /// What the guest sees: virtio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Nothing is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceBridge {}

/// What is behind a network card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// What the card calls it.
    pub name: String,
    /// A bridge of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_bridge: Option<HostBridge>,
}

/// A bridge of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostBridge {
    /// Its name: 1 to 15 letters, digits, '-', '_' or '.'. On every node where the machine may run a bridge of this name leads to the same network.
    #[schemars(length(min = 1, max = 15))]
    pub bridge_name: String,
}

impl Interface {
    /// Its address: six bytes, of which the first says neither multicast nor nothing at all. `None` if what is said is none.
    #[must_use]
    pub fn mac(&self, namespace: &str, machine: &str) -> Option<[u8; 6]> {
        match &self.mac_address {
            Some(text) => parse_mac(text),
            None => Some(derived_mac(namespace, machine, &self.name)),
        }
    }
}

/// An address as KubeVirt takes it: six bytes in hexadecimal, with ':' or '-' between them.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut bytes = [0; 6];
    let mut words = text.split(separator);
    for byte in &mut bytes {
        let word = words.next().filter(|word| word.len() == 2)?;
        *byte = u8::from_str_radix(word, 16).ok().filter(|_| !word.starts_with('+'))?;
    }
    (words.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(bytes)
}

/// The same for the same names, whichever release says it: guests know their cards by it. FNV-1a, which is fixed for good.
fn derived_mac(namespace: &str, machine: &str, card: &str) -> [u8; 6] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in [namespace, machine, card].join("/").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let [a, b, c, d, e, ..] = (hash ^ (hash >> 40)).to_le_bytes();
    // Locally administered, of one card.
    [0x02, a, b, c, d, e]
}

/// Whether that can be the name of a bridge here: one that is in labels too.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    let is_whole = |letter: char| letter.is_ascii_alphanumeric();
    (1..=15).contains(&name.len())
        && name.starts_with(is_whole)
        && name.ends_with(is_whole)
        && name.chars().all(|letter| is_whole(letter) || "-_.".contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_bytes_of_one_card() {
        for good in ["02:00:00:00:00:01", "DE-ad-00-00-BE-af"] {
            assert!(parse_mac(good).is_some(), "{good}");
        }
        for wrong in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "02:00:00:00:00:1",
            "02:00:00:00:00:+1",
            "02:00:00:00:00:0g",
            "01:00:00:00:00:01",
            "00:00:00:00:00:00",
            "02:00-00:00:00:01",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_card_keeps_its_address_and_no_other_has_it() {
        let mac = |namespace, machine, card| derived_mac(namespace, machine, card);
        assert_eq!(mac("default", "web", "net"), mac("default", "web", "net"));
        let all = [
            mac("default", "web", "net"),
            mac("default", "web", "net2"),
            mac("default", "web2", "net"),
            mac("b", "web", "net"),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(one[0], 0x02);
            assert!(!all[..index].contains(one), "{all:?}");
        }
        // Guests know their cards by it.
        assert_eq!(mac("default", "debian", "lan"), [0x02, 0xb2, 0xcc, 0xfb, 0x12, 0xce]);
    }
}
