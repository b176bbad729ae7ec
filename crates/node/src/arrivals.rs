//! The address at which machines come to this node: on a network of their own, where the settings of the fleet or the person at this host say so.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use objects::{Fleet, MigrationNetwork, SETTINGS_NAME};
use serde_json::{Value, json};

use crate::Config;

/// How often it is looked at which addresses this host has.
const LOOK: Duration = Duration::from_secs(10);
/// The condition of a Node to which no machine comes.
const CONDITION: &str = "MigrationNetworkUnavailable";

/// Where machines come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The network of migrations, as the settings have it.
    pub(crate) network: Option<String>,
    /// The address, or why there is none.
    pub(crate) address: Result<IpAddr, String>,
}

/// Where machines come to, kept up to date.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// What the person at this host has said, which counts for more than the settings.
    said: Option<IpAddr>,
    /// The address of the node.
    address: IpAddr,
    looked: Option<Instant>,
    found: Arrival,
}

impl Arrivals {
    pub(crate) fn new(config: &Config) -> Self {
        let (said, address) = (config.migration_address, config.address);
        Self { said, address, looked: None, found: Arrival::without_network(config) }
    }

    /// Looks where machines come to by those settings, if these or the addresses of this host may have changed.
    pub(crate) fn look(&mut self, fleets: &[Arc<Fleet>]) -> &Arrival {
        let settings = fleets.iter().find(|fleet| fleet.metadata.name.as_deref() == Some(SETTINGS_NAME));
        let network = settings.and_then(|fleet| fleet.spec.configuration.migrations.network.as_deref());
        let is_old = self.looked.is_none_or(|looked| looked.elapsed() >= LOOK);
        if is_old || network != self.found.network.as_deref() {
            self.looked = Some(Instant::now());
            let address = choose(self.said, self.address, network, host_addresses);
            self.found = Arrival { network: network.map(str::to_owned), address };
        }
        &self.found
    }
}

impl Arrival {
    /// Where machines come to as long as nothing is known of a network of migrations.
    pub(crate) fn without_network(config: &Config) -> Self {
        Self { network: None, address: Ok(config.migration_address.unwrap_or(config.address)) }
    }

    /// The condition of the Node that says whether there is one.
    pub(crate) fn condition(&self) -> Value {
        let (status, reason, message) = match &self.address {
            Ok(address) => ("False", "HasAddress", format!("Machines come to this node at {address}")),
            Err(why) => {
                ("True", "NoAddress", format!("No machine comes to this node or goes from it. {why}"))
            }
        };
        json!({ "type": CONDITION, "status": status, "reason": reason, "message": message })
    }
}

/// The address that the person at this host has said; or else the first in the network of migrations, where there is one, and that of the node before
/// others.
fn choose(
    said: Option<IpAddr>,
    own: IpAddr,
    network: Option<&str>,
    others: impl FnOnce() -> Result<Vec<IpAddr>, String>,
) -> Result<IpAddr, String> {
    let Some(network) = network.filter(|_| said.is_none()) else { return Ok(said.unwrap_or(own)) };
    let prefix: MigrationNetwork =
        network.parse().map_err(|wrong| format!("The network of migrations in the settings {wrong}"))?;
    if prefix.contains(own) {
        return Ok(own);
    }
    others()?.into_iter().find(|address| prefix.contains(*address)).ok_or_else(|| {
        format!(
            "This host has no address in the network of migrations {network}: give it one, or say another with --migration-address to its agent"
        )
    })
}

/// The addresses of the network cards of this host that are up.
fn host_addresses() -> Result<Vec<IpAddr>, String> {
    let cards =
        getifaddrs().map_err(|errno| format!("The addresses of this host cannot be read: {errno}"))?;
    let up = cards.filter(|card| card.flags.contains(InterfaceFlags::IFF_UP));
    let addresses = up.filter_map(|card| {
        let address = card.address?;
        let four = address.as_sockaddr_in().map(|four| SocketAddr::V4((*four).into()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| SocketAddr::V6((*six).into())))
    });
    Ok(addresses.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn chosen(said: Option<&str>, network: Option<&str>, others: &[&str]) -> Result<String, String> {
        let others = || Ok(others.iter().map(|other| address(other)).collect());
        choose(said.map(address), address("10.0.0.1"), network, others).map(|found| found.to_string())
    }

    #[test]
    fn machines_come_to_the_address_in_the_network_unless_somebody_has_said_another() {
        let others = ["127.0.0.1", "fd00:88::5", "10.88.0.5", "10.88.0.6"];
        let chosen = |said, network| chosen(said, network, &others).unwrap();
        assert_eq!(chosen(None, None), "10.0.0.1");
        assert_eq!(chosen(None, Some("10.88.0.0/24")), "10.88.0.5");
        assert_eq!(chosen(None, Some("fd00:88::/64")), "fd00:88::5");
        assert_eq!(chosen(None, Some("10.0.0.0/8")), "10.0.0.1", "its own before others");
        assert_eq!(chosen(Some("10.99.0.1"), Some("10.88.0.0/24")), "10.99.0.1");
    }

    #[test]
    fn without_an_address_there_is_a_reason() {
        let why = chosen(None, Some("10.88.0.0/24"), &["127.0.0.1", "10.89.0.1"]).unwrap_err();
        assert!(why.contains("no address in the network of migrations 10.88.0.0/24"), "{why}");
        let why = chosen(None, Some("10.88.0.0"), &[]).unwrap_err();
        assert!(why.contains("must be a network"), "{why}");
        let condition = Arrival { network: None, address: Err(why) }.condition();
        assert_eq!((&condition["type"], &condition["status"]), (&CONDITION.into(), &"True".into()));
    }

    #[test]
    fn this_host_has_addresses() {
        let found = host_addresses().unwrap();
        assert!(found.contains(&address("127.0.0.1")), "{found:?}");
    }
}
