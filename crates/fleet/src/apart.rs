//! Which nodes are not on the network that migrations have to themselves, by what their agents say.

use std::fmt;

use k8s_openapi::api::core::v1::Node;
use objects::{MIGRATION_ADDRESS_ANNOTATION, MIGRATION_NETWORK_ANNOTATION};

use crate::world::name_of;

/// A node that machines neither come to nor go from, since it is not on the network of migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The node.
    node: String,
    /// The network, as the settings have it.
    network: String,
    /// Whether its agent has looked for an address in that network; until it says so nobody knows which one machines would come to.
    has_looked: bool,
}

impl Apart {
    /// That a node is not on the network, if there is one and it is not.
    pub(crate) fn of(node: &Node, network: Option<&str>) -> Option<Self> {
        let network = network?;
        let said = |name: &str| node.metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let has_looked = said(MIGRATION_NETWORK_ANNOTATION) == Some(network);
        let has_address = said(MIGRATION_ADDRESS_ANNOTATION).is_some_and(|address| !address.is_empty());
        (!has_looked || !has_address).then(|| Self {
            node: name_of(&node.metadata).to_owned(),
            network: network.to_owned(),
            has_looked,
        })
    }

    /// Why no machine comes there.
    pub(crate) fn as_target(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.said_of("it", f)
    }

    /// Why no machine goes from there.
    pub(crate) fn as_source(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.said_of(&format!("node {}, where the machine runs,", self.node), f)
    }

    fn said_of(&self, who: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.network;
        if self.has_looked {
            write!(f, "{who} has no address in the network of migrations {network}")
        } else {
            write!(f, "{who} has not said yet which address it has in the network of migrations {network}")
        }
    }
}
