//! What there is, for clients that ask first.

use std::{collections::BTreeSet, sync::Arc};

use objects::{Kind, Scope};
use serde_json::{Value, json};

use crate::ApiError;

/// The version of Kubernetes whose protocol this is.
const KUBERNETES: (&str, &str) = ("1", "33");

pub(crate) fn version() -> Value {
    let (major, minor) = KUBERNETES;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+whimbrel-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}

pub(crate) fn core_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
}

pub(crate) fn groups(kinds: &[Arc<Kind>]) -> Value {
    let groups: Vec<_> =
        named(kinds).into_iter().map(|(group, version)| group_entry(group, version)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

pub(crate) fn group(kinds: &[Arc<Kind>], name: &str) -> Result<Value, ApiError> {
    let found = named(kinds).into_iter().find(|(group, _)| *group == name);
    let (group, version) = found.ok_or_else(ApiError::no_page)?;
    let mut entry = group_entry(group, version);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Ok(entry)
}

/// Groups and versions but the core.
pub(crate) fn named(kinds: &[Arc<Kind>]) -> BTreeSet<(&str, &str)> {
    let all = kinds.iter().map(|kind| (kind.group.as_str(), kind.version.as_str()));
    all.filter(|(group, _)| !group.is_empty()).collect()
}

fn group_entry(group: &str, version: &str) -> Value {
    let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    json!({ "name": group, "versions": [version], "preferredVersion": version })
}

pub(crate) fn resources(kinds: &[Arc<Kind>], group: &str, version: &str) -> Result<Value, ApiError> {
    let of_it: Vec<_> = kinds.iter().filter(|kind| kind.group == group && kind.version == version).collect();
    let Some(first) = of_it.first() else { return Err(ApiError::no_page()) };
    let entries = of_it.iter().flat_map(|kind| {
        let names = &kind.names;
        let is_namespaced = kind.scope == Scope::Namespaced;
        let verbs: &[&str] = if kind.is_review {
            &["create"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        };
        let mut whole = json!({
            "name": names.plural, "singularName": names.singular, "namespaced": is_namespaced, "kind": names.kind,
            "verbs": verbs,
        });
        if !names.short.is_empty() {
            whole["shortNames"] = json!(names.short);
        }
        if !names.categories.is_empty() {
            whole["categories"] = json!(names.categories);
        }
        let status = (kind.has_status && !kind.is_review).then(|| {
            json!({
                "name": format!("{}/status", names.plural), "singularName": "", "namespaced": is_namespaced,
                "kind": names.kind, "verbs": ["get", "patch", "update"],
            })
        });
        let files = kind.files.iter().map(move |file| {
            json!({
                "name": format!("{}/{file}", names.plural), "singularName": "", "namespaced": is_namespaced,
                "kind": names.kind, "verbs": ["get"],
            })
        });
        std::iter::once(whole).chain(status).chain(files)
    });
    let entries: Vec<_> = entries.collect();
    Ok(
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(), "resources": entries }),
    )
}
