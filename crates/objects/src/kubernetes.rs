//! Kinds that Kubernetes has and the fleet uses as they are, so that kubectl treats nodes as nodes and shows events.

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource};
use schemars::JsonSchema;

use crate::{Column, Kind, Names, Scope, schema::schema};

/// A kind of Kubernetes, as a kind of this fleet.
pub(crate) fn built_in<K>() -> Kind
where
    K: Resource + JsonSchema,
    K::Scope: Where,
{
    let plural = K::URL_PATH_SEGMENT;
    let (short, columns): (&[&str], Vec<Column>) = match plural {
        "nodes" => (
            &["no"],
            vec![
                column("Status", "string", ".status.conditions[?(@.type=='Ready')].reason", 0),
                column("Unschedulable", "boolean", ".spec.unschedulable", 0),
                column("Age", "date", ".metadata.creationTimestamp", 0),
                column("Version", "string", ".status.nodeInfo.kubeletVersion", 0),
                column("Internal-IP", "string", ".status.addresses[?(@.type=='InternalIP')].address", 1),
                column("Kernel-Version", "string", ".status.nodeInfo.kernelVersion", 1),
            ],
        ),
        "namespaces" => (
            &["ns"],
            vec![
                column("Status", "string", ".status.phase", 0),
                column("Age", "date", ".metadata.creationTimestamp", 0),
            ],
        ),
        "events" => (
            &["ev"],
            vec![
                column("Last Seen", "date", ".lastTimestamp", 0),
                column("Type", "string", ".type", 0),
                column("Reason", "string", ".reason", 0),
                column("Object", "string", ".involvedObject.name", 0),
                column("Message", "string", ".message", 0),
            ],
        ),
        "configmaps" => (&["cm"], vec![column("Age", "date", ".metadata.creationTimestamp", 0)]),
        "secrets" => (
            &[],
            vec![
                column("Type", "string", ".type", 0),
                column("Age", "date", ".metadata.creationTimestamp", 0),
            ],
        ),
        _ => (
            &[],
            vec![
                column("Holder", "string", ".spec.holderIdentity", 0),
                column("Age", "date", ".metadata.creationTimestamp", 0),
            ],
        ),
    };
    let names = Names {
        kind: K::KIND.to_owned(),
        plural: plural.to_owned(),
        singular: K::KIND.to_lowercase(),
        short: short.iter().map(|&name| name.to_owned()).collect(),
        categories: Vec::new(),
    };
    Kind::of_kubernetes(K::GROUP, names, K::Scope::SCOPE, columns, schema::<K>())
}

/// Where objects of a kind of Kubernetes live.
pub(crate) trait Where {
    /// In a namespace, or in the fleet.
    const SCOPE: Scope;
}

impl Where for ClusterResourceScope {
    const SCOPE: Scope = Scope::Cluster;
}

impl Where for NamespaceResourceScope {
    const SCOPE: Scope = Scope::Namespaced;
}

fn column(name: &str, kind: &str, path: &str, priority: i32) -> Column {
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        description: String::new(),
        priority,
        path: path.to_owned(),
    }
}
