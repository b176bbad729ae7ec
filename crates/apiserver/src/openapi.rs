//! Schemas of the kinds as OpenAPI v3: what `kubectl explain` reads, and how `kubectl apply` learns that the server checks fields.

use std::sync::Arc;

use objects::{Kind, Scope};
use serde_json::{Map, Value, json};

use crate::{ApiError, discovery};

/// Where the schemas of each group and version are.
pub(crate) fn index(kinds: &[Arc<Kind>]) -> Value {
    let mut paths = Map::new();
    paths.insert("api/v1".to_owned(), json!({ "serverRelativeURL": "/openapi/v3/api/v1" }));
    for (group, version) in discovery::named(kinds) {
        let path = format!("apis/{group}/{version}");
        let address = format!("/openapi/v3/{path}");
        paths.insert(path, json!({ "serverRelativeURL": address }));
    }
    json!({ "paths": paths })
}

/// The schemas of a group and version.
pub(crate) fn document(kinds: &[Arc<Kind>], group: &str, version: &str) -> Result<Value, ApiError> {
    let of_it: Vec<_> = kinds.iter().filter(|kind| kind.group == group && kind.version == version).collect();
    if of_it.is_empty() {
        return Err(ApiError::no_page());
    }
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in of_it {
        let name = schema_name(kind);
        let mut schema = kind.schema.clone();
        schema["x-kubernetes-group-version-kind"] = json!([identity(kind)]);
        schemas.insert(name.clone(), schema);
        add_paths(kind, &name, &mut paths);
    }
    Ok(json!({
        "openapi": "3.0.0", "info": { "title": "Whimbrel", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths, "components": { "schemas": schemas },
    }))
}

fn add_paths(kind: &Kind, schema: &str, paths: &mut Map<String, Value>) {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let namespace = if kind.scope == Scope::Namespaced { "/namespaces/{namespace}" } else { "" };
    let list = format!("{root}/{}{namespace}/{}", kind.version, kind.names.plural);
    let operation = |action: &str, parameters: &[&str]| {
        let parameters: Vec<_> = parameters
            .iter()
            .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }))
            .collect();
        let content =
            json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } });
        json!({
            "operationId": format!("{action}{}", kind.names.kind), "parameters": parameters,
            "responses": { "200": { "description": "OK", "content": content } },
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": identity(kind),
        })
    };
    let writing = ["dryRun", "fieldManager", "fieldValidation"];
    paths.insert(
        format!("{list}/{{name}}"),
        json!({
            "get": operation("get", &[]),
            "put": operation("put", &writing),
            "patch": operation("patch", &writing),
            "delete": operation("delete", &["dryRun"]),
        }),
    );
    paths.insert(
        list,
        json!({
            "get": operation("list", &["labelSelector", "fieldSelector", "limit", "continue", "watch"]),
            "post": operation("post", &writing),
        }),
    );
}

fn identity(kind: &Kind) -> Value {
    json!({ "group": kind.group, "version": kind.version, "kind": kind.names.kind })
}

fn schema_name(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { &kind.group };
    let reversed: Vec<_> = group.split('.').rev().collect();
    format!("{}.{}.{}", reversed.join("."), kind.version, kind.names.kind)
}
