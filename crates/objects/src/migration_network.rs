//! A network that migrations have to themselves.

// Of `core`, which has addresses and nothing that reaches them.
use core::{net::IpAddr, str::FromStr};

/// A network by its prefix, as `10.88.0.0/24` or `fd00:88::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationNetwork {
    is_v6: bool,
    /// The first address, as a number.
    first: u128,
    /// Bits of an address that say where in the network it is; fewer than an address has.
    host_bits: u32,
}

/// Why a text is no network for migrations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationNetworkError {
    /// It has another form.
    #[error("must be a network with the length of its prefix (1 to 32, of IPv6 to 128), as 10.88.0.0/24")]
    Form,
    /// It names an address in a network.
    #[error("names an address in a network, and not the network: say {0}")]
    Address(String),
    /// Addresses in it lead to one host only together with the name of a card, or to several.
    #[error("must be a network of ordinary addresses, neither link-local ones of IPv6 nor multicast")]
    Kind,
}

impl FromStr for MigrationNetwork {
    type Err = MigrationNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = text.split_once('/').ok_or(MigrationNetworkError::Form)?;
        let address: IpAddr = address.parse().map_err(|_| MigrationNetworkError::Form)?;
        let is_number = length.len() <= 3 && length.bytes().all(|digit| digit.is_ascii_digit());
        let length: u32 =
            is_number.then(|| length.parse().ok()).flatten().ok_or(MigrationNetworkError::Form)?;
        let bits = if address.is_ipv6() { 128 } else { 32 };
        if !(1..=bits).contains(&length) {
            return Err(MigrationNetworkError::Form);
        }
        let is_local = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
        if is_local || address.is_multicast() {
            return Err(MigrationNetworkError::Kind);
        }
        let host_bits = bits - length;
        let first = number(address) >> host_bits << host_bits;
        let network = Self { is_v6: address.is_ipv6(), first, host_bits };
        if first != number(address) {
            return Err(MigrationNetworkError::Address(format!("{}/{length}", network.first_address())));
        }
        Ok(network)
    }
}

impl MigrationNetwork {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_v6 && number(address) >> self.host_bits == self.first >> self.host_bits
    }

    fn first_address(&self) -> IpAddr {
        match u32::try_from(self.first) {
            Ok(four) if !self.is_v6 => IpAddr::V4(four.into()),
            _ => IpAddr::V6(self.first.into()),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u32::from(four).into(),
        IpAddr::V6(six) => six.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Result<MigrationNetwork, MigrationNetworkError> {
        text.parse()
    }

    #[test]
    fn an_address_is_in_a_network_that_begins_as_it_does() {
        for (text, inside, outside) in [
            ("10.88.0.0/24", "10.88.0.255", "10.88.1.0"),
            ("10.88.0.7/32", "10.88.0.7", "10.88.0.6"),
            ("128.0.0.0/1", "255.0.0.1", "127.0.0.1"),
            ("fd00:88::/64", "fd00:88::1:2", "fd00:89::1"),
            ("::/1", "::1", "0.0.0.1"),
        ] {
            let network = network(text).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{text}");
            assert!(!network.contains(outside.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in
            ["", "10.88.0.0", "10.88.0.0/", "10.88.0.0/+8", "10.88.0.0/0", "10.88.0.0/33", "x/24", "::/129"]
        {
            assert_eq!(network(wrong), Err(MigrationNetworkError::Form), "{wrong:?}");
        }
        for wrong in ["224.0.0.0/8", "ff00::/8", "fe80::/64"] {
            assert_eq!(network(wrong), Err(MigrationNetworkError::Kind), "{wrong:?}");
        }
        let said = |wrong: &str| network(wrong).unwrap_err().to_string();
        assert!(said("10.88.0.1/24").ends_with("say 10.88.0.0/24"), "{}", said("10.88.0.1/24"));
        assert!(said("fd00::1/64").ends_with("say fd00::/64"), "{}", said("fd00::1/64"));
    }
}
