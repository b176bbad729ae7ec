//! What must be behind the devices of a machine on its node: bridges and disks, by what the node's agent says of them.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::Node;
use objects::{BRIDGE_LABEL, DISKS_ANNOTATION, VirtualMachineInstance, disk_places};

/// What a node lacks behind a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// A bridge.
    Bridge(String),
    /// A path of a disk or of a kernel.
    Path(String),
    /// Its agent has not looked for that path yet.
    Unseen(String),
    /// Its agent is of a release that makes no network cards and no settings for cloud-init.
    Agent,
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge(name) => write!(f, "it has no bridge {name}"),
            Self::Path(path) => write!(f, "it has no {path}, or its storage does not reply"),
            Self::Unseen(path) => write!(f, "its agent has not looked for {path} yet"),
            Self::Agent => f.write_str("its agent is of a release without network cards and cloud-init"),
        }
    }
}

/// All that a node lacks for a machine. Of disks a node whose agent says nothing has all: it is of an earlier release.
pub(crate) fn absent<'a>(
    instance: &'a VirtualMachineInstance,
    node: &'a Node,
    places: Option<&'a BTreeMap<String, bool>>,
) -> impl Iterator<Item = Absent> + 'a {
    let spec = &instance.spec;
    let is_new =
        !spec.networks.is_empty() || spec.volumes.iter().any(|volume| volume.cloud_init_no_cloud.is_some());
    let agent = (is_new && places.is_none()).then_some(Absent::Agent);
    let bridges = spec.networks.iter().filter_map(|network| Some(&network.host_bridge.as_ref()?.bridge_name));
    let bridges = bridges.filter(move |name| places.is_some() && !has_bridge(node, name));
    let paths = places.into_iter().flat_map(move |known| {
        disk_places(instance).into_iter().filter_map(move |path| match known.get(path) {
            Some(true) => None,
            Some(false) => Some(Absent::Path(path.to_owned())),
            None => Some(Absent::Unseen(path.to_owned())),
        })
    });
    agent.into_iter().chain(bridges.map(|name| Absent::Bridge(name.clone()))).chain(paths)
}

fn has_bridge(node: &Node, name: &str) -> bool {
    let label = format!("{BRIDGE_LABEL}{name}");
    node.metadata.labels.as_ref().and_then(|labels| labels.get(&label)).is_some_and(|value| value == "true")
}

/// What an agent says of paths. What cannot be read says nothing.
pub(crate) fn places(node: &Node) -> Option<BTreeMap<String, bool>> {
    let said = node.metadata.annotations.as_ref()?.get(DISKS_ANNOTATION)?;
    serde_json::from_str(said).ok()
}
