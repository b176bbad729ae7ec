use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::{
    node,
    schema::metadata_schema,
    secret,
    validation::{self, Admit, Admitted, Review},
};

/// What a server must know of a kind to serve it.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its group; empty for the core of Kubernetes.
    pub group: String,
    /// Its version.
    pub version: String,
    /// What it is called.
    pub names: Names,
    /// Whether its objects live in namespaces.
    pub scope: Scope,
    /// Whether `status` is written through a resource of its own.
    pub has_status: bool,
    /// Whether clients that know it send strategic merge patches: so it is with the kinds of Kubernetes.
    pub is_built_in: bool,
    /// Whether it is a question, which is answered and not stored.
    pub is_review: bool,
    /// What the agents of nodes serve of its objects, by the names of subresources.
    pub files: &'static [&'static str],
    /// Whether those who operate machines write it, or administrators alone.
    pub is_operated: bool,
    /// Where an object says whose it is among the nodes: an agent writes the status of those that name its node.
    pub node_paths: &'static [&'static str],
    /// What a table shows beside the name.
    pub columns: Vec<Column>,
    /// The structural schema of the whole object.
    pub schema: Value,
    /// Which of its objects the agent of a node may read, where it may not read all.
    for_node: Option<ForNode>,
    /// Why an object cannot be deleted now, if so.
    kept: Option<Kept>,
    admit: Admit,
}

/// Why an object cannot be deleted, with the objects of a kind, by its plural, in a namespace, or in all where that is empty.
type Kept = fn(&Value, &dyn Fn(&str, &str) -> Vec<Value>) -> Option<String>;

/// Whether the agent of a node may read an object, with the objects of a kind, by its plural, in a namespace.
type ForNode = fn(&str, &Value, &dyn Fn(&str, &str) -> Vec<Value>) -> bool;

/// What a kind is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// As `VirtualMachine`.
    pub kind: String,
    /// As in addresses: `virtualmachines`.
    pub plural: String,
    /// As people write one: `virtualmachine`.
    pub singular: String,
    /// As people write it in a hurry: `vm`.
    pub short: Vec<String>,
    /// Groups of kinds, as `all`.
    pub categories: Vec<String>,
}

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the fleet.
    Cluster,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: String,
    /// What it is.
    pub description: String,
    /// 0: always shown; above: only in wide tables.
    pub priority: i32,
    /// Where the value is in the object, in the JSONPath of Kubernetes.
    pub path: String,
}

impl Kind {
    /// `whimbrel.dev/v1`; `v1` for the core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Checks an object that its schema has let through: what is wrong with it, and what is worth a warning. May fill in what
    /// depends on more than a schema can say.
    pub fn admit(&self, review: &mut Review<'_>) -> Admitted {
        (self.admit)(review)
    }

    /// Whether only those may read its objects who may write them, and agents those that their machines need.
    pub fn is_secret(&self) -> bool {
        self.for_node.is_some()
    }

    /// Whether the agent of a node may read an object. `others` has the objects of a kind, by its plural, in a namespace.
    pub fn is_for_node(&self, node: &str, object: &Value, others: &dyn Fn(&str, &str) -> Vec<Value>) -> bool {
        self.for_node.is_none_or(|is_for_node| is_for_node(node, object, others))
    }

    /// Why an object cannot be deleted now, in a sentence, if so. `others` has the objects of a kind, by its plural, in a namespace, or in all where
    /// that is empty.
    pub fn why_kept(&self, object: &Value, others: &dyn Fn(&str, &str) -> Vec<Value>) -> Option<String> {
        self.kept.and_then(|kept| kept(object, others))
    }

    /// One of Kubernetes that belongs to machines: those who operate them write it, and no agent does.
    pub(crate) fn of_machines(self) -> Self {
        self.operated(&[])
    }

    pub(crate) fn operated(mut self, node_paths: &'static [&'static str]) -> Self {
        self.is_operated = true;
        self.node_paths = node_paths;
        self
    }

    pub(crate) fn with_files(mut self, files: &'static [&'static str]) -> Self {
        self.files = files;
        self
    }

    pub(crate) fn review(mut self) -> Self {
        self.is_review = true;
        self
    }

    pub(crate) fn custom(crd: &CustomResourceDefinition, admit: Admit) -> Self {
        let version = crd.spec.versions.first();
        let columns = version.and_then(|version| version.additional_printer_columns.clone());
        let columns = columns.unwrap_or_default().into_iter().map(|column| Column {
            name: column.name,
            kind: column.type_,
            description: column.description.unwrap_or_default(),
            priority: column.priority.unwrap_or(0),
            path: column.json_path,
        });
        let schema = version.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
        let mut schema = schema.map_or_else(|| json!({}), |schema| json!(schema));
        let properties = &mut schema["properties"];
        properties["metadata"] = metadata_schema();
        properties["apiVersion"] =
            json!({ "type": "string", "description": "Group and version of the kind" });
        properties["kind"] = json!({ "type": "string", "description": "The kind" });
        let names = &crd.spec.names;
        Self {
            group: crd.spec.group.clone(),
            version: version.map(|version| version.name.clone()).unwrap_or_default(),
            names: Names {
                kind: names.kind.clone(),
                plural: names.plural.clone(),
                singular: names.singular.clone().unwrap_or_default(),
                short: names.short_names.clone().unwrap_or_default(),
                categories: names.categories.clone().unwrap_or_default(),
            },
            scope: if crd.spec.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
            has_status: version.is_some_and(|version| version.subresources.is_some()),
            is_built_in: false,
            is_review: false,
            files: &[],
            is_operated: false,
            node_paths: &[],
            columns: columns.collect(),
            schema,
            for_node: None,
            kept: None,
            admit,
        }
    }

    pub(crate) fn of_kubernetes(
        group: &str,
        names: Names,
        scope: Scope,
        columns: Vec<Column>,
        schema: Value,
    ) -> Self {
        Self {
            group: group.to_owned(),
            version: "v1".to_owned(),
            has_status: names.kind == "Node" || names.kind == "Namespace",
            admit: match names.kind.as_str() {
                "Namespace" => validation::namespace,
                "ConfigMap" => secret::config_map,
                "Secret" => secret::secret,
                _ => validation::anything,
            },
            kept: (names.kind == "Node").then_some(node::why_kept),
            for_node: (names.kind == "Secret").then_some(secret::is_for_node),
            names,
            scope,
            is_built_in: true,
            is_review: false,
            files: &[],
            is_operated: false,
            // The agent of a node writes what has the node's name: its Node, its Lease.
            node_paths: &[".metadata.name"],
            columns,
            schema,
        }
    }
}
